"""Tests of records: checks that name the place, schemas that agree with them, seeds that never change."""

from __future__ import annotations

import copy
import json
import string

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import read, run

from eexp.errors import InputError
from eexp.records.record import canonical, example, expert_outcome, lineage_entry, seed_of, with_lineage
from eexp.records.types import TYPES, check, schema

RECORDS = {
    "trajectory": {
        "type": "trajectory",
        "id": "house/train/1",
        "env": "house",
        "task": {"id": "train/1"},
        "instruction": "Do.",
        "steps": [
            {
                "observation": "o",
                "action": "a",
                "admissible": ["a", "b"],
                "thought": None,
                "alternatives": [
                    {"action": "b", "source": "policy", "logprob": -1, "outcome": {"observation": "p", "score": 0}}
                ],
            }
        ],
        "outcome": {"observation": "q", "done": True, "score": 1.0, "valid": True, "success": True},
        "lineage": ["expert 0.2.0"],
    },
    "example": {
        "type": "example",
        "id": "1",
        "kind": "imitation",
        "prompt": [{"role": "user", "content": "p"}],
        "completion": [{"role": "assistant", "content": "c"}],
        "weight": 1,
        "group": None,
    },
    "preference": {
        "type": "preference",
        "id": "1",
        "prompt": [{"role": "user", "content": "p"}],
        "chosen": [{"role": "assistant", "content": "c"}],
        "rejected": [{"role": "assistant", "content": "r"}],
        "weight": 1,
        "group": None,
        "worse": "refused",
    },
    "episode": {
        "type": "episode",
        "id": "1",
        "env": "house",
        "task": {},
        "success": False,
        "steps": 3,
        "score": None,
        "transcript": [{"observation": "o", "action": "a", "text": None}],
    },
    "task": {"type": "task", "env": "house", "split": "test", "kind": "put", "task": {"id": "test/1"}},
}


def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema(kind))


@pytest.mark.parametrize("kind", TYPES)
def test_schemas_are_schemas(kind):
    jsonschema.Draft202012Validator.check_schema(schema(kind))
    assert schema(kind)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    _validator(kind).validate(RECORDS[kind])
    assert check(RECORDS[kind], kind) is RECORDS[kind]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("expert", "trajectory"),
        ("branched", "trajectory"),
        ("rollout", "trajectory"),
        ("world", "example"),
        ("reflected", "example"),
        ("imitation", "example"),
        ("episodes", "episode"),
    ],
)
def test_output_of_the_stages_is_valid(name, kind, data):
    printed = json.loads(run("schema", kind).ok().out)
    validator = jsonschema.Draft202012Validator(printed)
    for record in read(data[name]):
        validator.validate(record)
        check(record, kind)


