"""The laws that every stage must obey on any input."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
from running import Result, run

from eexp.errors import InputError
from eexp.records.jsonl import loads
from eexp.records.record import RECORD_TYPES
from eexp.records.types import TYPES, check, schema
from fuzz.variants import CONTROL, GOOD, IN, STUDY, Variant, controls, seeds

REJECTS = "rejects.jsonl"
LONGEST_MESSAGE = 5_000  # characters of one line on standard error
#: What a terminal would act on: control characters but tabs and line ends, and marks that change the direction of text.
_ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Problem:
    """A law that a run broke. `law` and `signature` are equal for what is probably the same fault."""

    law: str
    signature: str
    message: str

    @property
    def key(self) -> tuple[str, str]:
        return self.law, self.signature


@dataclass
class Ended:
    """The end of a run: what it wrote and, if one escaped, the exception."""

    result: Result
    rejects: list[bytes] = field(default_factory=list)
    error: BaseException | None = None


@contextmanager
def _inside(directory: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _caught(directory: str) -> Iterator[dict[int, Path]]:
    """Redirect descriptors 1 and 2 to files, since libraries and children write there past Python's streams."""
    files = {fd: Path(directory, f"descriptor-{fd}") for fd in (1, 2)}
    copies = {fd: os.dup(fd) for fd in files}
    for fd, file in files.items():
        to = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(to, fd)
        os.close(to)
    try:
        yield files
    finally:
        for fd, copy in copies.items():
            os.dup2(copy, fd)
            os.close(copy)


def call(variant: Variant, lines: Sequence[bytes], rejects: bool = False) -> Ended:
    """Run a stage in a directory of its own, in which IN holds `lines`, and GOOD good records of the same kind."""
    directory = tempfile.mkdtemp(prefix="eexp-fuzz-")
    try:
        with _inside(directory), _caught(directory) as descriptors:
            data = (
                b"[" + b",".join(lines) + b"]" if variant.given == "array" else b"".join(line + b"\n" for line in lines)
            )
            Path(IN).write_bytes(data)
            Path(GOOD).write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in seeds()[variant.reads]))
            Path(STUDY).mkdir()
            for arm in (IN, GOOD):
                os.link(arm, Path(STUDY, arm.replace(".jsonl", ".episodes.jsonl")))
            ended = _run(variant.command(REJECTS if rejects else None))
            if Path("canary").exists():
                ended.error = AssertionError("a record had something run: the canary is there")
            if rejects and Path(REJECTS).exists():
                ended.rejects = Path(REJECTS).read_bytes().splitlines(keepends=True)
        ended.result.err += descriptors[2].read_text("utf-8", "replace")
        ended.result.out += descriptors[1].read_bytes()
        return ended
    finally:
        shutil.rmtree(directory)


def _run(arguments: Sequence[str]) -> Ended:
    try:
        return Ended(run(*arguments))
    except Exception as e:
        return Ended(Result(1, b"", "".join(traceback.format_exception(e))), error=e)


def problems(variant: Variant, lines: Sequence[bytes], thorough: bool = False) -> list[Problem]:
    """Run a stage on lines and return the laws that it broke.

    Args:
        thorough: Whether to run it again, without --rejects, to see how the first bad line ends it.
    """
    lines = [part for line in lines for part in line.split(b"\n")]  # a mutation may have split a line in two
    if variant.streams:
        return _of_stream(variant, lines, thorough)
    return _of_stopping(variant, lines, thorough)


# -- stages that set bad records aside ---------------------------------------------------------------------------------


def _of_stream(variant: Variant, lines: Sequence[bytes], thorough: bool) -> list[Problem]:
    ended = call(variant, lines, rejects=True)
    broken_laws = _crash(ended)
    if broken_laws:
        return broken_laws
    if variant.given == "array":  # the elements of a broken array are unknown
        return _exit_code(ended, {0, 3, 4}) + _messages(ended) + _output(variant, ended.result.out)[1]
    if variant.given == "answers":
        return _of_answers(variant, ended, sum(bool(line.strip()) for line in lines))
    whole = {number: line for number, line in enumerate(lines, 1) if line.strip()}
    rejected, broken_laws = _rejects(variant, ended, whole)
    aside = [one for one in rejected if one.get("set_aside") is not False]
    if not broken_laws:  # else not all of the rejects are known
        broken_laws += _exit_code(ended, variant.codes | {4} if len(variant.codes) > 1 else {4} if aside else {0})
        broken_laws += _counted(variant, ended, len(whole), len(aside))
    broken_laws += _messages(ended)
    records, wrong = _output(variant, ended.result.out)
    broken_laws += wrong
    if not broken_laws:  # else the checks below would only repeat the same problem
        lost = {one.get("line") for one in aside}
        broken_laws += _none_lost(variant, whole, lost, records)
        broken_laws += _controls_unharmed(variant, lines, ended.result.out)
    if thorough and not broken_laws:
        broken_laws += _stops(variant, lines, ended, aside)
    return broken_laws


