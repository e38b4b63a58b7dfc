"""Count where the agents of the web study first go wrong, in percent of their episodes.

    python recipes/studies/site_mistakes.py studies/site

table, value      The click was on another element than a link with the table's name, or with one of the wanted values.
stopped early     The answer came before the rows were shown.
went on           The rows were shown, and the agent did something else than answer.
answer            The rows were shown, and the answer was wrong.
refused           The action named nothing that is there.
no end            Nothing of this; the episode ended without an answer.

Below stand two claims of thoughts, and how many of them are true: what the next element is called, and what an element
leads to, in so far as its name tells (a value, a table, a column to sort by).
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

from eexp.records.jsonl import read

WRONG = ("table", "value", "stopped early", "went on", "answer", "refused", "no end")


def first_mistake(episode: dict) -> str:
    """Return what went wrong first, one of WRONG; "" if nothing did."""
    if episode["success"]:
        return ""
    table, *values = re.findall(r'"([^"]*)"', episode["instruction"].split("\n")[0])
    missing = [table, *values]
    for turn in episode["transcript"]:
        if turn["action"] == "click [0]":  # closes a dialog
            continue
        if not turn["valid"]:
            return "refused"
        if turn["action"].startswith("stop"):
            return "stopped early" if missing else "answer"
        number = re.fullmatch(r"click \[(\d+)\]", turn["action"])
        element = number and re.search(rf'\[{number[1]}\] link "([^"]*)"', turn["observation"])
        if not missing:
            return "went on"
        if not element or element[1] not in missing or (table in missing and element[1] != table):
            return "table" if table in missing else "value"
        missing.remove(element[1])
    return "no end"


def claimed(turn: dict) -> dict[str, bool]:
    """Return what the thought of a turn claims of elements (`next`, `leads to`), and whether it is true."""
    thought = turn.get("thought") or ""
    names = dict(re.findall(r'(\[\d+\]) link "([^"]*)"', turn["observation"]))
    found = {}
    if called := re.search(r'Next (\[\d+\]) is called "([^"]*)"', thought):
        found["next"] = names.get(called[1]) == called[2]
    if leads := re.search(r'(\[\d+\]) leads to (?:"([^"]*)"|rows sorted by (\w+))', thought):
        found["leads to"] = names.get(leads[1], "").split(" ")[0] == (leads[2] or leads[3])
    return found


def main() -> None:
    study = Path(sys.argv[1])
    found: dict[str, Counter] = defaultdict(Counter)
    claims: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for file in sorted([*study.glob("*/*.act.jsonl"), *study.glob("*/*.think.jsonl")]):
        for episode in read([str(file)], "episode"):
            found[file.stem][first_mistake(episode)] += 1
            for turn in episode["transcript"]:
                for what, true in claimed(turn).items():
                    claims[file.stem, what].append(true)
    print(f"{'':24}{'solved':>9}" + "".join(f"{name:>15}" for name in WRONG) + "   episodes")
    for name, counts in found.items():
        total = counts.total()
        print(
            f"{name:24}{counts[''] / total:9.1%}" + "".join(f"{counts[w] / total:15.1%}" for w in WRONG) + f"{total:11}"
        )
    for (name, what), verdicts in claims.items():
        print(f"{name:24}{what:>9}: {sum(verdicts)} of {len(verdicts)} are true ({sum(verdicts) / len(verdicts):.1%})")


if __name__ == "__main__":
    main()
