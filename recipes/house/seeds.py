"""The arms of several training seeds against imitation, over the same tasks: `python seeds.py DIR SEED...`

DIR/SEED/ARM.episodes.jsonl are the episodes. A difference is a mean over seeds and tasks; its interval comes from a
bootstrap that draws seeds and tasks anew (10,000 times), so that it is as wide as both make it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

ARMS = {"il": "IL", "iwm": "IL + IWM", "recovery": "IL + recovery", "sr": "SR"}


def episodes(file: Path) -> list[dict]:
    return sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda e: e["id"])


def concluded(turns: list[dict]) -> float:
    """The share of the turns with a thought whose action is the one that the thought ends with ("So I ...")."""
    conclusions = [(re.search(r"So I (.*?)\.?$", turn["thought"]), turn["action"]) for turn in turns]
    return sum(bool(found) and found[1] == action for found, action in conclusions) / len(conclusions)


def main(directory: Path, seeds: list[str]) -> None:
    rng, success = np.random.default_rng(0), {}
    print(
        f"{'':14} {'success, by seed':24} {'mean':>6} {'difference':>11} {'interval (95 %)':>18} {'invalid':>8} "
        f"{'thoughts':>9} {'followed':>9}"
    )
    for arm, name in ARMS.items():
        played = [episodes(directory / seed / f"{arm}.episodes.jsonl") for seed in seeds]
        assert len({tuple(e["id"] for e in run) for run in played}) == 1, f"{arm}: other tasks"
        success[arm] = np.array([[e["success"] for e in run] for run in played], float)
        turns = sum(e["steps"] for run in played for e in run)
        invalid, thoughts = (sum(e[what] for run in played for e in run) / turns for what in ("invalid", "thoughts"))
        thoughtful = [turn for run in played for e in run for turn in e["transcript"] if turn.get("thought")]
        followed = f"{concluded(thoughtful):9.1%}" if thoughts > 0.5 else ""
        by_seed = "  ".join(f"{100 * share:.1f}" for share in success[arm].mean(1))
        row = f"{name:14} {by_seed:24} {100 * success[arm].mean():6.1f}"
        if arm == "il":
            print(f"{row} {'':11} {'':18} {invalid:8.1%} {thoughts:9.1%} {followed}".rstrip())
            continue
        difference = success[arm] - success["il"]
        draws = [difference[rng.integers(len(seeds), size=len(seeds))][:, rng.integers(difference.shape[1],
                 size=difference.shape[1])].mean() for _ in range(10_000)]  # fmt: skip
        low, high = np.percentile(draws, [2.5, 97.5])
        interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
        print(
            f"{row} {100 * difference.mean():+11.1f} {interval:>18} {invalid:8.1%} {thoughts:9.1%} {followed}".rstrip()
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
