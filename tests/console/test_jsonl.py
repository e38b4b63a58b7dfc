"""Tests of reading and writing lines: counts, errors, cut lines, and memory that does not grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import EEXP, environment, read, run, start, write

from eexp.console.stream import Stream
from eexp.errors import InputError
from eexp.records import jsonl

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_written_values_are_read_back(value):
    line = jsonl.dumps(value)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert jsonl.loads(line) == value and json.loads(line) == value


def test_values_that_json_cannot_hold_are_refused():
    for value in ("\ud800", {"\udfff": 1}, {1, 2}, object()):
        with pytest.raises(InputError, match="cannot be written as JSON"):
            jsonl.dumps(value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "column 2"),
        (b'{"a": }\n', "column 7"),
        (b"{}}\n", "column 3"),
        (b"nan\n", "not valid JSON"),
        (b'{"a": "\xe9"}\n', "not UTF-8 text: byte 0xe9 at column 8"),
        (b"'a'\n", "column 1"),
    ],
)
def test_bad_lines_name_their_column(line, message):
    with pytest.raises(InputError) as caught:
        jsonl.loads(line)
    assert message in str(caught.value)
    assert ("the file ends within this line" in str(caught.value)) == (not line.endswith(b"\n"))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=6), st.binary(max_size=40))
def test_cut_half_line(whole, rest):
    """All whole lines are kept, and nothing after them."""
    rest = rest.replace(b"\n", b"")
    text = b"".join(line + b"\n" for line in whole)
    with tempfile.TemporaryDirectory() as here:
        file = Path(here) / "file"
        file.write_bytes(text + rest)
        assert jsonl.cut_half_line(file) == len(rest)
        assert file.read_bytes() == text
        assert jsonl.cut_half_line(file) == 0


@pytest.mark.parametrize("size", [65535, 65536, 65537, 200_000])
def test_cut_half_line_of_a_long_line(size, tmp_path):
    file = tmp_path / "file"
    for before in (b"", b"one\n", b"x" * 65535 + b"\n", b"x" * 65536 + b"\n"):
        file.write_bytes(before + b"y" * size)
        assert jsonl.cut_half_line(file) == size and file.read_bytes() == before


def test_lines_are_numbered_with_the_blank_ones(tmp_path):
    (tmp_path / "a").write_bytes(b"\n1\n\n 2\r\n3")
    name = str(tmp_path / "a")
    assert list(jsonl.lines([name])) == [(name, 2, b"1\n"), (name, 4, b" 2\r\n"), (name, 5, b"3")]


def test_a_stream_reports_its_counts(data, capsys, tmp_path):
    with Stream([str(data["expert"])], str(tmp_path / "out"), types=["trajectory"]).open("x", a=1, b=None) as io:
        for record in io.records():
            io.write(record)
            io.count("odd things", 2)
        io.count("nothing", 0)
    assert capsys.readouterr().err == "x: 3 in, 3 out, 6 odd things\n"
    assert [r["lineage"][-1] for r in read(tmp_path / "out")] == ["x 0.2.0 a=1".replace("0.2.0", _version())] * 3


def _version() -> str:
    from eexp import __version__

    return __version__


def test_an_error_in_a_stage_leaves_whole_lines(data, tmp_path):
    out = tmp_path / "out"
    bad = write(tmp_path / "bad", [*read(data["expert"])[:2], {"type": "trajectory"}])
    run("branch", "--from", "admissible", bad, "-o", out).one_error(3, f"{bad}:3")
    assert len(read(out)) == 2


def test_two_writers_of_one_file_are_refused(data, tmp_path):
    """The second gets the number of the process that writes, and does not change the file."""
    out, rejects = tmp_path / "out", tmp_path / "rejects"
    args = ["imitation-data", data["expert"]]
    first = start("imitation-data", "-o", out, "--rejects", rejects, stdin=subprocess.PIPE)
    try:
        trajectory = read(data["expert"])[0]
        first.stdin.write(jsonl.dumps(trajectory))
        first.stdin.flush()
        examples = len(trajectory["steps"])
        wait_for(lambda: rejects.exists() and out.exists() and out.read_bytes().count(b"\n") == examples)
        before = out.read_bytes()
        run(*args, "-o", out).one_error(1, f"{out}: process {first.pid} is writing it")
        run(*args, "-o", tmp_path / "other", "--rejects", rejects).one_error(1, f"{rejects}: process {first.pid}")
        run("branch", "--resume", "-o", out, data["expert"]).one_error(1, f"{out}: process {first.pid}")
        assert out.read_bytes() == before
    finally:
        first.stdin.close()
        assert first.wait(60) == 0
    run(*args, "-o", out).ok()


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("standard_input", [False, True], ids=["FILE", "< FILE"])
@pytest.mark.parametrize("stage", ["split", "mix"])
def test_standard_output_is_not_a_file_that_is_read(stage, standard_input, data, tmp_path):
    """`eexp STAGE f >> f` would read its own output without end."""
    file = tmp_path / "f"
    file.write_bytes(data["imitation"].read_bytes())
    args = [stage, *(["--part", "1"] if stage == "split" else []), *([] if standard_input else [str(file)])]
    with file.open("ab") as out, file.open("rb") as source:
        child = start(*args, stdin=source, stdout=out, stderr=subprocess.PIPE)
        message = child.communicate(timeout=120)[1].decode()
    assert child.returncode == 2 and message.splitlines() == [
        "error: standard output is both read and written; give another -o"
    ]
    assert file.read_bytes() == data["imitation"].read_bytes()


MEASURE = """
import resource, sys
from eexp.cli import main
try:
    main(sys.argv[1:])
