"""Measure what a step and a reset of ALFWorld cost in the package itself and in eexp, on the same walks in one run.

    python recipes/alfworld/make_games.py data --large && python benchmarks/alfworld_games.py data

Random admissible commands are given to both, in turns, and their answers and lists are compared. `load` reads a game,
`again` resets the game that is loaded, as a replay does, and `step` brings the list of admissible commands with it.
"""

from __future__ import annotations

import argparse
import platform
import random
from pathlib import Path
from statistics import median, quantiles

from environments import Clock

from eexp.envs.worlds import alfworld


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, metavar="DIR", help="where the games are")
    parser.add_argument("--steps", type=int, default=25, metavar="N", help="of a walk, two in each game (default 25)")
    chosen = parser.parse_args()
    alfworld._check_installed(chosen.data)
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.core import EnvInfos
    from textworld.envs.pddl import PddlEnv

    envs = {
        "package": AlfredDemangler(PddlEnv(EnvInfos(admissible_commands=True))),
        "eexp": alfworld._environment(plans=False),
    }
    clock, rng, steps = Clock(), random.Random(0), 0
    for file in sorted(chosen.data.rglob("game.tw-pddl")):
        for name, env in envs.items():
            clock(f"load {name}", env.load, str(file))
        for _ in range(2):
            states = [clock(f"again {name}", env.reset) for name, env in envs.items()]
            for _ in range(chosen.steps):
                command = rng.choice(states[0]["admissible_commands"])
                states = [clock(f"step {name}", env.step, command)[0] for name, env in envs.items()]
                texts = [(state.feedback, state["won"], state["admissible_commands"]) for state in states]
                assert texts[0] == texts[1], (file, command)
                steps += 1
    print(f"{platform.platform()}, Python {platform.python_version()}: {steps} steps, all equal")
    print(f"{'':8}{'package ms':>12}{'90th':>9}{'eexp ms':>10}{'90th':>9}{'times as fast':>15}")
    for what in ("load", "again", "step"):
        theirs, ours = clock.took[f"{what} package"], clock.took[f"{what} eexp"]
        cells = [median(theirs), quantiles(theirs, n=10)[-1], median(ours), quantiles(ours, n=10)[-1]]
        print(f"{what:8}{cells[0]:12.2f}{cells[1]:9.2f}{cells[2]:10.2f}{cells[3]:9.2f}{cells[0] / cells[2]:15.1f}")


if __name__ == "__main__":
    main()