def _of_answers(variant: Variant, ended: Ended, tasks: int) -> list[Problem]:
    """Check a run with a hostile program: every task comes out, or is set aside."""
    records, broken_laws = _output(variant, ended.result.out)
    broken_laws += _exit_code(ended, {4} if ended.rejects else {0}) + _messages(ended)
    for line in ended.rejects:
        if _strict(line) is None:
            broken_laws.append(Problem("the rejects file is JSONL", "", repr(line[:200])))
    if not broken_laws and len(records) + len(ended.rejects) != tasks:
        counts = f"{len(records)} out, {len(ended.rejects)} set aside"
        broken_laws.append(Problem("no record is lost", "answers", f"{tasks} tasks, {counts}"))
    return broken_laws


def _crash(ended: Ended) -> list[Problem]:
    if ended.error is not None:
        frames = [f for f in traceback.extract_tb(ended.error.__traceback__) if "eexp" in f.filename]
        ours = [f for f in frames if f"{os.sep}tests{os.sep}" not in f.filename] or frames
        name = type(ended.error).__name__
        where = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else ""
        return [Problem("no traceback", f"{name} {where}", f"{name}: {str(ended.error)[:300]} ({where})")]
    if "Traceback" in ended.result.err:
        last = ended.result.err.strip().splitlines()[-1]
        return [Problem("no traceback", last.split(":")[0], last[:300])]
    return []


def _exit_code(ended: Ended, expected: set[int] | frozenset[int]) -> list[Problem]:
    code = ended.result.code
    if code in expected:
        return []
    message = next((line for line in ended.result.err.splitlines() if line.startswith("error:")), "")
    words = re.sub(r"[^a-z ]+", "", message.lower())[:60]
    return [
        Problem("the right exit code", f"{code} {words}", f"exit code {code}, not {sorted(expected)}: {message[:300]}")
    ]


def _messages(ended: Ended) -> list[Problem]:
    """Check that standard error has no active control characters, and no line too long to read."""
    broken_laws = []
    if active := _ACTIVE.search(ended.result.err):
        around = ended.result.err[max(0, active.start() - 60) : active.end() + 20]
        broken_laws.append(Problem("no control bytes on standard error", "", repr(around)))
    if (longest := max(map(len, ended.result.err.splitlines()), default=0)) > LONGEST_MESSAGE:
        broken_laws.append(Problem("messages are short", "", f"a line of {longest} characters on standard error"))
    return broken_laws


def _counted(variant: Variant, ended: Ended, n_in: int, n_aside: int) -> list[Problem]:
    """Check the counts in the summary."""
    summary = re.findall(rf"^{re.escape(variant.stage)}: .*?(\d+) in\b(.*)", ended.result.err, re.MULTILINE)
    if not summary:
        return [] if ended.result.code not in (0, 4) else [Problem("the summary counts", "none", "there is no summary")]
    said_in, rest = summary[-1]
    said_aside = re.search(r"(\d+) set aside", rest)
    if int(said_in) != n_in:
        return [Problem("the summary counts", "in", f"{said_in} in, and there were {n_in}")]
    if int(said_aside[1] if said_aside else 0) != n_aside:
        count = said_aside[0] if said_aside else "nothing set aside"
        return [Problem("the summary counts", "aside", f"{count}, and {n_aside} are in the rejects file")]
    return []


def _rejects(variant: Variant, ended: Ended, whole: dict[int, bytes]) -> tuple[list[dict], list[Problem]]:
    """Read the rejects file, and compare each reject with the input line that it is about."""
    rejected = []
    for line in ended.rejects:
        try:
            one = json.loads(line.decode())
        except ValueError as e:
            return rejected, [Problem("the rejects file is JSONL", "", f"{e}: {line[:200]!r}")]
        except RecursionError:  # deeper than Python's own parser goes; the record is not looked at
            one = _shallow(line)
        if not isinstance(one, dict) or one.get("type") != "reject" or not one.get("error"):
            return rejected, [Problem("the rejects file is JSONL", "fields", f"no reject: {line[:200]!r}")]
        if one.get("file") != IN or one.get("line") not in whole:
            place = f"{one.get('file')}:{one.get('line')}"
            return rejected, [Problem("a reject says where it is from", "", f"{place}: {line[:200]!r}")]
        if wrong := _kept_whole(one, whole[one["line"]]):
            return rejected, [wrong]
        rejected.append(one)
    return rejected, []