except SystemExit as e:
    assert not e.code, e.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def _peak_kib(args: list[str], record: bytes, count: int) -> int:
    """Return the peak memory, in KiB, of a stage that reads the same record `count` times from a pipe."""
    child = subprocess.Popen(
        [sys.executable, "-c", MEASURE, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    for _ in range(count):
        child.stdin.write(record)
    child.stdin.close()
    message = child.stderr.read()
    assert child.wait() == 0, message
    return int(message.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize(
    ("args", "name", "per_record"),
    [
        pytest.param(["imitation-data", "-q"], "expert", 0, marks=pytest.mark.long),
        pytest.param(["world-model-data", "-q"], "rollout", 0, marks=pytest.mark.long),
        pytest.param(["branch", "--from", "admissible", "-q"], "expert", 0, marks=pytest.mark.long),
        (["rollout", "-q"], "branched", 0),
        pytest.param(["show", "--sample", "-n", "1"], "expert", 0, marks=pytest.mark.long),
        (["mix", "-q"], "imitation", 60),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_memory_does_not_grow_with_the_input(args, name, per_record, data):
    """A record is not kept in memory after it is written; mix keeps its place."""
    first = read(data[name])[0]
    if "steps" in first:
        first["steps"], first["outcome"] = first["steps"][:1], None
    record = jsonl.dumps({**first, "more": "x" * 12_000})
    many = 20_000 if name == "imitation" else 2_000
    small, large = _peak_kib(args, record, 50), _peak_kib(args, record, many)
    assert len(record) * many > 20 << 20, "else nothing is shown"
    allowed = 6144 + per_record * many / 1024
    assert large - small < allowed, f"{small} KiB for 100 records, {large} KiB for {many}"


def test_a_processed_record_is_not_kept(tmp_path):
    """Messages about earlier records need their places, not the records."""
    t = {"type": "trajectory", "env": "house", "task": {}, "instruction": "", "steps": [], "more": "x" * 200_000}
    file = write(tmp_path / "in", [{**t, "id": str(i)} for i in range(60)])
    tracemalloc.start()
    try:
        with Stream([str(file)], str(tmp_path / "out"), quiet=True, types=["trajectory"]).open("x") as io:
            for record in io.records():
                io.write(record)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30 * 200_000


def test_all_lines_of_a_record_are_written_before_the_next_is_read(data):
    """A stage does not wait for the next record before it writes the lines of the last one."""
    for args, name in (("imitation-data", "expert"), ("world-model-data", "rollout")):
        first = read(data[name])[0]
        whole = run(args, stdin=jsonl.dumps(first)).ok().out
        child = subprocess.Popen([*EEXP, args, "-q"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
        child.stdin.write(jsonl.dumps(first))
        child.stdin.flush()
        assert child.stdout.read(len(whole)) == whole
        child.stdin.close()
        assert child.stdout.read() == b"" and child.wait() == 0


def test_lines_made_before_an_error_are_written(data, tmp_path):
    first = read(data["expert"])[0]
    whole = run("imitation-data", stdin=jsonl.dumps(first)).ok().out
    (tmp_path / "in").write_bytes(jsonl.dumps(first) + b"{}\n")
    result = run("imitation-data", tmp_path / "in")
    result.one_error(3, f"{tmp_path / 'in'}:2: $.type")
    assert result.out == whole


def test_standard_output_is_bytes(data):
    """Output is UTF-8 in any locale, and lines end with \\n."""
    t = {**read(data["expert"])[0], "note": "日本語 🙂 \u2028 \x85"}
    ascii_only = {**environment(), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    child = subprocess.run(
        [*EEXP, "branch", "--from", "admissible", "-q"], input=jsonl.dumps(t), capture_output=True, env=ascii_only
    )
    assert child.returncode == 0 and "日本語 🙂 \u2028".encode() in child.stdout
    process = subprocess.run(
        [*EEXP, "show"],
        input=jsonl.dumps({**t, "instruction": "日本"}),
        capture_output=True,
        env={**environment(), "LC_ALL": "C.UTF-8"},
    )
    assert "日本".encode() in process.stdout
    assert os.linesep == "\n"
