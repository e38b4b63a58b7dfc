"""Tests of the guards: their precision and recall on a labelled set, a third of which was held out from tuning."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from eexp.examples.reflection import guards
from eexp.examples.reflection.situations import Situation, situations
from eexp.examples.settings import GUARDS, GuardSettings

HERE = Path(__file__).parents[1] / "reflections"
STATES = json.loads((HERE / "states.json").read_text(encoding="utf-8"))
CASES = [json.loads(line) for line in (HERE / "cases.jsonl").read_text(encoding="utf-8").splitlines()]


def situation_of(case: dict) -> Situation:
    return situations(STATES[case["state"]])[-1]


def judge(text: str, situation: Situation, settings: GuardSettings, finished: bool = True) -> guards.Verdict:
    return guards.judge(text, situation, guards.open_guards(settings), finished)


def faults(case: dict) -> set[str]:
    """Return the guards that find a fault, each applied by itself."""
    names = set()
    for name in GUARDS.built_in:
        alone = GuardSettings(frozenset([name]), min_words=5, max_words=150)
        verdict = judge(case["text"], situation_of(case), alone, case["finished"])
        if verdict.guard == name or (name == "repeated" and verdict.text != case["text"].strip()):
            names.add(name)
    return names


ANYWHERE = situation_of(CASES[0])


@pytest.mark.parametrize(
    "text",
    [
        "The expert goes north.",
        "as demonstrated",
        "demonstrations show",
        "ground truth",
        "ground-truth",
        "gold path",
        "As an AI, I",
        "a large language model",
        "Action 3 is better",
        "option #2",
        "alternative no. 4",
        "Candidate 1",
    ],
)
def test_terms_of_the_training_set_up_are_found(text):
    assert guards.training_terms(text, ANYWHERE)


@pytest.mark.parametrize(
    "text",
    [
        "I take action now.",
        "There are 3 options.",
        "experts",
        "An expertise",
        "the action",
        "I see 2 actions",
        "This is the best option.",
        "a golden apple",
        "The demon waits.",
        "an expert cook",
        "the expert in charge",
    ],
)
def test_other_words_are_accepted(text):
    assert guards.training_terms(text, ANYWHERE) is None


def test_words_of_the_state_are_accepted():
    page = {**STATES["house-fridge"], "instruction": "Choose option 2 and ask the expert."}
    (*_, state) = situations(page)
    assert guards.training_terms("I choose option 2 and ask the expert.", state) is None
    assert guards.training_terms("I choose option 3.", state)


def test_copies_are_removed():
    long = "I should go to the kitchen because the apple is there."
    for text in (f"{long} {long}", f"{long}\n\n{long}", f"{long} {long[:-3]}", f"{long} {long}\n{long}"):
        assert guards.without_copies(text) == long
    for text in (long, f"one.\n\ntwo.\n\n{long}", "go go go", "x", ""):
        assert guards.without_copies(text) == text
    assert guards.without_copies("  x  ") == "x"


def test_guards_can_be_left_out():
    case = next(c for c in CASES if c.get("labels") == ["setup"])
    assert judge(case["text"], situation_of(case), GuardSettings()).guard == "setup"
    assert judge(case["text"], situation_of(case), GuardSettings.without(["setup"])).guard == ""
    assert GuardSettings.without(["all"]).names == frozenset()
    assert judge(" ", ANYWHERE, GuardSettings.without(["all"])).guard == "length", "an empty text is no reflection"
    assert judge("One two three four.", ANYWHERE, GuardSettings(min_words=2, max_words=3)).guard == "length"


def test_size_of_the_labelled_set():
    """It has at least 200 reflections, 25 with each fault, and a third is held out."""
    labels = Counter(label for case in CASES for label in case.get("labels", []))
    assert len(CASES) >= 200 and set(labels) == set(GUARDS.built_in) and min(labels.values()) >= 25
    assert {case["tempts"] for case in CASES if "tempts" in case} == set(GUARDS.built_in)
    assert 0.3 < sum(case["held_out"] for case in CASES) / len(CASES) < 0.37


@pytest.mark.parametrize("held_out", [False, True], ids=["tuned on", "held out"])
def test_precision_and_recall(held_out, capsys):
    counts = {name: Counter() for name in GUARDS.built_in}
    wrong = []
    for case in CASES:
        if case["held_out"] is not held_out:
            continue
        names = faults(case)
        for name in GUARDS.built_in:
            labelled = name in case.get("labels", [])
            counts[name][labelled, name in names] += 1
            if labelled != (name in names):
                wrong.append(f"{name} {'missed' if labelled else 'wrong'}: [{case['state']}] {case['text']}")
    with capsys.disabled():
        print(f"\n{'held out' if held_out else 'tuned on':14}   cases  faults  precision  recall")
        for name, n in counts.items():
            hits, labelled = n[True, True], n[True, True] + n[True, False]
            precision, recall = hits / (hits + n[False, True] or 1), hits / labelled
            print(f"{name:14} {n.total():7} {labelled:7} {precision:10.2f} {recall:7.2f}")
            assert precision >= 0.9 and recall >= 0.9, "\n".join(line for line in wrong if line.startswith(name))
