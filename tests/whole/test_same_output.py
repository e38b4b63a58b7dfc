"""benchmarks/same_output.py: whether its calls cover every option, and whether it finds a difference."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT

SCRIPT = ROOT / "benchmarks" / "same_output.py"


def same_output(*args: object) -> subprocess.CompletedProcess[str]:
    """Run the script to its end."""
    return subprocess.run([sys.executable, SCRIPT, *map(str, args)], capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("same_output", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_option_is_exercised():
    process = same_output("--check")
    assert process.returncode == 0, f"add a call to benchmarks/same_output_calls.py: {process.stderr}"


@pytest.fixture
def changed(tmp_path) -> Path:
    """A copy of this tree with another word in an observation."""
    shutil.copytree(ROOT / "eexp", tmp_path / "eexp", ignore=shutil.ignore_patterns("__pycache__"))
    (house,) = (tmp_path / "eexp").rglob("house.py")
    assert "You are in the" in house.read_text()
    house.write_text(house.read_text().replace("You are in the", "You are at the"))
    return tmp_path


@pytest.mark.long
def test_a_tree_writes_the_same_as_itself_and_a_changed_one_does_not(changed, tmp_path):
    options = ["--keep", tmp_path / "kept", "--only", "imitation,expert-class"]
    same = same_output(ROOT, ROOT, *options)
    assert same.returncode == 0, same.stdout + same.stderr
    assert "2 calls: none differ in what they write, none in texts for people; options: the same" in same.stdout
    other = same_output(ROOT, changed, *options)
    assert other.returncode == 1, other.stdout + other.stderr
    assert "old: 0 calls run" in other.stdout
    *lines, last = other.stdout.splitlines()
    (difference,) = [line for line in lines if line.startswith("imitation")]
    assert difference.startswith("imitation: out: line 1, column ")
    assert "You are in the" in difference and "You are at" in difference
    assert not any(line.startswith("expert-class") for line in lines)
    assert last == "2 calls: 1 differ in what they write, none in texts for people; options: the same"


def test_calls_that_the_old_tree_does_not_understand_are_not_compared(script, monkeypatch):
    calls = {
        name: script.Call(words) for name, words in (("a", "new"), ("b", "mix @a"), ("c", "mix @b/x"), ("d", "mix"))
    }
    monkeypatch.setattr(script, "CALLS", calls)
    reasons = script.not_in({"a": "No such command 'new'."})
    assert reasons == {"a": "No such command 'new'.", "b": "it reads @a", "c": "it reads @b"}


@pytest.mark.long
def test_a_command_that_the_old_tree_lacks_is_named(tmp_path):
    shutil.copytree(ROOT / "eexp", tmp_path / "eexp", ignore=shutil.ignore_patterns("__pycache__"))
    cli = tmp_path / "eexp" / "cli.py"
    cli.write_text("".join(line for line in cli.read_text().splitlines(True) if not line.startswith('    "recover": ')))
    process = same_output(tmp_path, ROOT, "--only", "recover,imitation-recovered,imitation,schema-task")
    assert "recover: not in OLD, not compared: No such command 'recover'." in process.stdout, process.stderr
    assert "options: recover is new" in process.stdout and "calls: none differ in what they write" in process.stdout


def test_options_are_compared_by_name_and_facts(script):
    old = {"recover": {"--most": {"default": 3, "help": None}, "--pool": {}}, "score": {}}
    new = {"recover": {"--most": {"default": 4, "help": None}, "--first": {}}, "mix": {}}
    assert list(script.changed_options(old, old)) == []
    assert list(script.changed_options(old, new)) == [
        "mix is new",
        "recover --first is new",
        "recover --most: default is 3 | 4",
        "recover --pool is gone",
        "score is gone",
    ]


def test_texts_for_people_may_differ(script):
    rejects, schema = script.Call("recover", code=4), script.Call("schema task")
    pairs = [
        (rejects, "rejects.jsonl", b'{"line": 3, "error": "%s"}\n'),
        (schema, "out", b'{"properties": {"env": {"description": "%s", "type": "string"}}}'),
        (schema, "page.html", b'<p>%s</p><script type="application/json" id="rows">[1]</script>'),
        (rejects, "README.md", b"%s"),
    ]
    for call, name, content in pairs:
        one, other = (script.records_in(call, name, content % word) for word in (b"bad", b"wrong"))
        assert one == other
    assert script.records_in(rejects, "rejects.jsonl", b'{"line": 3}') != script.records_in(
        rejects, "rejects.jsonl", b""
    )
    described = b'{"properties": {"description": {"type": "%s"}}}'  # a field of that name
    assert script.records_in(schema, "out", described % b"a") != script.records_in(schema, "out", described % b"b")


def test_the_first_difference_is_shown_with_its_place(script):
    difference = script.first_difference(b'{"a": 1}\n{"b": 2}\n', b'{"a": 1}\n{"b": 3}\n')
    assert difference == """line 2, column 7: '{"b": 2}' | '{"b": 3}'"""
    assert script.first_difference(b"one\n", b"one\ntwo\n") == "line 2, column 1: its end | 'two'"
    assert script.first_difference(b"GGUF\0\1", b"GGUF\0\2").startswith("byte 5: 01 (of 6) | 02 (of 6)")


def test_an_option_and_a_value_without_a_call_are_named(script):
    duplicates = {"type": {"choices": ["keep", "exact", "near"]}, "default": "keep"}
    options = {"--limit": {"type": {}}, "--duplicates": duplicates, "--resume": {"type": {}}}
    exercised = [["mix", "", None], ["mix", "--duplicates", "near"]]
    gaps = list(script.not_exercised({"surface": {"mix": options, "new": {}}, "exercised": exercised}))
    assert gaps[:3] == ["mix --limit", "mix --duplicates: not with exact", "new: no call"]
    assert all(line.startswith("NO_EFFECT names ") for line in gaps[3:]) and "--resume" not in "".join(gaps)
