"""What an environment's questions and copies cost, in milliseconds, along the expert's way through all of its tasks.

    python recipes/textworld/make_games.py games
    python benchmarks/environment_times.py 'textworld?games=games'

os.fork: a child that ends at once, and is waited for. replay: from the beginning to the last state before the end.
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

from eexp.envs import open_env
from eexp.envs.base import Environment

times: dict[str, list[float]] = defaultdict(list)


def timed(name: str, call: Callable[..., Any], *args: Any) -> Any:
    began = time.perf_counter()
    answer = call(*args)
    times[name].append(1000 * (time.perf_counter() - began))
    return answer


def fork_process() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def play(env: Environment, task: dict) -> bool:
    seen, path = timed("reset", env.reset, task), []
    while not seen.done and len(path) < env.max_steps and (action := timed("expert", env.expert)):
        timed("admissible", env.admissible)
        if env.has("fork"):
            timed("fork", env.fork).close()
        if env.has("save"):
            timed("restore", env.restore, timed("save", env.save))
        if env.in_process:
            timed("os.fork", fork_process)
        seen = timed("step", env.step, action)
        path.append(action)
    timed("replay", replay, env, task, path[:-1])
    return seen.success is True


def replay(env: Environment, task: dict, path: list[str]) -> None:
    env.reset(task)
    for action in path:
        env.step(action)


def main() -> None:
    with open_env(sys.argv[1]) as env:
        won = [play(env, task) for split in env.splits() for task in env.tasks(split)]
    print(f"{sum(won)} of {len(won)} tasks succeeded, {len(times['step'])} steps")
    print(f"{'':12}{'median':>8}{'90 %':>8}")
    for name, taken in times.items():
        print(f"{name:12}{median(taken):8.2f}{quantiles(taken, n=10)[-1]:8.2f}")


if __name__ == "__main__":
    main()
