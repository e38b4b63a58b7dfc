"""The targets of world-model examples: which transitions, which words of them, and their weights."""

from __future__ import annotations

import json
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import lines, read, run, text_styles, write

from eexp.errors import InputError
from eexp.examples.settings import WorldModelSettings
from eexp.examples.targets import new_lines, target_of
from eexp.examples.world_model import TOO_MANY_INVALID, world_model_data
from eexp.models import open_model
from eexp.models.base import Score
from eexp.prompts import get_style
from eexp.records.spans import spans_of

STYLE = get_style("react")
ALL = WorldModelSettings(max_invalid_fraction=1, max_repeats=None)


def outcome(observation: str, **more: object) -> dict:
    return {"observation": observation, "done": False, "valid": True, **more}


def alternative(action: str, result: dict | None, **more: object) -> dict:
    return {"action": action, "source": "admissible", "logprob": None, "outcome": result, **more}


def trajectory(*steps: dict, end: dict | None = None) -> dict:
    return {
        "type": "trajectory",
        "id": "t",
        "env": "somewhere",
        "task": {"id": "t"},
        "instruction": "Do it.",
        "steps": list(steps),
        "outcome": end,
        "lineage": [],
    }


def step(observation: str, action: str, *alternatives: dict, **more: object) -> dict:
    return {"observation": observation, "action": action, "alternatives": list(alternatives), **more}


def examples_of(t: dict, choices: WorldModelSettings = ALL, **more: object) -> dict[str, dict]:
    """Return examples by the end of their ids."""
    return {e["id"].removeprefix("t/"): e for e in world_model_data(iter([t]), STYLE, choices, **more)}


def texts(examples: dict[str, dict]) -> dict[str, str]:
    head, tail = STYLE.predicting.open, STYLE.predicting.close
    return {k: e["completion"][0]["content"].removeprefix(head).removesuffix(tail) for k, e in examples.items()}


# -- which transitions -----------------------------------------------------------------------------------------------


def test_kinds_of_transition():
    t = trajectory(
        step(
            "a room",
            "go",
            alternative("wait", outcome("a room")),
            alternative("fly", outcome("What?", valid=False)),
            alternative("jump", outcome("You fall.", done=True)),
            alternative("sing", None),
        ),
        step("a hall", "stop"),
        end=outcome("The end.", done=True, success=True),
    )
    assert {name: e["transition"] for name, e in examples_of(t).items()} == {
        "0/world_model/expert": "changed",
        "0/world_model/0": "unchanged",
        "0/world_model/1": "invalid",
        "0/world_model/2": "done",
        "1/world_model/expert": "done",
    }


def test_pools_and_nested_k():
    t = trajectory(
        step(
            "a room",
            "go",
            *(alternative(f"open {n}", outcome(f"open {n}"), pool="iwm") for n in range(4)),
            alternative("Open 1", outcome("open 1 again"), pool="sr"),
            alternative("sing", outcome("La."), pool="sr"),
        ),
        end=outcome("The end.", done=True),
    )

    def names(**choices: object) -> set[str]:
        return {
            name.rsplit("/", 1)[1]
            for name in examples_of(t, WorldModelSettings(max_repeats=None, expert=False, **choices))
        }

    assert names() == {"0", "1", "2", "3", "5"}, "the same action of another pool is left out"
    assert names(pool="sr") == {"4", "5"} and names(pool="iwm") == {"0", "1", "2", "3"} and names(pool="none") == set()
    assert names(pool="iwm", first=2) == {"0", "1"} < names(pool="iwm", first=3) and names(first=0) == set()
    ids = [e["id"] for e in run("world-model-data", "--pool", "sr", "--no-expert", stdin=lines([t])).ok().records]
    assert ids == ["t/0/world_model/4", "t/0/world_model/5"], "ids do not depend on what else is chosen"


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 3, None]), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_caps(seed, most, fraction):
    chance = random.Random(seed)
    steps = [
        step(
            f"room {i}",
            "go",
            *(
                alternative(f"act {i} {n}", outcome(chance.choice("abcde"), valid=chance.random() < 0.5))
                for n in range(chance.randint(0, 6))
            ),
        )
        for i in range(chance.randint(1, 6))
    ]
    t = trajectory(*steps, end=outcome("The end.", done=True))
    counts: Counter[str] = Counter()
    choices = WorldModelSettings(max_invalid_fraction=fraction, max_repeats=most)
    examples = examples_of(t, choices, count=lambda what, n=1: counts.update({what: n}))
    whole = examples_of(t)
    repeats = Counter(text for name, text in texts(examples).items())
    invalid = sum(e["transition"] == "invalid" for e in examples.values())
    assert all(name in examples for name in whole if name.endswith("expert"))
    assert most is None or all(n <= most for n in repeats.values())
    assert invalid <= fraction * len(examples)
    assert len(whole) - len(examples) == counts["repeated transition[s] left out"] + counts[TOO_MANY_INVALID]
    assert (
        counts["example[s] of valid actions"] == len(examples) - invalid
        and counts["example[s] of invalid actions"] == invalid
    )
    if most is not None and fraction == 1:
        assert repeats == Counter({text: min(n, most) for text, n in Counter(texts(whole).values()).items()})


