"""Measure the cost of a different alternative: sampled again until it is new, or sampled without replacement.

    python benchmarks/distinct.py -m house.gguf > benchmarks/distinct.txt      # a policy that was trained on house
    python benchmarks/distinct.py -n 10                                        # the tiny base model

At every state of some of `house`'s expert trajectories, K = 4 actions are sampled that differ from the expert's and
from each other in the way that `eexp branch` requires: after `canonical`, and none empty. The distribution of a trained
policy is peaked, so most independent samples repeat an action.

again       independent samples, at most 3 K or 10 K of them
distinct    texts without replacement, at most as many: no text is repeated, but two texts may hold the same action

tokens      evaluated for the texts (the prompts' are the same for all), for each alternative
ms          for each alternative, the prompts included
all K       share of the states that got all K
judged      texts that were checked, a state

The two take turns, round by round, with other seeds in every round; ms is the median of the rounds, the other figures
are over all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path

from eexp.acting.expert import expert
from eexp.envs import open_env
from eexp.errors import InputError
from eexp.models import Engine, open_model
from eexp.models.policy import ActionDraw, ModelPolicy, Proposal, State
from eexp.prompts import DEFAULT_STYLE, get_style
from eexp.records.record import canonical, seed_of

WAYS = {"again": False, "distinct": True}
MOST = (3, 10)  # times K


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-m", "--model", default="tiny", metavar="MODEL", help="GGUF file, or tiny")
    parser.add_argument("-n", "--number", type=int, default=20, metavar="N", help="trajectories")
    parser.add_argument("-k", type=int, default=4, metavar="K", help="alternatives a state")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--threads", type=int, metavar="N")
    chosen = parser.parse_args()
    with open_model(chosen.model, Engine(threads=chosen.threads)) as model:
        style = model.play_settings.style or get_style(DEFAULT_STYLE)
        policy = ModelPolicy(model, style, 48)
        states = expert_states(chosen.number)
        total = sum(map(len, states))
        print(f"$ python {' '.join(['benchmarks/distinct.py', *sys.argv[1:]])}")
        print(machine())
        print(f"{total} states of {len(states)} trajectories, {chosen.k} alternatives each, {chosen.model}")
        print(f"{'':10}{'at most':>8}{'tokens':>9}{'ms':>9}{'all K':>9}{'judged':>9}", flush=True)
        results: dict[tuple[str, int], Counter[str]] = {(way, most): Counter() for most in MOST for way in WAYS}
        milliseconds: dict[tuple[str, int], list[float]] = {key: [] for key in results}
        for turn in range(-1, chosen.rounds):  # the first is to warm up
            for way, most in results:
                began = time.perf_counter()
                counted = alternatives(policy, states, chosen.k, most * chosen.k, WAYS[way], turn)
                if turn >= 0:
                    milliseconds[way, most].append(1000 * (time.perf_counter() - began) / counted["accepted"])
                    results[way, most] += counted
        for (way, most), counted in results.items():
            all_states = total * chosen.rounds
            print(
                f"{way:10}{most * chosen.k:8}{counted['text tokens evaluated'] / counted['accepted']:9.2f}"
                f"{statistics.median(milliseconds[way, most]):9.2f}{100 * counted['all'] / all_states:7.1f} %"
                f"{counted['text[s] written'] / all_states:9.2f}"
            )


def machine() -> str:
    """Return the machine's name for the heading of the table."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = models[0].partition(": ")[2] if models else platform.processor()
    return f"{cpu}, {os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}"


def expert_states(n: int) -> list[list[State]]:
    """Return the states of the first training tasks, each with the expert's action."""
    env = open_env("house")
    paths = []
    for path in islice(expert(env, env.tasks(env.splits()[0])), n):
        steps = path["steps"]
        paths.append(
            [
                State(path["instruction"], steps[:i], step["observation"], step["admissible"], step["action"])
                for i, step in enumerate(steps)
            ]
        )
    return paths


def alternatives(
    policy: ModelPolicy, states: list[list[State]], k: int, most: int, distinct: bool, turn: int
) -> Counter[str]:
    """Return the cost of the alternatives to all states, and the number found."""
    before = Counter(policy.counts)
    groups = [
        [
            ActionDraw(
                state,
                n=k,
                temperature=1.0,
                seed=seed_of(turn, i, j),
                accept=new_action(state),
                most=most,
                distinct=distinct,
            )
            for j, state in enumerate(path)
        ]
        for i, path in enumerate(states)
    ]
    answers: list[list[Proposal]] = []
    for answer in chain.from_iterable(policy.answer(groups)):
        if isinstance(answer, InputError):
            raise answer
        answers.append(answer)
    counted = policy.counts - before
    counted["accepted"] = sum(map(len, answers))
    counted["all"] = sum(len(answer) == k for answer in answers)
    return counted


def new_action(state: State) -> Callable[[Proposal], bool]:
    """Return a function that accepts an action once, and never the expert's."""
    assert state.expert is not None
    accepted = {"", canonical(state.expert)}

    def accept(proposal: Proposal) -> bool:
        same = canonical(proposal.action)
        return same not in accepted and not accepted.add(same)

    return accept


if __name__ == "__main__":
    main()
