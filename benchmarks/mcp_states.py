"""Measure a branch on a server of MCP, by replay and by copies of its directory, on the same demonstrations.

    python benchmarks/mcp_states.py 'mcp:mcp-server-filesystem {dir}?tasks=examples/mcp_files.jsonl'

Every step of every demonstration gets alternatives from the other demonstrations. They are executed with each value of
the option `state`, in turns, and their outcomes have to be the same. Times are means over all alternatives, the path
included, but not the import of the package.
"""

from __future__ import annotations

import argparse
import platform
import random
import time
from collections import defaultdict
from itertools import islice

from eexp.acting.execution import execute
from eexp.envs import Environment, open_env
from eexp.errors import EexpError

STATES = ("server", "files", "stateless")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("spec", help="the environment, without the option state")
    parser.add_argument("-n", type=int, default=10, metavar="N", help="demonstrations (default 10)")
    parser.add_argument("-k", type=int, default=2, metavar="K", help="alternatives at each step (default 2)")
    chosen = parser.parse_args()
    environments = {state: open_env(f"{chosen.spec}&state={state}") for state in STATES}
    seconds: dict[str, float] = defaultdict(float)
    number = 0
    try:
        trajectories = [demonstration(environments["stateless"], n) for n in range(chosen.n)]
        add_alternatives(trajectories, chosen.k)
        for env in environments.values():
            env.reset(trajectories[0]["task"])  # imports the package
        for trajectory in trajectories:
            outcomes = {}
            for state, env in environments.items():
                began = time.perf_counter()
                executed = execute(env, trajectory, "replay" if state == "server" else "state", lambda *_: None)
                seconds[state] += time.perf_counter() - began
                if executed.refused:
                    raise EexpError(f"{state}: refused: {executed.refused[0]}")
                outcomes[state] = executed.trajectory["steps"]
            if not outcomes["server"] == outcomes["files"] == outcomes["stateless"]:
                raise EexpError(f"task {trajectory['task']['id']}: the outcomes are not the same")
            number += chosen.k * len(trajectory["steps"])
    finally:
        for env in environments.values():
            env.close()
    print(f"{number} alternatives, {platform.machine()}, the same outcomes in all")
    for state in STATES:
        print(f"{state:10} {1000 * seconds[state] / number:7.1f} ms a branch")


def demonstration(env: Environment, n: int) -> dict:
    """Return the demonstration of the nth task of the first split as a trajectory."""
    task = next(islice(env.list_tasks(env.splits()[0]), n, None))
    observation, steps = env.reset(task), []
    while not observation.done and (action := env.expert()) is not None:
        steps.append({"observation": observation.text, "action": action})
        observation = env.step(action)
    return {"env": env.spec, "task": task, "steps": steps, "outcome": observation.outcome()}


def add_alternatives(trajectories: list[dict], k: int) -> None:
    """Give every step k actions of the demonstrations that are not its own."""
    actions = sorted({step["action"] for trajectory in trajectories for step in trajectory["steps"]})
    rng = random.Random(0)
    for trajectory in trajectories:
        for step in trajectory["steps"]:
            others = [action for action in actions if action != step["action"]]
            step["alternatives"] = [{"action": action} for action in rng.sample(others, k)]


if __name__ == "__main__":
    main()