def test_caps_are_on_by_default():
    same = [alternative(f"push {n}", outcome("Nothing happens.")) for n in range(5)]
    refused = [alternative(f"fly {n}", outcome(f"You cannot fly {n}.", valid=False)) for n in range(8)]
    t = trajectory(step("a room", "go", *same, *refused), end=outcome("The end.", done=True))
    result = run("world-model-data", stdin=lines([t])).ok()
    transitions = Counter(r["transition"] for r in result.records)
    assert transitions == {"changed": 2, "done": 1, "invalid": 1}
    assert (
        "3 repeated transitions left out" in result.err
        and "7 invalid transitions beyond --max-invalid-fraction left out" in result.err
    )
    assert "max-invalid-fraction=0.3 max-repeats=2" in result.records[0]["lineage"][-1]
    whole = run("world-model-data", "--max-repeats", "all", "--max-invalid-fraction", 1, stdin=lines([t])).ok()
    assert len(whole.records) == 14
    two = trajectory(step("a room", "go", alternative("jump", outcome("You jump.")), *refused), end=outcome("The end."))
    most = run("world-model-data", "--max-invalid-fraction", 0.6, stdin=lines([two])).ok().records
    assert Counter(r["transition"] == "invalid" for r in most) == {False: 2, True: 3}, "exactly 0.6"
    for wrong in ("0", "-1", "some"):
        run("world-model-data", "--max-repeats", wrong, stdin=b"").one_error(2, "--max-repeats")


# -- what is unknown -------------------------------------------------------------------------------------------------


def parts(example: dict, name: str) -> list[str]:
    text = example["completion"][0]["content"]
    return [text[s["start"] : s["end"]] for s in example["spans"] if s["name"] == name]


@pytest.mark.parametrize("style", text_styles())
def test_parts_that_house_calls_unknown(style, data):
    """They are spans of their own, which together are the whole text, with the given weight."""
    weights = {}
    for args, weight in [
        ([], 1.0),
        (["--predictable", "environment"], 0.0),
        (["--predictable", "environment", "--unknown-weight", "0.1"], 0.1),
    ]:
        records = run("world-model-data", "--prompt-style", style, *args, data["rollout"]).ok().records
        weights[weight] = [[{**s, "weight": None} for s in e["spans"]] for e in records]
        unknown = [s for e in records for s in e["spans"] if s["name"] == "unknown"]
        assert unknown and {s["weight"] for s in unknown} == {weight}
        for e in records:
            text = e["completion"][0]["content"]
            spans = spans_of(e)
            assert "".join(text[s.start : s.end] for s in spans) == text, "nothing is left out, nothing comes twice"
            assert spans[0].name == spans[-1].name == "observation" and {s.name for s in spans} <= {
                "observation",
                "unknown",
            }
            assert all(part in text and not part.endswith(" ") for part in parts(e, "unknown"))
    assert weights[1.0] == weights[0.0] == weights[0.1]


def test_a_part_takes_the_blank_before_it_and_no_mark():
    t = trajectory(step("a room", "go"), end=outcome("Behind it: a hall.", unknown=[[11, 17]], done=True))
    (e,) = examples_of(t).values()
    assert parts(e, "unknown") == [" a hall"]
    (e,) = examples_of({**t, "outcome": outcome("a hall", unknown=[[0, 6]])}).values()
    assert parts(e, "unknown") == ["a hall"] and parts(e, "observation") == ["<next_state>\n", "\n</next_state>"]


