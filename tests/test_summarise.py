"""`eexp summarise`: which observations are summed up, what a usable summary is, and where it goes."""

from __future__ import annotations

from collections import Counter

import pytest
from running import lines, read, run, write

from eexp.errors import InputError
from eexp.models.base import Model, Sample
from eexp.prompts import get_style
from eexp.stages.summarise import summarise

STYLE = get_style("react")
LONG = "There is a table with many things on it, which nobody needs to know of in such detail. " * 3


class Writer(Model):
    """Writes the given texts, one after the other, whatever it is asked; a text with "..." was cut off."""

    def __init__(self, *written: str):
        super().__init__()
        self.written, self.requests = list(written), []

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
    """Long observations at all places there are; the one of "look" comes twice."""
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
    (done,) = summarise(
        iter([t]),
        STYLE,
        model,
        count=lambda what, n=1: counts.update({what: n}),
        on_error=lambda record, error: errors.append(error),
        **{"longer_than": 100, **how},
    )
    return done, errors, counts


def test_long_observations_that_actions_led_to():
    t, writer = a_trajectory(), Writer("A table.", "<think>hm</think>\nA table and a page.")
    before = lines([t])
    done, errors, counts = summed(t, writer)
    assert not errors and counts["summaries written"] == 2
    assert "summary" not in done["steps"][0], "no action led to the first observation"
    assert done["steps"][0]["alternatives"][0]["outcome"]["summary"] == "A table."
    assert done["steps"][1]["summary"] == "A table.", "the expert looked, too"
    assert done["steps"][1]["alternatives"][0]["outcome"]["summary"] == "A table and a page."
    assert "summary" not in done["outcome"] and lines([t]) == before
    for request, action in zip(writer.requests, ("look", "read")):
        asked = request.prompt[-1]["content"]
        assert asked.startswith("Task: Tidy up.\n\nWhat was done:") and f"\n\n{action}\n\n" in asked and LONG in asked
    again, _, _ = summed(done, Writer())
    assert again == done, "summaries that are there stay"


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
    done, errors, counts = summed(t, Writer(*texts, "A table."))
    assert done["steps"][1]["summary"] == "A table." and not errors
    assert counts["summaries drawn again"] == len(texts)
    done, (error,), counts = summed(t, Writer(*(texts * 3)))
    assert "summary" not in done["steps"][1], "the observation is still there to be learned"
    assert error.where == "$.steps[0].alternatives[0].outcome" and error.message.endswith(f"the text {why}")
    assert "text" in error.evidence and counts["summaries drawn again"] == 3


def test_a_failure_sets_the_trajectory_aside_as_it_came():
    trajectory = a_trajectory()
    rejects = []
    writer = Writer("A table.", *["cut off..."] * 3)
    (summarised,) = summarise(
        iter([trajectory]), STYLE, writer, longer_than=100, on_error=lambda record, error: rejects.append(record)
    )
    assert summarised["steps"][1]["summary"] == "A table."
    assert rejects == [a_trajectory()], "no summary of another observation is in it"


def test_a_text_written_twice_is_cut_to_one():
    text = "On the table are many things."
    done, _, _ = summed(a_trajectory(), Writer(f"{text} {text}", "A page."))
    assert done["steps"][1]["summary"] == text


def test_the_tiny_model_writes_some(data, tmp_path):
    file = write(tmp_path / "t.jsonl", read(data["rollout"])[:1])
    args = ["summarise", "-m", "tiny", "--threads", "1", "--max-tokens", "40", "--longer-than", "60", file]
    first = run(*args, "--rejects", tmp_path / "rejects")
    assert first.ok(first.code).code in (0, 4), "it may fail at some"
    assert first.out == run(*args, "--rejects", tmp_path / "rejects").out
    (t,) = first.records
    outcomes = [s for s in t["steps"][1:]] + [a["outcome"] for s in t["steps"] for a in s["alternatives"]]
    written = [o for o in outcomes if "summary" in o]
    assert written and all(0 < len(o["summary"]) < len(o["observation"]) > 60 for o in written)
    examples = run("world-model-data", "--max-repeats", "all", stdin=first.out).ok().records
    assert sum(e.get("target") == "summary" for e in examples) == len(written)
    none = run(*args, "--max-tokens", "1", "--rejects", tmp_path / "rejects").ok(4)
    assert all("summary" not in a["outcome"] for s in none.records[0]["steps"] for a in s["alternatives"])
    rejected = [reject["field"] for reject in read(tmp_path / "rejects")]
    assert rejected and all(place.startswith("$.steps[") for place in rejected)
    assert run(*args, "--max-tokens", "1").code == 3


def test_other_options_give_other_lineage(data):
    (t, *_) = run("summarise", "-m", "tiny", data["rollout"]).ok().records
    assert " longer-than=500 temperature=0.7 max-tokens=256 seed=0" in t["lineage"][-1]
    run("summarise", "-m", "random", data["rollout"]).one_error(2, "random cannot write text")
