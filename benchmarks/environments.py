"""What an environment's answers and copies cost, in milliseconds, along the expert's way.

    python benchmarks/environments.py bfcl babyai
    python benchmarks/environments.py 'textworld?games=games' --tasks 10

The first tasks of the first split are played by the expert. Before every step all is asked that a stage may ask, and
the state is copied in every way there is. os.fork: a child that ends at once, and is waited for; it depends on how much
memory the process holds, which `rollout` has in workers of their own. benchmarks/rollout.py measures whole branches.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from eexp.envs import Environment, open_env


class Clock:
    """Milliseconds by what was timed."""

    def __init__(self) -> None:
        self.took: dict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        began = perf_counter()
        answer = function(*args)
        self.took[name].append(1000 * (perf_counter() - began))
        return answer

    def show(self) -> None:
        for name, found in self.took.items():
            ninth = quantiles(found, n=10)[-1] if len(found) > 1 else found[0]
            print(f"  {name:12} median {median(found):8.3f}   90th percentile {ninth:8.3f}")


def fork_process() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def play(env: Environment, task: dict, clock: Clock) -> bool:
    """Whether the expert succeeded."""
    seen, steps = clock("reset", env.reset, task), 0
    while not seen.done and steps < env.max_steps and (action := clock("expert", env.expert)) is not None:
        clock("admissible", env.admissible)
        if type(env).fork is not Environment.fork:
            clock("fork", lambda: env.fork().close())
        if type(env).save is not Environment.save:
            clock("restore", env.restore, clock("save", env.save))
        if env.in_process:
            clock("os.fork", fork_process)
        seen, steps = clock("step", env.step, action), steps + 1
    return seen.success is True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("specs", nargs="+", metavar="ENV")
    parser.add_argument("--tasks", type=int, default=60, metavar="N", help="how many of each (default 60)")
    chosen = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    for spec in chosen.specs:
        clock = Clock()
        with open_env(spec) as env:
            won = [play(env, task, clock) for task in islice(env.tasks(env.splits()[0]), chosen.tasks)]
        print(f"{spec}: {sum(won)} of {len(won)} tasks succeeded, {len(clock.took['step'])} steps")
        clock.show()


if __name__ == "__main__":
    main()