def _shallow(line: bytes) -> dict:
    """Return a reject without its record, which nests too deep to be parsed here."""
    number = re.search(rb'"line":\s*(\d+)', line)
    return {
        "type": "reject",
        "error": "deep",
        "file": IN,
        "line": int(number[1]) if number else None,
        "set_aside": b'"set_aside":false' not in line[-30:] and b'"set_aside": false' not in line[-30:],
    }


def _kept_whole(one: dict, line: bytes) -> Problem | None:
    """Return a problem unless the reject has the record as it was read, or the text where that is no record."""
    record = one.get("record")
    if record is None:
        return None if line.strip() in (b"null",) or "record" not in one else _altered(one, line)
    if isinstance(record, dict) and set(record) == {"text"}:
        same = record["text"].rstrip("\n") == line.decode("utf-8", "replace").rstrip("\n")
        return None if same or _strict(line) is not None else _altered(one, line)
    if _is_part(one):
        return None
    parsed = _strict(line)
    return None if parsed is None or same_json(record, parsed[0]) else _altered(one, line)


def _is_part(one: dict) -> bool:
    """Return whether a reject is of a part of a record, such as one state; the record itself was processed."""
    return isinstance(one.get("record"), dict) and set(one["record"]) == {"type", "id"}


def _altered(one: dict, line: bytes) -> Problem:
    return Problem("the rejects file has what came", "", f"{str(one.get('record'))[:150]} for {line[:150]!r}")


