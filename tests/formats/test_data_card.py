"""Tests of the data card that `eexp card` writes, and of what `datasets` loads by it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given
from running import python_of, read, run, write

from eexp.formats.features import Feature, yaml_lines

PEER = Path(__file__).parents[1] / "peers" / "datasets_peer.py"


def head_of(card: str) -> dict:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_a_card_says_what_the_files_hold(data, tmp_path):
    rollout, imitation = tmp_path / "rollout.jsonl", tmp_path / "my il.v2.jsonl"
    rollout.write_bytes(data["rollout"].read_bytes())
    imitation.write_bytes(data["imitation"].read_bytes())
    given_fields = ("--license", "mit", "--language", "no", "--language", "en", "--tag", "house", "--title", "A: b")
    more = ("--field", "task_categories=text-generation", "--field", "task_categories=question-answering")
    command = ("card", rollout, imitation, *given_fields, *more, "-o", tmp_path / "README.md")
    result = run(*command).ok()
    assert result.out == b"" and "README.md" in result.err and "license" not in result.err
    card = (tmp_path / "README.md").read_text()
    head = head_of(card)
    assert (head["license"], head["language"], head["pretty_name"]) == ("mit", ["no", "en"], "A: b")
    assert head["task_categories"] == ["text-generation", "question-answering"] and "house" in head["tags"]
    assert head["size_categories"] == ["n<1K"]
    assert [(c["config_name"], c["data_files"][0]["path"]) for c in head["configs"]] == [
        ("rollout", "rollout.jsonl"),
        ("my-il", "my il.v2.jsonl"),
    ]
    assert hashlib.sha256(rollout.read_bytes()).hexdigest() in card
    alternatives = [a for t in read(rollout) for s in t["steps"] for a in s["alternatives"]]
    assert f"of {len(alternatives)} alternatives" in card
    for entry in read(rollout)[0]["lineage"]:
        assert f"`{entry}`" in card
    run(*command).ok()
    assert (tmp_path / "README.md").read_text() == card


def test_only_outcomes_of_rollout_count_as_verified(data, tmp_path):
    (trajectory, *_) = read(data["rollout"])
    number = sum(len(step["alternatives"]) for step in trajectory["steps"])
    executed = run("card", write(tmp_path / "a.jsonl", [trajectory])).ok().out.decode()
    assert f"{number} of {number} alternatives (100.0 %) have a verified" in executed
    claimed = {**trajectory, "lineage": ["import 0.2.0 format=atif"]}
    assert (
        f"0 of {number} alternatives (0.0 %) have a verified"
        in run("card", write(tmp_path / "b.jsonl", [claimed])).ok().out.decode()
    )
    text = run("export-log", "--format", "atif", "--alternatives", tmp_path / "a.jsonl").ok().out
    again = run("rollout", "--env", "house", stdin=run("import", "atif", "--name", "house", stdin=text).ok().out).ok()
    assert "(0.0 %) have a verified" in run("card", write(tmp_path / "c.jsonl", again.records)).ok().out.decode()


def test_each_model_has_its_tasks(data, tmp_path):
    episodes = [{**e, "model": model} for model in ("a", "b") for e in read(data["episodes"])]
    card = run("card", write(tmp_path / "episodes", episodes)).ok().out.decode()
    number = len({e["task"]["id"] for e in read(data["episodes"])})
    assert [line.split("|")[5].strip() for line in card.splitlines() if "`a`" in line or "`b`" in line] == [
        str(number)
    ] * 2


def test_what_a_card_refuses(data, tmp_path):
    run("card", "-", stdin=b"").one_error(2, "a card needs the names of files")
    run("card", data["expert"], data["expert"]).one_error(2, "is given twice")
    run("card", data["expert"], "-o", data["expert"]).one_error(2)
    run("card", write(tmp_path / "empty.jsonl", [])).one_error(3, "no records in it")
    run("card", data["expert"], "--field", "license=mit").one_error(2, "has an option of its own")
    run("card", data["expert"], "--field", "a").one_error(2, "expected KEY=VALUE")
    assert "no license is claimed" in run("card", data["expert"]).ok().err


def test_texts_of_records_stay_texts(data, tmp_path):
    """Neither the head nor the text takes markup from a record or a name."""
    evil = "`|\n---\nlicense: x\n# <script>\x1b[31m"
    record = {**read(data["rollout"])[0], "env": evil, "lineage": [evil], evil: {evil: 1}}
    card = run("card", write(tmp_path / "a.jsonl", [record]), "--title", evil).ok().out.decode()
    head = head_of(card)
    assert "license" not in head and head["pretty_name"] == evil
    assert head["dataset_info"][0]["features"][-1] == {"name": evil, "struct": [{"name": evil, "dtype": "int64"}]}
    assert "\x1b" not in card and not any(line.startswith(("license", "# <")) for line in card.splitlines())


_TEXTS = st.text(max_size=8) | st.sampled_from(["no", "1.0", "a: b", "- a", "null", "\u2028", "#", "~", "'", "é"])
_HEADS = st.recursive(
    _TEXTS | st.booleans(),
    lambda part: (
        st.lists(_TEXTS, min_size=1, max_size=3)
        | st.lists(st.dictionaries(_TEXTS, part, min_size=1, max_size=3), min_size=1, max_size=3)
        | st.dictionaries(_TEXTS, part, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(_TEXTS, _HEADS, min_size=1, max_size=4))
def test_the_head_is_the_yaml_of_its_values(head):
    assert yaml.safe_load("\n".join(yaml_lines(head))) == head


def test_types_are_read_off_all_values():
    feature = Feature()
    feature.add({"a": 1, "b": "x", "c": None, "d": [], "e": {}, "f": [1], "g": [{"h": True}], "j": 1})
    feature.add(
        {"a": 1.5, "b": 2, "f": [[2]], "g": [{"i": [{"k": 1}]}], "j": 1 << 63, "l": {str(n): n for n in range(200)}}
    )
    assert feature.fields() == [
        {"name": "a", "dtype": "float64"},
        {"name": "b", "dtype": "json"},
        {"name": "c", "dtype": "null"},
        {"name": "d", "list": "null"},
        {"name": "e", "dtype": "json"},
        {"name": "f", "list": "json"},
        {
            "name": "g",
            "list": [{"name": "h", "dtype": "bool"}, {"name": "i", "list": [{"name": "k", "dtype": "int64"}]}],
        },
        {"name": "j", "dtype": "json"},
        {"name": "l", "dtype": "json"},
    ]


def without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_datasets_loads_every_type_of_record_by_the_card(data, tmp_path):
    """Also a file of several types, and one in which a field comes after the ten megabytes that `datasets` looks at."""
    python = python_of("datasets")
    trajectory = read(data["rollout"])[0]
    late = {**trajectory, "odd": {"a": [1, "x"]}, "outcome": {**trajectory["outcome"], "changed": True}}
    plain = [{**trajectory, "instruction": "x" * 1_000_000}] * 11
    records = {
        **{name: read(data[name]) for name in ("rollout", "imitation", "world", "reflected")},
        "preferences": run("preference-data", data["rollout"]).ok().records,
        "episodes": read(data["episodes"]),
        "panel": run("panel", "house", "-n", "3").ok().records,
        "mixed": [trajectory, read(data["imitation"])[0], read(data["episodes"])[0]],
        "late": [*plain, late],
    }
    files = [write(tmp_path / f"{name}.jsonl", rows) for name, rows in records.items()]
    run("card", *files, "-o", tmp_path / "README.md").ok()
    command = [python, PEER, tmp_path, tmp_path / "cache"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    loaded: dict[str, list] = {name: [] for name in records}
    for line in map(json.loads, process.stdout.splitlines()):
        loaded[line["config"]].append(line["row"])
    for name, rows in records.items():
        assert without_nulls(loaded[name]) == without_nulls(rows), name