def _places(value, path=()):
    """Yield the place of every part of a JSON value, as a tuple of keys."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _places(inner, (*path, i))


def _as_json_path(path) -> str:
    return "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)


WRONG = [None, True, 3, 2.5, "text", [], {}, [None], {"a": 1}]


@pytest.mark.parametrize("kind", TYPES)
def test_checks_and_schemas_agree_about_every_place(kind):
    """A wrong value at each place in turn is refused by both, and the check names the place, or accepted by both."""
    validator, refused = _validator(kind), 0
    for path in _places(RECORDS[kind]):
        if not path:
            continue
        for wrong in WRONG:
            record = copy.deepcopy(RECORDS[kind])
            target = record
            for part in path[:-1]:
                target = target[part]
            target[path[-1]] = wrong
            fits = validator.is_valid(record)
            try:
                check(record, kind)
                assert fits, f"{_as_json_path(path)} = {wrong!r} passes the check and not the schema"
            except InputError as e:
                assert not fits, f"{_as_json_path(path)} = {wrong!r} passes the schema and not the check"
                assert e.where.startswith(_as_json_path(path)), f"{e.where} is not {_as_json_path(path)}"
                assert str(e).startswith(e.where + ": ") and "`" not in str(e).replace(f"`{wrong}`", "")
                refused += 1
    assert refused > 20


@pytest.mark.parametrize("kind", TYPES)
def test_a_missing_required_field_is_named(kind):
    required = schema(kind)["$defs"][TYPES[kind].__name__]["required"]
    for name in required:
        record = {k: v for k, v in RECORDS[kind].items() if k != name}
        with pytest.raises(InputError) as caught:
            check(record, kind)
        assert caught.value.where == f"$.{name}"
        assert not _validator(kind).is_valid(record)
    optional = set(RECORDS[kind]) - set(required)
    check({k: v for k, v in RECORDS[kind].items() if k not in optional}, kind)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("record", [None, 1, "x", [], {}, {"type": None}, {"type": "reject"}, {"type": ["example"]}])
def test_values_of_other_types_are_refused(kind, record):
    with pytest.raises(InputError) as caught:
        check(record, kind)
    assert caught.value.where in ("$", "$.type")


def test_unknown_keys_are_accepted():
    for kind, record in RECORDS.items():
        more = copy.deepcopy(record)
        for path in list(_places(record)):
            target = more
            for part in path:
                target = target[part]
            if isinstance(target, dict):
                target["zz"] = {"anything": [1, None]}
        assert check(more, kind) is more
        _validator(kind).validate(more)


# -- canonical -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "same"),
    [
        ("Open Door", "open door"),
        ("  open \t door\n", "open door"),
        ("open door.", "open door"),
        ('"open door!"', "open door"),
        ("`open door`", "open door"),
        ("STRASSE", "straße"),
        ("", ""),
        (" . ", ""),
        ("open door 1.5", "open door 1.5"),
        ("don't", "don't"),
    ],
)
def test_canonical(action, same):
    assert canonical(action) == canonical(same)


def test_canonical_keeps_different_actions_different():
    assert len({canonical(a) for a in ("open door", "open doors", "opendoor", "close door", "door open")}) == 5


@given(st.text())
def test_canonical_twice_is_canonical_once(text):
    assert canonical(canonical(text)) == canonical(text)


@given(st.text(alphabet=string.ascii_letters + string.digits + " .!?'\"`-", max_size=20), st.sampled_from(" .!\"'`"))
def test_canonical_ignores_outer_blanks_and_punctuation(text, around):
    assert canonical(f"{around}{text}{around}") == canonical(text)
    assert canonical(text.upper()) == canonical(text)


# -- seeds -----------------------------------------------------------------------------------------------------------


def test_seeds_never_change():
    """Golden values: a change here changes every random draw of every record ever made."""
    assert seed_of() == 8238016292129134938
    assert seed_of(0, "house/train/0", 0) == 819297857444783288
    assert seed_of("panel", "test/12") == 7387050351610340187
    assert seed_of(1, "ünïcödé") == 610332602217062153


@settings(max_examples=200)
@given(
    st.lists(st.integers() | st.text(max_size=5), max_size=4), st.lists(st.integers() | st.text(max_size=5), max_size=4)
)
def test_different_parts_give_different_seeds(a, b):
    assert 0 <= seed_of(*a) < 2**63
    if "\x1f" not in "".join(map(str, a + b)):
        assert (seed_of(*a) == seed_of(*b)) == (list(map(str, a)) == list(map(str, b))) or not (a and b)


# -- lineage, outcomes, examples -------------------------------------------------------------------------------------


def test_lineage():
    from eexp import __version__

    assert lineage_entry("mix") == f"mix {__version__}"
    assert (
        lineage_entry("branch", k=4, max_tokens=9, model=None, **{"from": "policy"})
        == f"branch {__version__} k=4 max-tokens=9 from=policy"
    )
    before = {"type": "x", "lineage": ["a"], "id": "1"}
    after = with_lineage(before, "b")
    assert after == {"type": "x", "id": "1", "lineage": ["a", "b"]} and list(after)[-1] == "lineage"
    assert before["lineage"] == ["a"]
    assert with_lineage({"id": "1"}, "b")["lineage"] == ["b"]


def test_expert_outcomes():
    t = {"steps": [{"observation": "0"}, {"observation": "1"}], "outcome": {"observation": "2", "done": True}}
    assert expert_outcome(t, 0) == {"observation": "1"}
    assert expert_outcome(t, 1) == {"observation": "2", "done": True}
    assert expert_outcome({**t, "outcome": None}, 1) is None


def test_examples_are_records():
    t = RECORDS["trajectory"]
    record = example(t, "0/x", "x", RECORDS["example"]["prompt"], RECORDS["example"]["completion"], "react@1", more=1)
    check(record, "example")
    assert record["id"] == "house/train/1/0/x" and record["group"] == t["id"] and record["more"] == 1
    assert record["lineage"] == t["lineage"]


def test_examples_load_as_a_dataset(data):
    """`datasets` and TRL read this form as it is: prompt and completion, both lists of messages."""
    for e in read(data["world"])[:5]:
        assert {"prompt", "completion"} <= set(e)
        assert all(set(m) == {"role", "content"} for m in e["prompt"] + e["completion"])
        assert e["completion"][0]["role"] == "assistant"