def _strict(line: bytes) -> tuple[Any] | None:
    """Parse a line as strict JSON with exact integers; return None where it is not JSON or nests too deep to tell."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        return (json.loads(line.decode(), parse_constant=refuse),)
    except (ValueError, RecursionError):
        return None


def same_json(one: Any, other: Any) -> bool:
    """Return whether two parsed values are the same JSON: 1 is neither 1.0 nor true."""
    todo = [(one, other)]
    while todo:
        a, b = todo.pop()
        if type(a) is not type(b):
            return False
        if isinstance(a, dict):
            if a.keys() != b.keys():
                return False
            todo += [(a[key], b[key]) for key in a]
        elif isinstance(a, list):
            if len(a) != len(b):
                return False
            todo += zip(a, b)
        elif a != b:
            return False
    return True


def _output(variant: Variant, out: bytes) -> tuple[list[dict], list[Problem]]:
    """Read standard output: valid records, one a line, or for a person text without control bytes."""
    if variant.writes is None:
        text = out.decode("utf-8", "replace")
        active = _ACTIVE.search(text)
        around = repr(text[max(0, active.start() - 60) : active.end() + 20]) if active else ""
        return [], [Problem("no control bytes on standard output", "", around)] if active else []
    records = []
    for line in out.splitlines(keepends=True):
        parsed = _strict(line) if line.endswith(b"\n") else None
        if parsed is None:
            return records, [Problem("standard output is JSONL", "", repr(line[:200]))]
        (record,) = parsed
        if variant.writes == "json":
            continue
        try:
            check(record, record.get("type") if variant.writes == "any" else variant.writes)
        except InputError as e:
            hint = "" if variant.writes == "any" else f" (the variant `writes` {variant.writes}; a filter writes any)"
            return records, [Problem("records are valid", str(e).split(":")[-1][:60], f"{e}: {line[:200]!r}{hint}")]
        if record.get("lineage") and not record["lineage"][-1].startswith(f"{variant.stage} "):
            return records, [Problem("the lineage ends with the stage", "", repr(record["lineage"])[:200])]
        records.append(record)
    if records and variant.writes != "any":  # one of them is validated against the published schema, too
        try:
            jsonschema.validate(records[len(out) % len(records)], schema(variant.writes))
        except jsonschema.ValidationError as e:
            return records, [Problem("records fit the schema", e.json_path[:60], f"{e.json_path}: {e.message[:200]}")]
    return records, []


def _none_lost(variant: Variant, whole: dict[int, bytes], aside: set[Any], records: list[dict]) -> list[Problem]:
    """Check that every line comes out or is set aside, and that what comes out is what came in."""
    inputs = [(number, _strict(line)) for number, line in whole.items() if number not in aside]
    if variant.one_to_one and len(inputs) != len(records):
        return [Problem("no record is lost", "", f"{len(inputs)} lines not set aside, {len(records)} records out")]
    if variant.kept:
        for (number, parsed), record in zip(inputs, records):
            if parsed is None:
                continue
            lineage = parsed[0].get("lineage", [])
            if variant.kept_out is None and record["lineage"][:-1] != lineage:
                return [Problem("what a stage does not know stays", "lineage", f"line {number}: {lineage!r}"[:300])]
            if not same_json(variant.kept(parsed[0]), (variant.kept_out or variant.kept)(record)):
                return [Problem("what a stage does not know stays", "", f"line {number}: {json.dumps(record)[:300]}")]
    if variant.expected and all(parsed for _, parsed in inputs):
        expected = sum(variant.expected(parsed[0]) for _, parsed in inputs if parsed)
        if expected != len(records):
            return [Problem("no record is lost", "count", f"{len(records)} records, and {expected} were to come")]
    return []


_CONTROL_OUT: dict[tuple[str, tuple[bytes, ...]], list[bytes]] = {}


def _controls_unharmed(variant: Variant, lines: Sequence[bytes], out: bytes) -> list[Problem]:
    """Check that good records among bad ones have the same output as alone."""
    good = set(controls(variant.reads))
    present = tuple(line for line in lines if line in good)
    if not present or variant.writes is None:
        return []
    if (key := (variant.name, present)) not in _CONTROL_OUT:
        _CONTROL_OUT[key] = call(variant, present, rejects=True).result.out.splitlines()
    mark = CONTROL.encode()
    control_lines = [line for line in out.splitlines() if mark in line]
    if control_lines != _CONTROL_OUT[key]:
        more = f"{len(control_lines)} lines of good records, {len(_CONTROL_OUT[key])} without bad neighbours"
        return [Problem("good records are not harmed by their neighbours", "", more)]
    return []


def _stops(variant: Variant, lines: Sequence[bytes], before: Ended, aside: list[dict]) -> list[Problem]:
    """Check that without --rejects the first bad line ends a run: one error that names it, the output before it."""
    ended = call(variant, lines)
    if broken_laws := _crash(ended):
        return broken_laws
    aside = [one for one in aside if not _is_part(one)]
    if not aside:
        return _exit_code(ended, {before.result.code})
    broken_laws = _exit_code(ended, {1, 3}) + _messages(ended)
    errors = [line for line in ended.result.err.splitlines() if line.lower().startswith("error:")]
    if len(errors) != 1:
        broken_laws.append(
            Problem("a failure is one line", "", f"{len(errors)} error lines: {ended.result.err[-300:]!r}")
        )
    elif not any(errors[0].startswith(f"error: {IN}:{one['line']}:") for one in aside if one.get("line")):
        broken_laws.append(Problem("a failure says where", "", errors[0][:300]))
    if not before.result.out.startswith(ended.result.out):
        broken_laws.append(Problem("what comes before a bad line is the same", "", repr(ended.result.out[-200:])))
    return broken_laws


# -- stages that end at the first bad line -----------------------------------------------------------------------------


_STOPS_TRIED = 12  # bad lines of a batch that are tried, each in a run of its own


def _is_bad(variant: Variant, line: bytes) -> bool:
    try:
        record = loads(line + b"\n")
    except InputError:
        return True
    types = {"any": tuple(TYPES), "records": RECORD_TYPES}
    accepted = "records" if variant.stage in ("show", "stats") else variant.reads
    for kind in types.get(accepted, (accepted,)):
        try:
            check(record, kind)
            return False
        except InputError:
            pass
        except Exception:  # a finding; the stage, given this line, shows it
            return True
    return True


def _of_stopping(variant: Variant, lines: Sequence[bytes], thorough: bool) -> list[Problem]:
    present = [line for line in lines if line.strip()]
    bad = [line for line in present if _is_bad(variant, line)]
    good = [line for line in present if line not in set(bad)]
    broken_laws = []
    for line in bad if len(lines) < 2 * _STOPS_TRIED or thorough else bad[:_STOPS_TRIED]:
        ended = call(variant, [line])
        broken_laws += _crash(ended) or [*_exit_code(ended, {3}), *_messages(ended)]
    if not good:
        return broken_laws
    ended = call(variant, good)
    if crash := _crash(ended):
        return broken_laws + crash
    broken_laws += _exit_code(ended, variant.codes) + _messages(ended)
    records, wrong = _output(variant, ended.result.out)
    broken_laws += wrong
    if variant.one_to_one and not broken_laws:
        broken_laws += _none_lost(variant, dict(enumerate(good, 1)), set(), records)
    return broken_laws
