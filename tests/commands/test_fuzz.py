"""Mutated lines through every stage. `make fuzz` runs many more; see tests/fuzz."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from fuzz import hostile, variants
from fuzz.laws import problems, same_json
from fuzz.minimise import minimise
from fuzz.mutations import Mutator
from fuzz.runner import batch
from running import ROOT, environment

from eexp.cli import COMMANDS
from eexp.console.stream import Stream
from eexp.records import jsonl
from eexp.records import types as record_types

LINES, PARTS = 2_000, 4
FEWER = 100  # of part 0, which every run of the tests includes
WITHOUT = {"env", "models", "plugins", "prompts", "schema", "export", "plan"}  # stages that read no records


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("part", "lines"), [(0, FEWER), *(pytest.param(part, LINES, marks=pytest.mark.long) for part in range(PARTS))]
)
def test_mutated_lines_break_no_law(part: int, lines: int, tmp_path):
    """In a process of its own: a line that takes the process down is a finding, too."""
    some = variants.VARIANTS[part::PARTS]
    names = [variant.name for variant in some]
    share = sum(variant.share for variant in some) / sum(variant.share for variant in variants.VARIANTS)
    only = [argument for name in names for argument in ("--only", name)]
    process = subprocess.run(
        [sys.executable, "-m", "fuzz", "--lines", str(round(lines * share)), "--jobs", "1", "--minimise", "20", *only],
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}"),
        cwd=ROOT,
    )
    assert process.returncode == 0, process.stdout + process.stderr


def test_every_stage_that_reads_records_is_fuzzed():
    fuzzed = {variant.stage for variant in variants.VARIANTS}
    missing = set(COMMANDS) - fuzzed - WITHOUT
    assert not missing, (
        f"add a Variant of {sorted(missing)} to VARIANTS in tests/fuzz/variants.py, or name it in WITHOUT"
    )
    assert not fuzzed & WITHOUT


def test_the_seed_decides_every_line():
    variant = variants.BY_NAME["split"]
    assert batch(variant, 3, 7, 50) == batch(variant, 3, 7, 50)
    assert batch(variant, 3, 7, 50) != batch(variant, 4, 7, 50)
    assert batch(variant, 3, 7, 50) != batch(variant, 3, 8, 50)


def test_mutations_are_of_all_levels():
    """Lines that are no JSON, JSON that is no record, and records that are taken, each in numbers."""
    good = variants.seeds()
    mutator = Mutator(random.Random(1), good["trajectory"], good["example"], [])
    kinds = {"no JSON": 0, "no record": 0, "a record": 0}
    for _ in range(600):
        line = mutator.line().split(b"\n")[0]
        try:
            record_types.check(jsonl.loads(line), "trajectory")
            kinds["a record"] += 1
        except jsonl.InputError as e:
            kinds["no JSON" if "not valid JSON" in str(e) else "no record"] += 1
        except TypeError:
            kinds["no record"] += 1
    assert min(kinds.values()) > 60, kinds


def test_hostile_numbers_are_distinguished():
    assert not same_json(2**64, float(2**64))
    assert not same_json(True, 1) and not same_json([1], [1.0]) and not same_json({"a": 1}, {"b": 1})
    assert same_json({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]})
    assert str(2**64) in hostile.NUMBERS


# -- the fuzzer finds what it is for: faults put in by hand ------------------------------------------------------------


def _laws(name: str, lines: list[bytes]) -> set[str]:
    return {problem.law for problem in problems(variants.BY_NAME[name], lines)}


@pytest.fixture
def lines() -> list[bytes]:
    return [*variants.controls("trajectory"), b"{}", b"null", b"{", b'{"type": "example"}']


def test_a_traceback_is_found(lines, monkeypatch):
    monkeypatch.setattr("eexp.examples.parts.part_of", lambda record, parts, seed: 1 // 0)
    assert _laws("split", lines) == {"no traceback"}


def test_a_lost_record_is_found(lines, monkeypatch):
    monkeypatch.setattr(
        "eexp.examples.parts.part_of", lambda record, parts, seed: 1 + (record["id"] == "control-0") * 2
    )
    assert _laws("split", lines) == {"no record is lost"}


def test_an_altered_record_is_found(lines, monkeypatch):
    write = Stream.write
    monkeypatch.setattr(Stream, "write", lambda self, record, **more: write(self, {**record, "id": "x"}, **more))
    assert "what a stage does not know stays" in _laws("split", lines)


def test_a_wrong_exit_code_is_found(lines, monkeypatch):
    monkeypatch.setattr(Stream, "exit_code", 0)
    assert _laws("split", lines) == {"the right exit code"}


def test_a_reject_that_is_not_kept_is_found(lines, monkeypatch):
    monkeypatch.setattr(Stream, "_write_reject", lambda *args: None)
    assert "the right exit code" in _laws("split", lines)


def test_control_bytes_are_found(lines, monkeypatch):
    monkeypatch.setattr(Stream, "summary", lambda self: print("\x1b[2J", file=sys.stderr) or "30 in")
    assert "no control bytes on standard error" in _laws("split", lines)


def test_chatter_on_standard_output_is_found(lines, monkeypatch):
    monkeypatch.setattr(Stream, "summary", lambda self: print("30 in") or "30 in, 2 out")
    assert "standard output is JSONL" in _laws("split", lines)


def test_a_failing_input_is_made_smaller():
    lines = [b"good"] * 20 + [b"a long line with a fault in it"] + [b"good"] * 20
    assert minimise(lines, lambda subset: any(b"fault" in line for line in subset), 10) == [b"fault"]
