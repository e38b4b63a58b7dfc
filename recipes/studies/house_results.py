"""Print the table of a study in `house`: success, refused actions, and how many of them were refused before.

    python recipes/studies/house_results.py studies/house-reader

Rows are arms, played without (act) or with a thought (think). The difference is to imitation, with its interval over
training seeds and tasks, and p values corrected for the number of rows (Holm; docs/evidence.md). "Again" is the share
of the refused actions that were refused in the same episode before, and "cut off" that of turns that ended before an
action. What thoughts claim is counted by house_thoughts.py.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean

from eexp.evidence.comparison import compare
from eexp.evidence.table import shown_p
from eexp.records.jsonl import read


def measure(episodes: list[dict]) -> dict[str, list[bool]]:
    """Return what is counted of episodes, each as a list of verdicts."""
    found: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        refused: set[str] = set()
        for turn in episode["transcript"]:
            found["refused"].append(not turn["valid"])
            if not turn["valid"]:
                found["again"].append(turn["action"] in refused)
                refused.add(turn["action"])
        found["cut off"] += [n < episode["cut_off"] for n in range(episode["steps"])]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    study = parser.parse_args().study
    runs: dict[str, list[list[dict]]] = defaultdict(list)
    files = sorted(study.glob("*/*.act.jsonl")) + sorted(study.glob("*/*.think.jsonl"))
    for file in sorted(files, key=lambda file: file.stem != "il.act"):
        runs[file.stem].append(list(read([str(file)], "episode")))
    compared = {row["name"]: row for row in compare(runs)} if len(runs) > 1 else {}
    measured = ("refused", "again", "cut off")
    print(f"{'':28}success{''.join(f'{name:>9}' for name in measured)}  difference   95 % interval  p (Holm)  by seed")
    for name, seeds in runs.items():
        played = [episode for seed in seeds for episode in seed]
        found = measure(played)
        cells = [f"{name:28}{mean(e['success'] for e in played):7.1%}"]
        cells += [f"{mean(found[what]):9.1%}" if found[what] else f"{'-':>9}" for what in measured]
        row = compared.get(name, {})
        if row.get("difference_low") is not None:
            interval = f"{100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f}"
            p = shown_p(row["p_holm"], row["p_holm_bound"])
            cells.append(f"  {100 * row['difference']:+10.1f}  {interval:>14}  {p:>8}")
        else:
            cells.append(" " * 38)
        by_seed = " ".join(f"{100 * mean(e['success'] for e in seed):.1f}" for seed in seeds)
        print("".join(cells) + "  " + by_seed)


if __name__ == "__main__":
    main()