def test_an_environment_that_cannot_tell_is_one_error(tmp_path):
    t = trajectory(step("a room", "go"), end=outcome("The end."))
    line = run("world-model-data", "--predictable", "environment", stdin=lines([t])).one_error(
        3, "<stdin>:1: $.steps: "
    )
    assert "somewhere cannot tell" in line and "--predictable model" in line
    complete = {**t, "outcome": outcome("The end.", unknown=[])}
    run("world-model-data", "--predictable", "environment", stdin=lines([complete])).ok()
    file = write(tmp_path / "t.jsonl", [complete, t, complete])
    result = run("world-model-data", "--predictable", "environment", "--on-error", "skip", file).ok(4)
    assert len(result.records) == 2 and "1 set aside" in result.err


def test_parts_that_do_not_fit_are_refused():
    for unknown in ([[0, 99]], [[5, 2]], [[-1, 2]]):
        t = trajectory(
            step("a room", "go", alternative("x", outcome("abc", unknown=unknown))), step("b", "go"), end=None
        )
        line = run("world-model-data", stdin=lines([t])).one_error(3, "$.steps[0].alternatives[0]: unknown: characters")
        assert "of a text of 3" in line
    run("world-model-data", stdin=lines([trajectory(step("a", "b"), end=outcome("c", unknown=[[1]]))])).one_error(
        3, "$.outcome.unknown[0]"
    )


@pytest.fixture(scope="module")
def hf():
    with open_model("hf:tiny") as model:
        yield model


@pytest.mark.parametrize("least", [0.001, 0.05, 0.5])
def test_words_that_a_model_cannot_predict(hf, data, least):
    """A word is one part where the product of its tokens' probabilities is small, by a plain sum over its tokens."""
    t = read(data["rollout"])[0]
    choices = WorldModelSettings(predictable="model", min_probability=least, max_repeats=None)
    judged = list(world_model_data(iter([t]), STYLE, choices, model=hf))
    plain = list(world_model_data(iter([t]), STYLE, ALL))
    assert [e["id"] for e in judged] == [e["id"] for e in plain]
    marked = 0
    for example in judged[:12]:
        text = example["completion"][0]["content"]
        head = len(STYLE.predicting.open)
        inner = text[head : -len(STYLE.predicting.close)]
        score = Score(example["prompt"], [text], ids=[hf.encode(example["prompt"], example["completion"])])
        sample = hf.ask([score])[0][0]
        starts = [len(hf.spell(sample.ids[:i])) for i in range(len(sample.ids))]
        low, at = set(), head
        for word in inner.split():
            start = text.index(word, at)
            begin = start - 1 if start > head and text[start - 1] == " " else start
            at = start + len(word)
            logprob = sum(p for p, s in zip(sample.logprobs, starts) if begin <= s < at)
            if logprob < math.log(least):
                low.update(range(begin, at))
        positions = {i for s in example["spans"] if s["name"] == "unknown" for i in range(s["start"], s["end"])}
        assert positions == low
        marked += len(positions)
        assert all(s.get("weight", 1.0) == (0.0 if s["name"] == "unknown" else 1.0) for s in example["spans"])
    assert marked


def test_a_model_that_judges_must_be_given(data):
    run("world-model-data", "--predictable", "model", data["rollout"]).one_error(2, "--predictable model needs -m")
    for args, message in [
        (["--unknown-weight", "0.1"], "--unknown-weight needs --predictable"),
        (["--predictable", "environment", "--min-probability", "0.1"], "--min-probability needs --predictable model"),
    ]:
        run("world-model-data", *args, data["rollout"]).one_error(2, message)
    run("world-model-data", "--predictable", "model", "-m", "http://localhost:9/v1#x", data["rollout"]).one_error(
        2, "a server cannot"
    )
    long = read(data["rollout"])[0]
    long["steps"][0]["observation"] = "word " * 4000
    result = run("world-model-data", "--predictable", "model", "-m", "tiny", "--on-error", "skip", stdin=lines([long]))
    assert result.ok(4).records == [] and "$.steps[0]: " in result.err and "larger --context" in result.err


