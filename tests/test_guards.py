"""Guards on reflections: their precision and recall on a labelled set, a third of which they were not tuned on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from eexp.contenders import Situation, situations
from eexp.prompts import guards

HERE = Path(__file__).parent / "reflections"
STATES = json.loads((HERE / "states.json").read_text(encoding="utf-8"))
CASES = [json.loads(line) for line in (HERE / "cases.jsonl").read_text(encoding="utf-8").splitlines()]


def situation_of(case: dict) -> Situation:
    return situations(STATES[case["state"]])[-1]


def faults(case: dict) -> set[str]:
    """The guards that find a fault, each asked by itself."""
    found = set()
    for name in guards.NAMES:
        alone = guards.Guards(frozenset([name]), min_words=5, max_words=150)
        verdict = alone.judge(case["text"], situation_of(case), case["finished"])
        if verdict.guard == name or (name == "repeated" and verdict.text != case["text"].strip()):
            found.add(name)
    return found


@pytest.mark.parametrize("held_out", [False, True], ids=["tuned on", "held out"])
def test_precision_and_recall(held_out, capsys):
    counts = {name: Counter() for name in guards.NAMES}
    wrong = []
    for case in CASES:
        if case["held_out"] is not held_out:
            continue
        found = faults(case)
        for name in guards.NAMES:
            labelled = name in case.get("labels", [])
            counts[name][labelled, name in found] += 1
            if labelled != (name in found):
                wrong.append(f"{name} {'missed' if labelled else 'wrong'}: [{case['state']}] {case['text']}")
    with capsys.disabled():
        print(f"\n{'held out' if held_out else 'tuned on':14}   cases  faults  precision  recall")
        for name, n in counts.items():
            hits, labelled = n[True, True], n[True, True] + n[True, False]
            precision, recall = hits / (hits + n[False, True] or 1), hits / labelled
            print(f"{name:14} {n.total():7} {labelled:7} {precision:10.2f} {recall:7.2f}")
            assert precision >= 0.9 and recall >= 0.9, "\n".join(line for line in wrong if line.startswith(name))
