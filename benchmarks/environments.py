"""Measure the cost of an environment's answers and copies, in milliseconds, along the expert's path.

    python benchmarks/environments.py bfcl babyai
    python benchmarks/environments.py 'textworld?games=games' --split train --split valid --split test

The expert plays the first tasks of a split. Before every step, every method that a stage may call is called, and the
state is copied in every way that the environment has. os.fork: a child process that ends at once, and is waited for;
its cost depends on the memory of the process, which `rollout` holds in worker processes. benchmarks/rollout.py measures
whole branches.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections import defaultdict
from collections.abc import Callable
from itertools import chain, islice
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from eexp.envs import Environment, open_env


class Clock:
    """Milliseconds, by the name of what was timed."""

    def __init__(self) -> None:
        self.took: dict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        began = perf_counter()
        answer = function(*args)
        self.took[name].append(1000 * (perf_counter() - began))
        return answer

    def show(self) -> None:
        for name, milliseconds in self.took.items():
            ninth = quantiles(milliseconds, n=10)[-1] if len(milliseconds) > 1 else milliseconds[0]
            print(f"  {name:12} median {median(milliseconds):8.3f}   90th percentile {ninth:8.3f}")


def play(env: Environment, task: dict, clock: Clock) -> bool:
    """Play a task with the expert; return whether it succeeded."""
    observation, path = clock("reset", env.reset, task), []
    while not observation.done and len(path) < env.max_steps and (action := clock("expert", env.expert)) is not None:
        clock("admissible", env.admissible)
        if env.has("fork"):
            clock("fork", lambda: env.fork().close())
        if env.has("save"):
            clock("restore", env.restore, clock("save", env.save))
        observation = clock("step", env.step, action)
        path.append(action)
    if env.in_process:  # on a second walk, since a process that has just been forked is slower for a while
        env.reset(task)
        for action in path:
            clock("os.fork", fork_process)
            env.step(action)
    return observation.success is True


def fork_process() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("specs", nargs="+", metavar="ENV")
    parser.add_argument("--split", action="append", metavar="NAME", help="may be repeated (default: the first)")
    parser.add_argument("--tasks", type=int, default=60, metavar="N", help="tasks of each split (default 60)")
    chosen = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    for spec in chosen.specs:
        clock = Clock()
        with open_env(spec) as env:
            tasks = (islice(env.tasks(split), chosen.tasks) for split in chosen.split or env.splits()[:1])
            won = [play(env, task, clock) for task in chain.from_iterable(tasks)]
        print(f"{spec}: {sum(won)} of {len(won)} tasks succeeded, {len(clock.took['step'])} steps")
        clock.show()


if __name__ == "__main__":
    main()
