"""Measure a branch on a server of OpenEnv, by replay and by `save` and `restore`, on the same paths in one run.

    python benchmarks/openenv_states.py

The server is examples/openenv_states.py, in a process of its own. Its steps cost next to nothing, so what is measured
are messages: a branch by replay is a `reset` and the steps of its path; one by state is a step and a `restore`, with
one `save` and one `release` for all alternatives of a state. Both ways execute the same alternatives in turns, and
their outcomes are compared. How many times as fast it is, is the median over the paths.
"""

from __future__ import annotations

import argparse
import platform
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from eexp.acting.execution import execute
from eexp.envs import Environment, open_env
from eexp.errors import EexpError

SERVER = Path(__file__).parents[1] / "examples" / "openenv_states.py"
LENGTHS = (5, 10, 20, 40)
WAYS = ("replay", "state")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="paths of each length (default 10)")
    parser.add_argument("-k", type=int, default=3, metavar="K", help="alternatives at each state (default 3)")
    chosen = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, str(SERVER), str(port)])
    try:
        with wait_for(f"openenv:http://127.0.0.1:{port}") as env:
            print(f"{platform.platform()}, Python {platform.python_version()}")
            print(f"{'steps':>6}{'branches':>9}{'replay ms':>11}{'state ms':>10}{'faster':>8}   (ms of a branch)")
            for length in LENGTHS:
                measure(env, length, chosen.rounds, chosen.k)
    finally:
        server.terminate()
        server.wait()


def wait_for(spec: str) -> Environment:
    """Return the environment as soon as its server answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return open_env(spec)
        except EexpError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def measure(env: Environment, length: int, rounds: int, k: int) -> None:
    """Print a row: milliseconds of a branch on paths of this length by both ways."""
    milliseconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(rounds):
        path, results = random_path(env, seed, length, k), []
        for way in WAYS if seed % 2 else WAYS[::-1]:
            began = time.perf_counter()
            executed = execute(env, path, way)
            milliseconds[way].append(1000 * (time.perf_counter() - began) / (length * k))
            assert not executed.refused, executed.refused
            results.append(executed.trajectory)
        assert results[0] == results[1], "a restored state and a replay differ"
    replay, state = (median(milliseconds[way]) for way in WAYS)
    faster = median(a / b for a, b in zip(*milliseconds.values(), strict=True))
    print(f"{length:6}{length * k:9}{replay:11.2f}{state:10.2f}{faster:8.1f}")


def random_path(env: Environment, seed: int, length: int, k: int) -> dict:
    """Return a path of random actions with k random alternatives at each state."""
    rng, task, steps = random.Random(seed), {"id": f"seed/{seed}", "split": "train", "seed": seed}, []
    observation = env.reset(task)
    for _ in range(length):
        listed = env.admissible() or []
        action, *others = (rng.choice(listed) for _ in range(k + 1))
        alternatives = [{"action": other, "source": "admissible", "outcome": None} for other in others]
        steps.append(
            {"observation": observation.text, "action": action, "admissible": listed, "alternatives": alternatives}
        )
        observation = env.step(action)
    return {"id": task["id"], "task": task, "steps": steps, "outcome": observation.outcome()}


if __name__ == "__main__":
    main()