# -- only what is new ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a\nb\nc", "a\nB\nc", ["B"]),
        ("a\nb", "a\nb\nb", ["b"]),
        ("a\n\nb", "c\n\nd", ["c\n\nd"]),
        ("a\n\nb", "c\n\nb\n\nd", ["c", "d"]),
        ("a\nb", "b\na", ["b\na"]),
        ("a\nb\nc", "a\nc", ["a\nc"]),
        ("a\nb", "a\nb", []),
        ("a", "b", ["b"]),
        ("", "b\n\n", ["b\n\n"]),
        ("a", "", [""]),
        ("a", "a\n\n", ["a\n\n"]),
    ],
)
def test_new_lines(before, after, expected):
    assert [after[start:end] for start, end in new_lines(before, after)] == expected


@given(st.lists(st.sampled_from("abcd"), max_size=6), st.lists(st.sampled_from("abcd"), max_size=6))
def test_new_lines_and_old_ones_make_the_observation(before, after):
    """Nothing is invented, and every line of the observation is a new one or an earlier one."""
    text = "\n".join(after)
    new = Counter(line for start, end in new_lines("\n".join(before), text) for line in text[start:end].split("\n"))
    assert not new - Counter(text.split("\n"))
    assert not Counter(after) - new - Counter(before)


def test_changes_have_a_request_of_their_own():
    t = trajectory(
        step("hall\nlamp off", "switch lamp", alternative("wait", outcome("hall\nlamp off"))),
        step("hall\nlamp on\na note", "stop"),
        end=outcome("The end.", done=True),
    )
    examples = examples_of(t, WorldModelSettings(changes=True))
    assert texts(examples) == {
        "0/world_model/expert": "lamp on\na note",
        "0/world_model/0": STYLE.predicting.unchanged,
        "1/world_model/expert": "The end.",
    }
    for e in examples.values():
        assert e["target"] == "changes" and e["prompt"][-1]["content"] == STYLE.predicting.request_changes
    assert all(e["target"] == "observation" for e in examples_of(t).values())


def test_unknown_parts_of_what_is_new():
    text = "a hall\na lamp\na red box\nthe sea"
    unknown = [[2, 6], [11, 19], [25, 31]]  # hall; mp, a red; he sea
    target = target_of(outcome(text, unknown=unknown), "a hall\nx", STYLE, WorldModelSettings(changes=True))
    assert target.text == "a lamp\na red box\nthe sea"
    assert [target.text[a:b] for a, b in target.unknown] == ["mp", "a red", "he sea"]
    whole = target_of(outcome(text, unknown=unknown), "y", STYLE, WorldModelSettings(changes=True))
    assert (whole.text, whole.unknown) == (text, [(2, 6), (11, 19), (25, 31)])
    with pytest.raises(InputError):
        target_of(outcome("ab", unknown=[[0, 3]]), "", STYLE, WorldModelSettings())


# -- summaries -------------------------------------------------------------------------------------------------------


def test_summaries_are_the_targets():
    t = trajectory(
        step("a room", "go", alternative("look", outcome("a long page", summary="a page", unknown=[[2, 6]]))),
        step("a long hall", "stop", summary="a hall"),
        end=outcome("The end.", done=True),
    )
    examples = examples_of(t)
    assert texts(examples) == {
        "0/world_model/expert": "a hall",
        "0/world_model/0": "a page",
        "1/world_model/expert": "The end.",
    }
    assert [e["target"] for e in examples.values()] == ["summary", "summary", "observation"]
    assert parts(examples["0/world_model/0"], "unknown") == []
    plain = texts(examples_of(t, WorldModelSettings(summaries=False)))
    assert plain["0/world_model/expert"] == "a long hall" and plain["0/world_model/0"] == "a long page"
    assert "summaries=no" in run("world-model-data", "--no-summaries", stdin=lines([t])).ok().records[0]["lineage"][-1]


def test_a_file_is_resumed(data, tmp_path):
    args = ["world-model-data", "--predictable", "environment", data["rollout"], "-o", tmp_path / "out"]
    run(*args).ok()
    whole = (tmp_path / "out").read_bytes()
    (tmp_path / "out").write_bytes(whole[: len(whole) // 2])
    run(*args, "--resume").ok()
    assert (tmp_path / "out").read_bytes() == whole
    assert json.loads(whole.splitlines()[0])["transition"]
