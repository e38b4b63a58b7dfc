"""Tests of sessions for the trace viewer of Hugging Face's hub, as `eexp export-log --format hf-traces` writes them."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from running import lines, python_of, read, run

from eexp.formats.export_log import file_names

PEER = Path(__file__).parents[1] / "peers" / "datasets_peer.py"


def texts_of(trajectory: dict) -> list[tuple[str, str]]:
    """Return the roles and the texts of a run: the task, then observations and actions in turn."""
    turns = [
        pair for step in trajectory["steps"] for pair in (("user", step["observation"]), ("assistant", step["action"]))
    ]
    return [("user", trajectory["instruction"]), *turns, ("user", trajectory["outcome"]["observation"])]


def text_of(message: dict) -> str:
    content = message["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def test_a_session_is_the_run_with_alternatives_as_branches(data):
    """Entries come after their parents, the last one ends the run, and branches hold each alternative and outcome."""
    for trajectory in read(data["rollout"])[:3]:
        out = run("export-log", "--format", "hf-traces", "--alternatives", stdin=lines([trajectory])).ok().out
        header, *entries = map(json.loads, out.splitlines())
        assert (header["type"], header["version"], header["harness"]) == ("session", 3, "eexp")
        assert (header["id"], header["name"]) == (trajectory["id"], trajectory["instruction"])
        by_id, children = {}, defaultdict(list)
        for entry in entries:
            assert entry["parentId"] is None or entry["parentId"] in by_id
            by_id[entry["id"]] = entry
            children[entry["parentId"]].append(entry)
        path, entry = [], entries[-1]
        while entry:
            path.insert(0, entry)
            entry = by_id.get(entry["parentId"])
        assert [(e["message"]["role"], text_of(e["message"])) for e in path] == texts_of(trajectory)
        assert [e for e in entries if e["type"] == "message"] == path
        states = [e["parentId"] for e in path if e["message"]["role"] == "assistant"]
        for step, state in zip(trajectory["steps"], states, strict=True):
            branches = [e for e in children[state] if e["type"] == "custom_message"]
            assert [e["content"] for e in branches] == [a["action"] for a in step["alternatives"]]
            for branch, alternative in zip(branches, step["alternatives"], strict=True):
                assert [e["details"] for e in children[branch["id"]]] == [alternative["outcome"]]


def test_every_record_is_a_file_of_its_own(data, tmp_path):
    records = read(data["episodes"])
    twice = [*records, {**records[0], "id": "../x\n"}, records[0]]
    result = run(
        "export-log", "--format", "hf-traces", "--sessions", tmp_path / "new" / "traces", stdin=lines(twice)
    ).ok()
    assert f"{len(twice)} sessions written" in result.err
    files = [*(tmp_path / "new" / "traces").iterdir()]
    assert len(files) == len(twice) and {p.suffix for p in files} == {".jsonl"}
    assert sorted(read(file)[0]["id"] for file in files) == sorted(record["id"] for record in twice)
    name_of = file_names()
    assert name_of("a/b") != name_of("a-b") and name_of("a/b").endswith("-2.jsonl")
    message = "a file of hf-traces holds one record; --sessions DIR"
    assert message in run("export-log", "--format", "hf-traces", stdin=lines(twice)).one_error(2)
    run("export-log", "--format", "atif", "--sessions", tmp_path, stdin=b"").one_error(2, "--sessions is for")


@pytest.mark.slow
def test_datasets_reads_a_session_as_the_messages_of_the_run(data, tmp_path):
    python = python_of("datasets")
    records = {record["id"]: record for record in read(data["rollout"])}
    run("export-log", "--format", "hf-traces", "--alternatives", "--sessions", tmp_path / "t", data["rollout"]).ok()
    command = [python, PEER, tmp_path / "t", tmp_path / "cache"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    rows = [json.loads(line)["row"] for line in process.stdout.splitlines()]
    assert {row["session_id"] for row in rows} == {*records}
    for row in rows:
        record = records[row["session_id"]]
        assert row["prompt"] == record["instruction"]
        assert [(m["role"], m["content"]) for m in row["messages"]] == texts_of(record)
