"""Check that a replay in ScienceWorld observes what was recorded, and measure its cost.

    python benchmarks/scienceworld_replay.py [--each 3] [--plain] [--disturb] [--package]

Plays the simulator's own solution of some variations of every kind of task, then replays them in a second JVM in
another order, with the admissible actions listed at every step. Two options take away what makes that work: --plain,
the JVM's equal hash codes; --disturb, restoring the random numbers after `admissible`. --package times the package's
own Python class as well. Times are medians in milliseconds (90th percentile).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import defaultdict
from contextlib import nullcontext

from eexp.envs.worlds import scienceworld
from eexp.envs.worlds.scienceworld import ScienceWorld

TIMES: dict[str, list[float]] = defaultdict(list)


def timed(name, function, *args):
    began = time.perf_counter()
    result = function(*args)
    TIMES[name].append(1000 * (time.perf_counter() - began))
    return result


def demonstrate(env, tasks):
    """Return the actions, the observations and the last state of the expert's path through every task."""
    played = []
    for task in tasks:
        observations, actions, last = [timed("reset", env.reset, task).text], [], None
        timed("find the expert's way", env.expert)
        while action := env.expert():
            last = timed("step", env.step, action)
            actions.append(action)
            observations.append(last.text)
        played.append((task, actions, observations, last))
    return played


def replay(env, task, actions):
    observations = [env.reset(task).text]
    for action in actions:
        timed("admissible", env.admissible)
        observations.append(env.step(action).text)
    return observations


def package(played):
    from scienceworld import ScienceWorldEnv

    env = ScienceWorldEnv()
    for task, actions, _, _ in played:
        env.load(task["task"], task["variation"], "easy")
        timed("the package's reset", env.reset)
        for action in actions:
            timed("the package's step", env.step, action)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=3, help="variations of every kind of task")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--disturb", action="store_true")
    parser.add_argument("--package", action="store_true")
    chosen = parser.parse_args()
    if chosen.plain:
        scienceworld.JVM = [option for option in scienceworld.JVM if "hashCode" not in option]
    if chosen.disturb:
        scienceworld.Simulator._undisturbed = nullcontext  # pyright: ignore[reportAttributeAccessIssue]

    with ScienceWorld() as env:
        timed("start, and the first task of the train split", next, env.tasks("train"))
        tasks = timed("all tasks of the train split", list, env.tasks("train"))
        print(", ".join(f"{split}: {len(list(env.tasks(split)))} tasks" for split in env.splits()))
        number = dict.fromkeys((task["task"] for task in tasks), 0)
        some = []
        for task in tasks:
            if number[task["task"]] < chosen.each:
                number[task["task"]] += 1
                some.append(task)
        played = demonstrate(env, some)
    random.Random(0).shuffle(played)
    with ScienceWorld() as env:
        again = [replay(env, task, actions) for task, actions, _, _ in played]
        same = sum(texts == recorded for texts, (_, _, recorded, _) in zip(again, played))
        masked = sum(
            list(map(env.mask, texts)) == list(map(env.mask, recorded))
            for texts, (_, _, recorded, _) in zip(again, played)
        )
    if chosen.package:
        package(played)

    solved = sum(now.success is True for *_, now in played)
    lengths = [len(actions) for _, actions, _, _ in played]
    print(f"{len(played)} episodes, {sum(lengths)} steps; the expert's way reaches 1.0 in {solved}")
    print(f"replayed with the same observations: {same}; the same masked: {masked}")
    print(
        f"the expert's steps: median {statistics.median(lengths)}, most {max(lengths)}; more than 100 in:",
        *sorted({task["task"] for task, actions, _, _ in played if len(actions) > 100}),
    )
    for name, times in TIMES.items():
        ninth = sorted(times)[int(0.9 * len(times))]
        print(f"{name:45} {statistics.median(times):9.1f} ({ninth:.1f})")


if __name__ == "__main__":
    main()
