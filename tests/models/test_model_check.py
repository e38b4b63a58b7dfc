"""`eexp models check`: models that keep the contract pass, and each kind of lie is found by the check for it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest
from running import run

from eexp.errors import InputError, PromptTooLong
from eexp.models import Model, Sample, TextModel, open_model
from eexp.models.base import Draw
from eexp.models.model_check import ModelChecker


@pytest.mark.parametrize("spec", ["tiny", pytest.param("hf:tiny", marks=pytest.mark.slow)])
def test_built_in_models_pass(spec):
    rows = run("models", "check", spec, "--json").ok().records
    assert {row["verdict"] for row in rows} == {"ok"} and len(rows) == 13


class Lying(Model):
    """The tiny model, with answers that are changed.

    Args:
        change: Takes a sample, its request and how many samples there were before, and returns the sample that is said.
    """

    def __init__(self, change):
        super().__init__()
        self.inner, self.change, self.numbers = open_model("tiny"), change, count()
        self.spec = self.fingerprint = "lying"
        self.counts = self.inner.counts

    def answer(self, groups) -> Iterator:
        groups = list(groups)
        for group, answers in zip(groups, self.inner.answer(groups)):
            yield [
                answer
                if isinstance(answer, InputError)
                else [self.change(sample, request, next(self.numbers)) for sample in answer]
                for request, answer in zip(group, answers)
            ]

    def close(self) -> None:
        self.inner.close()


def without_request(change):
    return lambda sample, request, n: change(sample, n) if isinstance(request, Draw) else sample


LIES = {
    "of another temperature": ("logprobs", lambda s, n: replace(s, logprob=s.logprob and s.logprob / 2)),
    "no log-probability": ("logprobs", lambda s, n: replace(s, logprob=0.5)),
    "cut and called finished": ("stops", lambda s, n: replace(s, finished=True)),
    "another answer each time": ("writes", lambda s, n: replace(s, text=f"{s.text} {n}")),
    "the same text again": ("distinct", lambda s, n: replace(s, text="no")),
    "beside the list": ("keeps a list", lambda s, n: replace(s, text=s.text.upper())),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(lie):
    check, change = LIES[lie]
    verdicts = {f.check: f.verdict for f in ModelChecker(lambda: Lying(without_request(change))).findings()}
    assert verdicts[check] == "FAIL", verdicts


def test_tokens_that_do_not_add_up_are_found():
    def change(sample, request, n):
        tokens = getattr(sample, "logprobs", None)
        return replace(sample, logprobs=[tokens[0] - 1, *tokens[1:]]) if tokens else sample

    findings = ModelChecker(lambda: Lying(change)).findings()
    found = next(finding for finding in findings if finding.check == "logprobs")
    assert found.verdict == "FAIL" and "the tokens of a text add up to" in found.detail


class Texts(TextModel):
    def __init__(self):
        super().__init__("texts")

    def write(self, draw, seed):
        if sum(len(message["content"].split()) for message in draw.prompt) > 1000:
            raise PromptTooLong("more than 1000 words")
        words = ["red"] if draw.temperature == 0 else random.Random(seed).choices(["red", "blue"], k=6)
        kept = words[: draw.max_tokens]
        return Sample(" ".join(kept), tokens=len(kept), finished=len(kept) == len(words))


class Careless(Texts):
    """Draws from a generator of its own, and keeps no limit."""

    random = random.Random(0)

    def write(self, draw, seed):
        return Sample(f"{self.random.random()} and more")


def test_a_model_that_only_writes_texts():
    verdicts = {f.check: f.verdict for f in ModelChecker(Texts).findings()}
    assert verdicts.pop("logprobs") == "note"
    assert {name for name, verdict in verdicts.items() if verdict == "-"} == {
        "shares",
        "distinct",
        "keeps a list",
        "goes on",
    }
    assert set(verdicts.values()) == {"ok", "-"}
    notes = {f.check for f in ModelChecker(Careless).findings() if f.verdict == "note"}
    assert notes == {"writes", "stops", "seeds", "groups", "logprobs", "overflow"}
