"""Measure what a step and a reset of TextWorld cost in the package itself and in eexp, on the same walks in one run.

    python recipes/textworld/make_games.py games && python benchmarks/textworld_games.py games

Random admissible commands are given to both, in turns, and their answers and lists are compared. The package derives
the list of admissible commands and what would win at every step. eexp does where it is asked: not after the action of a
branch, the list at every step of a path, and what would win where the expert has left the walkthrough. `load` loads a
game and begins it, `again` begins the game that is loaded. The last column compares the means.
"""

from __future__ import annotations

import argparse
import platform
import random
import warnings
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

from environments import Clock

from eexp.envs.worlds.textworld import TextWorld


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("games", type=Path, metavar="DIR", help="where the games are")
    parser.add_argument("--steps", type=int, default=25, metavar="N", help="of a walk, two in each game (default 25)")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")  # jericho warns of any game but old classics
    from textworld.core import EnvInfos
    from textworld.generator.game import Game
    from textworld.helpers import start

    infos = EnvInfos(admissible_commands=True, policy_commands=True)
    clock, rng, steps = Clock(), random.Random(0), 0
    env = TextWorld(str(chosen.games))

    def load(file: Path) -> Any:
        package = start(str(file), infos)
        package.seed(1)
        package.reset()
        return package

    for task in [task for split in env.splits() for task in env.tasks(split)]:
        file = chosen.games / task["split"] / task["game"]
        Game.load(str(file.with_suffix(".json")))  # the package parses the rules of a kind of game once in a process
        package = clock("load package", load, file)
        clock("load eexp", env.reset, task)
        for _ in range(2):
            state = clock("again package", package.reset)
            clock("again eexp", env.reset, task)
            for _ in range(chosen.steps):
                command = rng.choice(state["admissible_commands"])
                state = clock("step package", package.step, command)[0]
                clock("step eexp", env.step, command)
                listed = clock("list", lambda: env._game.situation.commands)
                policy = clock("policy", lambda: env._game.situation.policy)
                assert (listed, policy) == (state["admissible_commands"], state["policy_commands"]), (task, command)
                assert (env._now["raw"], env._now["score"]) == (state["raw"], state["score"]), (task, command)
                steps += 1
                if state["won"] or state["lost"]:
                    break
    took = clock.took
    with_list = [sum(parts) for parts in zip(took["step eexp"], took["list"])]
    with_policy = [sum(parts) for parts in zip(with_list, took["policy"])]
    print(f"{platform.platform()}, Python {platform.python_version()}: {steps} steps, all equal")
    print(f"{'':34}{'package ms':>12}{'90th':>9}{'eexp ms':>10}{'90th':>9}{'times as fast':>15}")
    for what, theirs, ours in (
        ("load", took["load package"], took["load eexp"]),
        ("again", took["again package"], took["again eexp"]),
        ("step", took["step package"], took["step eexp"]),
        ("step, with the list", took["step package"], with_list),
        ("step, with the list and the policy", took["step package"], with_policy),
    ):
        cells = [median(theirs), quantiles(theirs, n=10)[-1], median(ours), quantiles(ours, n=10)[-1]]
        print(
            f"{what:34}{cells[0]:12.2f}{cells[1]:9.2f}{cells[2]:10.2f}{cells[3]:9.2f}{mean(theirs) / mean(ours):15.1f}"
        )


if __name__ == "__main__":
    main()
