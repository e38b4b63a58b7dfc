"""What the calls of an environment cost, and whether forks see what replays see.

    python benchmarks/environments.py bfcl babyai [--tasks N]

The first N tasks of the first split are played by the expert. At every step everything that a stage may ask is timed,
and in a fork one action is executed (an admissible one where they are listed, else the expert's action three tasks
later), then again after a replay of the way there. With forks left out a branch costs its replay: the last line.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import time
from collections import defaultdict
from itertools import islice

from eexp.envs import Environment, open_env


class Clock:
    """Milliseconds by what was timed."""

    def __init__(self) -> None:
        self.took: dict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str, function, *args):
        began = time.perf_counter()
        answer = function(*args)
        self.took[name].append(1000 * (time.perf_counter() - began))
        return answer

    def show(self) -> None:
        for name, found in self.took.items():
            tenths = statistics.quantiles(found, n=10) if len(found) > 1 else found * 9
            print(f"  {name:12} median {statistics.median(found):8.3f} ms   90th percentile {tenths[8]:8.3f} ms")


def ways(env: Environment, tasks: list[dict]) -> list[list[str]]:
    """The expert's actions in every task."""
    found = []
    for task in tasks:
        seen, actions = env.reset(task), []
        while not seen.done and (action := env.expert()) is not None:
            actions.append(action)
            seen = env.step(action)
        found.append(actions)
    return found


def measure(spec: str, number: int) -> None:
    clock, draw, same, branches, steps = Clock(), random.Random(0), 0, 0, 0
    with open_env(spec) as env, open_env(spec) as other:
        tasks = list(islice(env.tasks(env.splits()[0]), number))
        actions = ways(env, tasks)
        for i, task in enumerate(tasks):
            clock("reset", env.reset, task)
            for n, action in enumerate(actions[i]):
                steps += 1
                clock("expert", env.expert)
                listed = clock("admissible", env.admissible)
                chosen = draw.choice(listed or actions[(i + 3) % len(tasks)])
                fork = clock("fork", env.fork)
                seen = fork.step(chosen)

                def replay(task=task, way=actions[i][:n]):
                    other.reset(task)
                    for earlier in way:
                        other.step(earlier)

                clock("replay", replay)
                same, branches = same + (other.step(chosen) == seen), branches + 1
                clock("step", env.step, action)
    print(f"{spec}: {len(tasks)} tasks, {steps} steps; {same} of {branches} forks saw what a replay saw")
    clock.show()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="+", metavar="SPEC")
    parser.add_argument("--tasks", type=int, default=60, help="how many tasks of each")
    args = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    for spec in args.specs:
        measure(spec, args.tasks)


if __name__ == "__main__":
    main()
