"""Print the table of a study in `house`: success, refused actions, and whether thoughts are true and followed.

    python recipes/studies/house_results.py studies/house-reader

Rows are arms, played without (act) or with a thought (think). The difference is to imitation, with its interval over
training seeds and tasks, and p values corrected for the number of rows (Holm; docs/evidence.md).

again      of the refused actions, those that were refused in the same episode before
cut off    of the turns, those that ended before an action
true       of the claims in thoughts, those that are true in the simulator: that a thing was not come across, that an
           action is possible, that it would complete the task
followed   of the thoughts that end with a choice, those whose action it is
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from eexp.envs.base import Environment
from eexp.envs.opening import open_env
from eexp.evidence.comparison import compare
from eexp.records.jsonl import read

UNSEEN = re.compile(r"I have not come across the (\w+)(?: or the (\w+))? yet")
POSSIBLE = re.compile(r"\bI can ([^.;,]+)[.,;]")
COMPLETES = re.compile(r"\bTo ([^.;,]+) would complete the task")
CHOICE = re.compile(r"(?:So I|, I) ((?:go|open|close|take|put|wash|heat|cool|look)\b[^.]*)\.\s*$")


def claims(thought: str, seen: str, env: Environment) -> Iterator[bool]:
    """Yield whether each claim of a thought is true.

    seen: The observations so far, refusals left out.
    """
    for names in UNSEEN.findall(thought):
        yield from (not re.search(rf"\b{name}\b", seen) for name in names if name)
    for action in POSSIBLE.findall(thought):
        yield env.fork().step(action).valid
    for action in COMPLETES.findall(thought):
        outcome = env.fork().step(action)
        yield outcome.done and outcome.valid


def measure(episodes: list[dict]) -> dict[str, list[bool]]:
    """Return what is counted of episodes, each as a list of verdicts."""
    found: dict[str, list[bool]] = defaultdict(list)
    with open_env(episodes[0]["env"]) as env:
        for episode in episodes:
            seen, refused = env.reset(episode["task"]).text, set()
            for turn in episode["transcript"]:
                thought, action = turn.get("thought") or "", turn["action"]
                found["true"] += claims(thought, seen, env)
                if choice := CHOICE.search(thought):
                    found["followed"].append(choice[1] == action)
                observation = env.step(action)
                found["refused"].append(not observation.valid)
                if observation.valid:
                    seen += f" {observation.text}"
                else:
                    found["again"].append(action in refused)
                    refused.add(action)
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
    measured = ("refused", "again", "cut off", "true", "followed")
    print(f"{'':28}success{''.join(f'{name:>9}' for name in measured)}  difference   95 % interval  p (Holm)  by seed")
    for name, seeds in runs.items():
        played = [episode for seed in seeds for episode in seed]
        found = measure(played)
        cells = [f"{name:28}{mean(e['success'] for e in played):7.1%}"]
        cells += [f"{mean(found[what]):9.1%}" if found[what] else f"{'-':>9}" for what in measured]
        row = compared.get(name, {})
        if row.get("difference_low") is not None:
            interval = f"{100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f}"
            cells.append(f"  {100 * row['difference']:+10.1f}  {interval:>14}  {row['p_holm']:>8.2g}")
        else:
            cells.append(" " * 38)
        by_seed = " ".join(f"{100 * mean(e['success'] for e in seed):.1f}" for seed in seeds)
        print("".join(cells) + "  " + by_seed)


if __name__ == "__main__":
    main()
