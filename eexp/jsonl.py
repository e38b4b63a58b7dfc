"""Records in and out: one JSON object a line, read and written as they come.

Nothing here holds more than one record at a time, except the ids a resumed run has already written. Every line is
flushed as soon as it is whole, so the next stage of a pipe starts at once and a killed run loses only the line it was
writing. Fast stages (`Stream.write_lines`) flush once they have to wait: when all lines of a record are written and,
where they read regular files, for which they need not wait, when a buffer is full.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
import stat
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from eexp import records
from eexp.errors import EXIT_OK, EXIT_SET_ASIDE, EexpError, InputError, UsageError
from eexp.locks import lock
from eexp.terminal import tell

STDIN = "-"
_NAME_OF_STDIN = "<stdin>"
_NOT_SET_ASIDE = (b'"set_aside":false}\n', b'"set_aside": false}\n')  # how a line of `Stream.keep` ends

#: What a pure stage calls with a record it cannot process; returns if the run is to go on without it.
OnError = Callable[[dict, InputError], None]


def stop_at_error(record: dict, error: InputError) -> None:
    """The default of every pure stage: the first record that cannot be processed ends it."""
    raise error


def dumps(record: Any) -> bytes:
    """One record as a line, newline included."""
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as e:  # e.g. a lone surrogate, which JSON in UTF-8 cannot hold
        raise InputError(f"cannot be written as JSON: {e}") from None


#: Whole lines: how many, and their bytes. Many short lines are faster written at once, long ones need not be.
Lines = tuple[int, bytes]
BLOCK_BYTES = 1 << 16  # bytes of lines that are worth being written


def line_template(record: dict, *varying: str) -> list[bytes]:
    """The parts of one record's line before, between and after the values of `varying`, in the record's order."""
    return dumps({**record, **dict.fromkeys(varying, _HOLE)}).split(b"\0")


_HOLE = orjson.Fragment(b"\0")  # JSON has this byte nowhere else: it stands as its escape


def loads(line: bytes) -> Any:
    """Parse one line; raises InputError that says what is wrong and at which column.

    What the parser takes but no stage could pass on as it came is refused: integers of more than 64 bits, which it
    makes floats, and deeper nesting than the writer takes.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as e:
        whole = line.endswith(b"\n")
        hint = "" if whole else " (the file ends within this line)"
        raise InputError(f"not valid JSON: {e.msg} at column {e.colno}{hint}") from None
    outline = line.translate(_OUTLINE)
    if _MANY_DIGITS in outline:
        _refuse_large_integers(line)
    if outline.count(b"(") > _MOST_LEVELS - _WRAPPING:
        _refuse_deep_nesting(value)
    return value


#: A line's characters by what matters for a first look at it: 0 a digit, ( an opening bracket, . anything else.
_OUTLINE = bytes(ord("0") if 48 <= c < 58 else ord("(") if c in b"[{" else ord(".") for c in range(256))
_MANY_DIGITS = b"0" * 19  # as many as the smallest integers have that do not fit
_MOST_LEVELS = 254  # of nesting, that orjson writes
_WRAPPING = 8  # levels that rejects and requests to workers put around a record, and some to spare
#: Whole strings, and numbers; group 1 of an integer, but for one with a fraction or an exponent, is empty.
_STRING_OR_NUMBER = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9]+([.eE][0-9.eE+-]*)?', re.DOTALL)


def _refuse_large_integers(line: bytes) -> None:
    for token in _STRING_OR_NUMBER.finditer(line):
        text = token[0].decode("ascii", "replace")
        is_integer = not text.startswith('"') and token[1] is None
        if is_integer and (len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 64):
            raise InputError(
                f"the integer {text[:40]} at column {token.start() + 1} has more than 64 bits; write it "
                f"as a string or a float"
            )


def _refuse_deep_nesting(value: Any) -> None:
    for _ in range(_WRAPPING):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        raise InputError(f"nested more than {_MOST_LEVELS - _WRAPPING} levels deep") from None


