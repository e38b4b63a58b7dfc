"""Count the test tasks of BabyAI levels that have the same world and mission as a training task.

    python benchmarks/babyai_splits.py [LEVEL...] [--train N] [--test N]

Seeds differ between the splits, and small levels have few worlds.
"""

from __future__ import annotations

import argparse
from itertools import islice

from eexp.envs import open_env
from eexp.envs.worlds.babyai import DEFAULT_LEVELS, BabyAI


def begins(env: BabyAI, task: dict) -> tuple:
    """Return the whole initial state of a task."""
    env.reset(task)
    world = env._world
    return world.grid.encode().tobytes(), tuple(map(int, world.agent_pos)), int(world.agent_dir), world.mission


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("levels", nargs="*", default=DEFAULT_LEVELS.split(","), metavar="LEVEL")
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--test", type=int, default=1_000)
    args = parser.parse_args()
    for level in args.levels:
        with open_env(f"babyai?level={level}") as env:
            assert isinstance(env, BabyAI)
            train = {begins(env, task) for task in islice(env.tasks("train"), args.train)}
            test = [begins(env, task) in train for task in islice(env.tasks("test"), args.test)]
        print(
            f"{level}: {len(train)} of {args.train} training tasks differ; {sum(test)} of {len(test)} test tasks are "
            f"among them",
            flush=True,
        )


if __name__ == "__main__":
    main()
