"""Measure how often a state's samples change with the other states in their batches.

    python benchmarks/isolation.py -m tiny
    python benchmarks/isolation.py -m tiny --cache-type f32

Texts are sampled twice at the states of expert trajectories of `house`: at each state alone, and at all states of a
trajectory (or of several) together. Seeds are the same, so texts differ only where rounding moved a probability across
a random number. The output is the share of samples that changed, the share of tokens before the first change, and the
largest change of a log-probability.
"""

from __future__ import annotations

import argparse
import platform
from itertools import islice

from eexp.acting.expert import expert
from eexp.envs.worlds.house import House
from eexp.models import Engine, open_model
from eexp.models.base import Draw
from eexp.prompts import get_style


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--cache-type", default="f16", choices=["f16", "f32", "q8_0"])
    parser.add_argument("--states", type=int, default=64, help="states that share batches")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("-k", type=int, default=4)
    parser.add_argument("--distinct", action="store_true", help="sample without replacement")
    args = parser.parse_args()

    house, style = House(), get_style("react")
    model = open_model(args.model, Engine(cache=args.cache_type))
    prompts = [
        style.act(t["instruction"], t["steps"][:i], step["observation"])
        for t in expert(house, islice(house.tasks("train"), args.states * args.groups))
        for i, step in enumerate(t["steps"])
    ]
    draws = tokens = changed = 0
    moved = 0.0
    for g in range(args.groups):
        group = [
            Draw(p, n=args.k, seed=i, distinct=args.distinct)
            for i, p in enumerate(prompts[g * args.states : (g + 1) * args.states])
        ]
        together = model.ask(group)
        for request, among in zip(group, together):
            (alone,) = model.ask([request])
            for a, b in zip(alone, among):
                draws += 1
                tokens += a.tokens + 1
                if a.text != b.text:
                    changed += 1
                else:
                    assert a.logprob is not None and b.logprob is not None  # as in all models of this process
                    moved = max(moved, abs(a.logprob - b.logprob))
    print(
        f"{platform.processor() or platform.machine()}, {args.model}, cache {args.cache_type}, "
        f"{'without' if args.distinct else 'with'} replacement: {args.groups} groups of {args.states} states, "
        f"{draws} draws, {tokens} tokens"
    )
    print(
        f"  {changed} draws changed ({100 * changed / draws:.2f} %), "
        f"log-probabilities of the others by at most {moved:.1e}"
    )


if __name__ == "__main__":
    main()