def lines(files: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
    """(file, line number, line) of all files in order; "-" is standard input; blank lines are passed over."""
    for name in files or [STDIN]:
        with _opened(name) as (shown, source):
            for number, line in enumerate(source, 1):
                if line.strip():
                    yield shown, number, line


class Element(int):
    """The number of an element of a JSON array, from 1, told from that of a line."""

    def __str__(self) -> str:
        return f"element {int(self)}"


def elements(files: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
    """As `lines`; but where a file is one JSON array, its elements are what comes, and their numbers."""
    for name in files or [STDIN]:
        with _opened(name) as (shown, source):
            blank, first = 0, source.readline(_CHUNK)
            while first and not first.strip():
                blank, first = blank + 1, source.readline(_CHUNK)
            if first.lstrip().startswith(b"["):
                for number, text in enumerate(_array(first, source, shown), 1):
                    yield shown, Element(number), text
                continue
            if not first.endswith(b"\n"):
                first += source.readline()
            for number, line in enumerate(chain([first], source), blank + 1):
                if line.strip():
                    yield shown, number, line


_CHUNK = 1 << 20
#: What matters for finding the elements of an array: whole strings, brackets, commas, and strings that go on.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},"]', re.DOTALL)


def _array(text: bytes, source: BinaryIO, shown: str) -> Iterator[bytes]:
    """The elements of the array that begins in `text` and goes on in `source`, one at a time, unparsed.

    Memory is for one of them. They are cut apart by brackets and commas outside of strings; whether each is JSON is
    for the parser to say. Raises InputError where the file does not end with the array.
    """
    start = at = text.index(b"[") + 1
    depth = found = 0
    while True:
        for token in _TOKEN.finditer(text, at):
            if token[0] == b'"':  # goes on in what has not been read yet
                at = token.start()
                break
            at = token.end()
            if token[0] in (b"[", b"{"):
                depth += 1
            elif depth and token[0] in (b"]", b"}"):
                depth -= 1
            elif not depth and token[0] in (b",", b"]", b"}"):
                part = text[start : token.start()]
                if part.strip() or found or token[0] == b",":
                    found += 1
                    yield part + b"\n"
                start = at
                if token[0] != b",":
                    if (text[at:] + source.read(_CHUNK)).strip():
                        raise InputError(f"{shown}: something follows the array")
                    return
        else:
            at = len(text)
        more = source.read1(_CHUNK)
        if not more:
            raise InputError(f"{shown}: the file ends within the array, in element {found + 1}")
        text, at, start = text[start:] + more, at - start, 0


@contextmanager
def _opened(name: str) -> Iterator[tuple[str, BinaryIO]]:
    """(how messages call it, the file); what goes wrong with the file is told with its name."""
    shown = _NAME_OF_STDIN if name == STDIN else name
    source = _open_to_read(name)
    try:
        yield shown, source
    except OSError as e:
        raise InputError(f"{shown}: {e.strerror or e}") from None
    finally:
        if name != STDIN:
            source.close()


def _status(name: str) -> os.stat_result | None:
    """What the system says about a file or, for "-", about what standard input is redirected from."""
    try:
        return os.fstat(sys.stdin.fileno()) if name == STDIN else os.stat(name)
    except (OSError, ValueError):  # ValueError: a standard input that is no file at all
        return None


def _is_regular(name: str) -> bool:
    status = _status(name)
    return status is not None and stat.S_ISREG(status.st_mode)


def _status_of_stdout() -> os.stat_result | None:
    try:
        return os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return None


def _open_to_read(name: str) -> BinaryIO:
    if name == STDIN:
        if sys.stdin.isatty():
            tell("eexp: waiting for records on standard input (end with Ctrl-D)")
        return sys.stdin.buffer
    try:
        return open(name, "rb")
    except OSError as e:
        raise InputError(f"{name}: {e.strerror or e}") from None


def read(files: Sequence[str], kind: str) -> Reader:
    """All records of `files`, each checked to be a `kind`; the first bad one raises InputError with its place."""
    return Reader(files, kind)


class Reader(Iterator[dict]):
    """What `read` returns; `place` is that of the record that was read last, as in `file.jsonl:41`."""

    def __init__(self, files: Sequence[str], kind: str):
        self.place = ""
        self._records = self._read(files, kind)

    def __iter__(self) -> Iterator[dict]:
        return self._records

    def __next__(self) -> dict:
        return next(self._records)

    def _read(self, files: Sequence[str], kind: str) -> Iterator[dict]:
        for name, number, line in lines(files):
            self.place = f"{name}:{number}"
            try:
                record = records.check(loads(line), kind)
            except InputError as e:
                raise InputError(f"{self.place}: {e}") from None
            yield record


def cut_half_line(path: str | os.PathLike) -> int:
    """Remove what follows the last newline of a file, as a killed run leaves it; returns the bytes removed."""
    with open(path, "r+b") as f:
        end = size = f.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            f.seek(start)
            found = f.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        f.truncate(end)
    return size - end


class Stream(AbstractContextManager):
    """What one command reads, writes, sets aside and counts.

    files, output, on_error ("stop" or "skip"), rejects, resume and quiet are the command-line options of the same
    names. keep_rejects: rejects of an earlier run are kept, as --resume keeps them. reports_rejects: False where another process
    reads the same, and tells of what is set aside. `open` names the stage and its settings; then `records()` reads,
    `write()` writes, `fail()` sets aside. Files that are written are locked until the end.
    """

    def __init__(
        self,
        files: Sequence[str] = (),
        output: str | None = None,
        on_error: str = "stop",
        rejects: str | None = None,
        resume: bool = False,
        quiet: bool = False,
        *,
        keep_rejects: bool = False,
        reports_rejects: bool = True,
    ):
        self.files, self.output, self.on_error, self.quiet = list(files), output, on_error, quiet
        self.rejects, self.resume, self.reports_rejects = rejects, resume, reports_rejects
        self.report: str | None = None  # a further file that the command writes, set before `open`
        self.also_read: list[str] = []  # further files that the command reads, set before `open`
        self.stage, self.kind, self.entry = "", "", ""
        self.counts: Counter[str] = Counter()
        self.set_aside = 0
        self.where: tuple[str, int] | None = None  # file and line of the record at hand, for messages
        self._read_lately: deque[tuple[int, Any, tuple[str, int]]] = deque(maxlen=256)  # for stages that read ahead
        self._out: BinaryIO | None = None
        self._rejected: BinaryIO | None = None
        self._rejected_before: set[bytes] = set()
        self._done: Counter[str] = Counter()
        self._found_done = False
        self._goes_on = keep_rejects  # from what an earlier run left

    def open(self, stage: str, kind: str | None = None, **settings: Any) -> Stream:
        """Start `stage`, which reads records of type `kind`; `settings` go into the lineage of what it writes."""
        self.stage, self.kind = stage, kind or ""
        self.entry = records.lineage_entry(stage, **settings)
        if self.resume and not self.output:
            raise UsageError("--resume needs -o FILE: it goes on from what FILE already holds")
        if self.rejects and self.on_error == "stop":
            self.on_error = "skip"  # whoever names a file for rejects wants the run to go on
        self.refuse_to_overwrite_input()
        self._out = self._open_output()
        if self.rejects:
            self._rejected = open_to_write(self.rejects, "ab" if self._goes_on else "wb")
            if self._goes_on and os.path.isfile(self.rejects):
                cut_half_line(self.rejects)
                self._rejected_before = set(Path(self.rejects).read_bytes().splitlines(keepends=True))
        return self

    def refuse_to_overwrite_input(self) -> None:
        """Raise UsageError where a file to write is one that is read, or two of them are one."""
        named = {"-o": self.output, "--rejects": self.rejects, "--summary": self.report}
        options = [option for option, target in named.items() if target and target != STDIN]
        for i, option in enumerate(options):
            for other in options[i + 1 :]:
                if os.path.realpath(named[option]) == os.path.realpath(named[other]):
                    raise UsageError(f"{named[option]} is both {option} and {other}; give two files")
        targets = [named[option] for option in options]
        if self.output in (None, "", STDIN):
            targets.append(None)
        refuse_to_overwrite(targets, [*(self.files or [STDIN]), *self.also_read])

    def _open_output(self) -> BinaryIO:
        if not self.output or self.output == STDIN:
            if self.resume:
                raise UsageError("--resume needs -o FILE: it goes on from what FILE already holds")
            return sys.stdout.buffer
        if not (self.resume and os.path.exists(self.output)):
            return open_to_write(self.output, "wb")
        if not os.path.isfile(self.output):
            raise UsageError(f"--resume cannot go on from {self.output}: not a regular file")
        self._goes_on = True
        output = open_to_write(self.output, "ab")
        self._load_done()
        return output

    def _load_done(self) -> None:
        """Read which records an earlier run of the same command has written."""
        assert self.output
        cut = cut_half_line(self.output)
        if cut:
            self.note(f"removed a half-written last line ({cut} bytes) from {self.output}")
        for _, number, line in lines([self.output]):
            try:
                record = loads(line)
                last = (record.get("lineage") or [""])[-1]
                self._done[record["id"]] += 1
            except (InputError, AttributeError, KeyError, TypeError):
                raise UsageError(
                    f"{self.output}:{number}: not written by `eexp {self.stage}`: remove it or give another -o"
                ) from None
            if last != self.entry:
                raise UsageError(
                    f"{self.output}:{number}: written by `{last}`, but this is `{self.entry}`: "
                    f"give the same options, or another -o"
                )
        self.counts["done before"] = sum(self._done.values())

    def earlier_records(self) -> Iterator[dict]:
        """Yield the records that an earlier run of the same command has written; none without --resume."""
        if self._goes_on and self.output and self.resume:
            for _, _, line in lines([self.output]):
                yield loads(line)

    def done(self, record_id: str) -> bool:
        """Whether an earlier run wrote this record already; asks are counted, so that equal ids are told apart."""
        if self._done.get(record_id, 0) > 0:
            self._done[record_id] -= 1
            self._found_done = True
            return True
        return False

    def records(self, skip_done: bool = True) -> Iterator[dict]:
        """The records to process, checked; those an earlier run wrote are left out (unless `skip_done` is false)."""
        for record in self._read(lines(self.files), self._check):
            if not (skip_done and self.done(record["id"])):
                yield record

    def _check(self, record: Any) -> dict:
        return records.check(record, self.kind)

    def write_lines(self, make: Callable[[Iterator[dict]], Iterator[Lines]]) -> None:
        """Write the lines that a fast stage makes of the records: all of a record's before the next one is waited for.

        make: makes lines of records, all those of a record before it takes the next; it has to ask `done` itself.
        """
        assert self._out is not None
        waits = not all(_is_regular(name) for name in self.files or [STDIN])
        for count, block in make(self._read(self._flushed_between(waits), self._check)):
            if self._goes_on:
                self._check_beginning()
            try:
                self._out.write(block)
            except BrokenPipeError:
                raise
            except OSError as e:
                raise self._not_written(e) from None
            self.counts["out"] += count

    def _flushed_between(self, waits: bool) -> Iterator[tuple[str, int, bytes]]:
        """The lines of the input; `waits`: what was made of those before is flushed before the next one is read."""
        for piece in lines(self.files):
            yield piece
            if waits:
                self._write(b"")

    def foreign_records(self, pieces: Iterable[tuple[str, int, bytes]] | None = None) -> Iterator[dict]:
        """What another program wrote: objects, one a line or the elements of an array, or the texts of `pieces`."""
        return self._read(elements(self.files) if pieces is None else pieces, _object)

    def _read(self, pieces: Iterable[tuple[str, int, bytes]], check: Callable[[Any], dict]) -> Iterator[dict]:
        for name, number, text in pieces:
            self.where = (name, number)
            self.counts["in"] += 1
            record: Any = None
            try:
                record = loads(text)
                accepted = check(record)
            except InputError as e:
                self._fail(record if record is not None else {"text": text.decode("utf-8", "replace")}, e)
                continue
            self._read_lately.append((id(accepted), accepted.get("id"), self.where))
            yield accepted
        self.where = None
        if self.counts["in"] == 0:
            self.note("no records in the input")

    def results(self, answers: Iterable[tuple[tuple, Any]]) -> Iterator[tuple[dict, Any]]:
        """(record, result) out of ((place of the record, record), result), the failed ones set aside."""
        for (self.where, record), result in answers:
            if isinstance(result, InputError):
                self.fail(record, result)
            elif isinstance(result, Exception):
                raise result
            else:
                yield record, result

    def write(self, record: dict, lineage: bool = True) -> None:
        """Write one record, with this stage added to its lineage."""
        self._check_beginning()
        try:
            line = dumps(records.with_lineage(record, self.entry) if lineage else record)
        except InputError as e:  # an environment or a server said what JSON cannot hold
            self.fail(record, e)
            return
        self._write(line)
        self.counts["out"] += 1

    def _check_beginning(self) -> None:
        """Before something is written: output is in the order of the input, so what is done comes first."""
        if self._goes_on and not self._found_done and self.on_error == "stop":
            self._check_input_is_the_same()

    def _write(self, line: bytes) -> None:
        """Write a line, or b"", and flush it and those before."""
        assert self._out is not None
        try:
            self._out.write(line)
            self._out.flush()
        except BrokenPipeError:
            raise
        except OSError as e:
            raise self._not_written(e) from None

    def _not_written(self, error: OSError) -> EexpError:
        return EexpError(f"{self.output or '<stdout>'}: {error.strerror or error}")

    def fail(self, record: dict, error: InputError) -> None:
        """Stop at a record that cannot be processed or, with --on-error skip, set it aside."""
        self.where = self._place(record)
        self._fail(record, error)

    def _fail(self, record: dict, error: InputError) -> None:
        place = ""
        if self.where:
            place = f"{self.where[0]}:{self.where[1]}: "
        elif "id" in record:  # a task, which comes from no file
            place = f"{record['id']}: "
        if self.on_error == "stop":
            located = type(error)(place + str(error), evidence=error.evidence)
            located.where = error.where
            raise located from None
        if not self.reports_rejects:
            return
        tell(f"{self.stage}: set aside: {place}{error}")
        self.reject(record, error)

    def _place(self, record: dict) -> tuple[str, int] | None:
        """Where a record came from: it, or what a stage has made of it; the stage may have read on since."""
        lately = list(reversed(self._read_lately))
        own_id = record.get("id")
        for address, record_id, where in lately:  # both, since a record that is gone may leave its address to another
            if address == id(record) and record_id == own_id:
                return where
        return next((where for _, record_id, where in lately if "id" in record and record_id == own_id), self.where)

    def reject(self, record: dict | None, error: InputError) -> None:
        """Count something as set aside and keep it, with the reason and the evidence, in the rejects file."""
        self.set_aside += 1
        self._write_reject(record, error)

    def keep(self, record: dict, error: InputError) -> None:
        """Keep something in the rejects file that a stage did without: nothing is set aside because of it."""
        self.where = self._place(record)
        self._write_reject(record, error, {"set_aside": False})

    def _write_reject(self, record: dict | None, error: InputError, more: dict | None = None) -> None:
        if not self.rejects:
            return
        file, line = self.where or (None, None)
        rejected = {
            "type": "reject",
            "stage": self.stage,
            "file": file,
            "line": line,
            "field": error.where or None,
            "error": str(error),
            "evidence": error.evidence,
            "record": record,
            **(more or {}),
        }
        data = _dumps_anything(rejected)
        if data not in self._rejected_before:  # a resumed run meets the same bad records again
            try:
                self._rejected.write(data)
                self._rejected.flush()
            except OSError as e:
                raise EexpError(f"{self.rejects}: {e.strerror or e}") from None

    def count(self, what: str, n: int = 1) -> None:
        """Add to a number of the summary."""
        self.counts[what] += n

    def note(self, text: str) -> None:
        """Tell a person something, on stderr."""
        if not self.quiet:
            tell(f"{self.stage}: {text}")

    @property
    def exit_code(self) -> int:
        before = any(not line.endswith(_NOT_SET_ASIDE) for line in self._rejected_before)
        return EXIT_SET_ASIDE if self.set_aside or before else EXIT_OK

    def summary(self) -> str:
        """One line with everything counted."""
        said = [f"{n} {what}" for what, n in self.counts.items() if n or what in ("in", "out")]
        if self.set_aside:
            said.append(f"{self.set_aside} set aside" + (f" in {self.rejects}" if self.rejects else ""))
        return ", ".join(said)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._out and not (kind and issubclass(kind, OSError)):  # whole lines, also before an error
            self._write(b"")
        for f, name in ((self._out, self.output), (self._rejected, self.rejects)):
            if f is not None and f is not sys.stdout.buffer:
                try:
                    f.close()
                except OSError as e:  # what a full disk did not take, of which the error at hand tells
                    if kind is None:
                        raise EexpError(f"{name}: {e.strerror or e}") from None
        if kind is None:
            self._check_input_is_the_same()
            self.note(self.summary())
            if self.exit_code:
                raise SystemExit(self.exit_code)

    def _check_input_is_the_same(self) -> None:
        left = +self._done
        if left:
            raise UsageError(
                f"{self.output} holds {sum(left.values())} records that this input does not lead to "
                f"(first: {next(iter(left))}): it was made from other input"
            )


def _object(found: Any) -> dict:
    if not isinstance(found, dict):
        raise InputError("expected a JSON object", "$")
    return found


def _dumps_anything(rejected: dict) -> bytes:
    """One line for the rejects file; the record may be there because it cannot be written."""
    try:
        return dumps(rejected)
    except InputError:
        pass
    try:  # json writes a lone surrogate as its escape, and takes larger integers
        return json.dumps(rejected, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError):  # what an environment written in Python can put into a task
        return dumps({**rejected, "evidence": {}, "record": {"text": reprlib.repr(rejected["record"])}})


def refuse_to_overwrite(targets: Iterable[str | None], sources: Iterable[str]) -> None:
    """Raise UsageError where one of the files to write (None: standard output) is one of those to read ("-": input)."""
    read = [status for name in sources if (status := _status(name))]
    for target in targets:
        written = _status_of_stdout() if target is None else _status(target)
        if written and stat.S_ISREG(written.st_mode) and any(os.path.samestat(written, s) for s in read):
            raise UsageError(f"{target or 'standard output'} is both read and written; give another -o")


def append(line: bytes, name: str) -> None:
    """Add a line to a file, or to standard output where it is "-"; raises EexpError."""
    if name == STDIN:
        write_to_stdout(line)
        return
    try:
        with open_to_write(name, "ab") as file:
            file.write(line)
    except OSError as e:
        raise EexpError(f"{name}: {e.strerror or e}") from None


def write_to_stdout(data: bytes) -> None:
    """Write what is not for a person on standard output; raises EexpError if that fails, but not for a broken pipe."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        raise EexpError(f"<stdout>: {e.strerror or e}") from None


def open_to_write(name: str, mode: str) -> BinaryIO:
    """Open a file in the mode "wb" or "ab" and lock it, before anything in it is overwritten; raises EexpError."""
    try:
        file = open(name, mode, BLOCK_BYTES, opener=lambda path, flags: os.open(path, flags & ~os.O_TRUNC, 0o666))
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            lock(file.fileno(), name)
            if mode == "wb":
                file.truncate(0)
        return file
    except OSError as e:
        raise EexpError(f"{name}: {e.strerror or e}") from None
