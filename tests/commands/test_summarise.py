"""`eexp summarise`: which observations are summarised, which texts are used, and where they stand."""

from __future__ import annotations

from collections import Counter

import pytest
from running import lines, read, run, write

from eexp.errors import InputError
from eexp.examples.settings import SummariseSettings
from eexp.examples.summarise import summarise
from eexp.models.base import Model, Sample
from eexp.prompts import get_style

STYLE = get_style("react")
LONG = "There is a table with many things on it, which nobody needs to know of in such detail. " * 3


class Writer(Model):
    """A model that writes the given texts in turn; a text with "..." was cut off."""

    def __init__(self, *texts: str):
        super().__init__()
        self.written, self.requests = list(texts), []

    def answer(self, groups):
        for group in groups:
            yield [self._answer(request) for request in group]

    def _answer(self, request):
        self.requests.append(request)
        accepted = []
        for _ in range(request.most):
            text = self.written.pop(0)
            sample = Sample(text.removesuffix("..."), finished=not text.endswith("..."))
            if request.accept(sample):
                return [sample]
        return accepted


def a_trajectory() -> dict:
    """Return a trajectory with a long observation in every place; that of "look" occurs twice."""
    look = {"action": "look", "source": "policy", "outcome": {"observation": LONG}}
    read_it = {"action": "read", "source": "policy", "outcome": {"observation": LONG + "A page.", "valid": True}}
    failed = {"action": "fly", "source": "policy", "outcome": None, "refused": "crashed"}
    return {
        "type": "trajectory",
        "id": "t",
        "env": "somewhere",
        "task": {"id": "t"},
        "instruction": "Tidy up.",
        "steps": [
            {"observation": LONG, "action": "look", "alternatives": [look, failed]},
            {"observation": LONG, "action": "stop", "alternatives": [read_it]},
        ],
        "outcome": {"observation": "Done.", "done": True},
        "lineage": [],
    }


def summed(t: dict, model: Model, **how: object) -> tuple[dict, list[InputError], Counter[str]]:
    errors: list[InputError] = []
    counts: Counter[str] = Counter()
    (summarised,) = summarise(
        iter([t]),
        STYLE,
        model,
        SummariseSettings(**{"longer_than": 100, **how}),
        count=lambda what, n=1: counts.update({what: n}),
        on_error=lambda record, error: errors.append(error),
    )
    return summarised, errors, counts


def test_long_observations_are_summarised():
    t, writer = a_trajectory(), Writer("A table.", "<think>hm</think>\nA table and a page.")
    before = lines([t])
    summarised, errors, counts = summed(t, writer)
    assert not errors and counts["summar[y|ies] written"] == 2
    assert "summary" not in summarised["steps"][0], "no action led to the first observation"
    assert summarised["steps"][0]["alternatives"][0]["outcome"]["summary"] == "A table."
    assert summarised["steps"][1]["summary"] == "A table.", "the expert looked, too"
    assert summarised["steps"][1]["alternatives"][0]["outcome"]["summary"] == "A table and a page."
    assert "summary" not in summarised["outcome"] and lines([t]) == before
    for request, action in zip(writer.requests, ("look", "read")):
        question = request.prompt[-1]["content"]
        assert question.startswith("Task: Tidy up.\n\nWhat was done:")
        assert f"\n\n{action}\n\n" in question and LONG in question
    again, _, _ = summed(summarised, Writer())
    assert again == summarised, "summaries that are there stay"


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["", "  \n"], "is empty"),
        (["<think>A table."], "is empty"),
        (["A tab..."], "does not end within 256 tokens"),
        ([LONG + "And more of it, at length."], "is no shorter than the observation"),
    ],
)
def test_texts_that_are_no_summary_are_drawn_again(texts, why):
    t = a_trajectory()
    t["steps"][1]["alternatives"] = []
    summarised, errors, counts = summed(t, Writer(*texts, "A table."))
    assert summarised["steps"][1]["summary"] == "A table." and not errors
    assert counts["summar[y|ies] drawn again"] == len(texts)
    summarised, (error,), counts = summed(t, Writer(*(texts * 3)))
    assert "summary" not in summarised["steps"][1], "the observation is still there to be learned"
    assert error.where == "$.steps[0].alternatives[0].outcome" and error.message.endswith(f"the text {why}")
    assert "text" in error.evidence and counts["summar[y|ies] drawn again"] == 3


def test_a_failure_sets_the_trajectory_aside_as_it_came():
    trajectory = a_trajectory()
    rejects = []
    writer = Writer("A table.", *["cut off..."] * 3)
    (summarised,) = summarise(
        iter([trajectory]),
        STYLE,
        writer,
        SummariseSettings(longer_than=100),
        on_error=lambda record, error: rejects.append(record),
    )
    assert summarised["steps"][1]["summary"] == "A table."
    assert rejects == [a_trajectory()], "no summary of another observation is in it"


def test_a_text_written_twice_is_cut_to_one():
    text = "On the table are many things."
    summarised, _, _ = summed(a_trajectory(), Writer(f"{text} {text}", "A page."))
    assert summarised["steps"][1]["summary"] == text


def test_the_tiny_model_writes_some(data, tmp_path):
    file = write(tmp_path / "t.jsonl", read(data["rollout"])[:1])
    args = ["summarise", "-m", "tiny", "--threads", "1", "--max-tokens", "40", "--longer-than", "60", file]
    first = run(*args, "--rejects", tmp_path / "rejects")
    assert first.ok(first.code).code in (0, 4), "it may fail at some"
    assert first.out == run(*args, "--rejects", tmp_path / "rejects").out
    (t,) = first.records
    outcomes = [s for s in t["steps"][1:]] + [a["outcome"] for s in t["steps"] for a in s["alternatives"]]
    with_summary = [o for o in outcomes if "summary" in o]
    assert with_summary and all(0 < len(o["summary"]) < len(o["observation"]) > 60 for o in with_summary)
    examples = run("world-model-data", "--max-repeats", "all", stdin=first.out).ok().records
    assert sum(e.get("target") == "summary" for e in examples) == len(with_summary)
    none = run(*args, "--max-tokens", "1", "--rejects", tmp_path / "rejects").ok(4)
    assert all("summary" not in a["outcome"] for s in none.records[0]["steps"] for a in s["alternatives"])
    rejected = [reject["field"] for reject in read(tmp_path / "rejects")]
    assert rejected and all(place.startswith("$.steps[") for place in rejected)
    assert run(*args, "--max-tokens", "1").code == 3


def test_other_options_give_other_lineage(data):
    (t, *_) = run("summarise", "-m", "tiny", data["rollout"]).ok().records
    assert " longer-than=500 temperature=0.7 max-tokens=256 seed=0" in t["lineage"][-1]
    run("summarise", "-m", "random", data["rollout"]).one_error(2, "random cannot write text")
