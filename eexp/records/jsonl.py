"""Read and write JSON Lines: one JSON object a line, as the lines come.

Nothing here holds more than one line, or one element of an array, in memory.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, BinaryIO, Literal, cast

import orjson

from eexp.errors import EexpError, InputError, UsageError
from eexp.records.types import check
from eexp.system.locks import lock
from eexp.system.terminal import tell

STDIN = "-"
_NAME_OF_STDIN = "<stdin>"
_BUFFER = 1 << 16  # bytes: most lines take one system call

# -- records as lines --------------------------------------------------------------------------------------------------


def dumps(record: Any) -> bytes:
    """Return a record as one line, newline included.

    Raises:
        InputError: JSON in UTF-8 cannot hold it, because of a lone surrogate for instance.
    """
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as e:
        raise InputError(f"cannot be written as JSON: {e}") from None


def loads(line: bytes) -> Any:
    """Parse one line.

    Values that the parser accepts but that no stage could write as they came are refused: integers of more than 64
    bits, which the parser turns into floats, and deeper nesting than the writer accepts.

    Raises:
        InputError: The line is no such JSON; the message names the fault and its column.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as e:
        if line.startswith(codecs.BOM_UTF8):  # as programs for Windows begin a file
            return loads(line[len(codecs.BOM_UTF8) :])
        hint = "" if line.endswith(b"\n") else " (the file ends within this line)"
        fault = _fault_in_utf8(line) or f"not valid JSON: {e.msg} at column {e.colno}"
        raise InputError(f"{fault}{hint}") from None
    outline = line.translate(_OUTLINE)
    if _MANY_DIGITS in outline:
        _refuse_large_integers(line)
    if outline.count(b"(") > _MOST_LEVELS - _WRAPPING:
        _refuse_deep_nesting(value)
    return value


def _fault_in_utf8(line: bytes) -> str | None:
    """Return what is wrong with a line that is not text in UTF-8; None where it is."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as e:
        column = len(line[: e.start].decode("utf-8")) + 1
        return f"not UTF-8 text: byte 0x{line[e.start]:02x} at column {column}"
    return None


#: Maps each byte of a line to its class, for a quick first check: 0 a digit, ( an opening bracket, . anything else.
_OUTLINE = bytes(ord("0") if 48 <= c < 58 else ord("(") if c in b"[{" else ord(".") for c in range(256))
_MANY_DIGITS = b"0" * 19  # as many as the smallest integers have that do not fit
_MOST_LEVELS = 254  # levels of nesting that orjson writes
_WRAPPING = 8  # levels that rejects and requests to workers put around a record, and some to spare
#: Whole strings, and numbers; group 1 of an integer, but for one with a fraction or an exponent, is empty.
_STRING_OR_NUMBER = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9]+([.eE][0-9.eE+-]*)?', re.DOTALL)


def _refuse_large_integers(line: bytes) -> None:
    """Raise InputError where a line has an integer of more than 64 bits."""
    for token in _STRING_OR_NUMBER.finditer(line):
        text = token[0].decode("ascii", "replace")
        is_integer = not text.startswith('"') and token[1] is None
        if is_integer and (len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 64):
            raise InputError(
                f"the integer {text[:40]} at column {token.start() + 1} has more than 64 bits; write it "
                f"as a string or a float"
            )


def _refuse_deep_nesting(value: Any) -> None:
    """Raise InputError where a value is nested more deeply than a reject that holds it can be written."""
    for _ in range(_WRAPPING):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        raise InputError(f"nested more than {_MOST_LEVELS - _WRAPPING} levels deep") from None


# -- reading -----------------------------------------------------------------------------------------------------------


#: The first bytes of files that are no text in UTF-8: what such a file is, and the program that writes its text.
_OTHER_FILES = (
    (b"\x1f\x8b", "is compressed by gzip", "zcat {file}"),
    (b"BZh", "is compressed by bzip2", "bzcat {file}"),
    (b"\xfd7zXZ\0", "is compressed by xz", "xzcat {file}"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd", "zstdcat {file}"),
    (b"PK\x03\x04", "is a ZIP archive", "unzip -p {file}"),
    (codecs.BOM_UTF32_LE, "is text in UTF-32", "iconv -f UTF-32 -t UTF-8 {file}"),
    (codecs.BOM_UTF16_LE, "is text in UTF-16", "iconv -f UTF-16 -t UTF-8 {file}"),
    (codecs.BOM_UTF16_BE, "is text in UTF-16", "iconv -f UTF-16 -t UTF-8 {file}"),
    (b"{\0", "is text in UTF-16", "iconv -f UTF-16LE -t UTF-8 {file}"),
    (b"\0{", "is text in UTF-16", "iconv -f UTF-16BE -t UTF-8 {file}"),
)


def refuse_other_files(beginning: bytes, label: str, *, pipes: bool = True) -> None:
    """Raise InputError for a file that is compressed or not in UTF-8, of which no line could be read.

    Args:
        beginning: The first bytes of the file.
        label: Its name in messages.
        pipes: Whether its text could be read from a pipe.
    """
    for mark, what, text in _OTHER_FILES:
        if beginning.startswith(mark):
            file = "FILE" if label == _NAME_OF_STDIN else shlex.quote(label)
            command = f"{text.format(file=file)} {'| eexp ...' if pipes else '> ...'}"
            raise InputError(f"{label}: {what}; give its text: {command}")


def lines(files: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
    """Yield (file, line number, line) for every line of the files in order, without blank lines.

    Args:
        files: Names of files; "-" is standard input, and so is an empty list.

    Raises:
        InputError: A file cannot be read, or is compressed or not in UTF-8 as a whole.
    """
    for name in files or [STDIN]:
        with _opened(name) as (label, source):
            for number, line in enumerate(source, 1):
                if number == 1:
                    refuse_other_files(line, label)
                if line.strip():
                    yield label, number, line


class Element(int):
    """The number of an element of a JSON array, from 1, as opposed to that of a line."""

    def __str__(self) -> str:
        return f"element {int(self)}"


def elements(files: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
    """Yield the lines of files as `lines` does or, of a file that is one JSON array, its elements and their numbers."""
    for name in files or [STDIN]:
        with _opened(name) as (label, source):
            blank, first = 0, source.readline(_CHUNK)
            refuse_other_files(first, label)
            first = first.removeprefix(codecs.BOM_UTF8)  # before the bracket of an array
            while first and not first.strip():
                blank, first = blank + 1, source.readline(_CHUNK)
            if first.lstrip().startswith(b"["):
                for number, text in enumerate(_array(first, source, label), 1):
                    yield label, Element(number), text
                continue
            if not first.endswith(b"\n"):
                first += source.readline()
            for number, line in enumerate(chain([first], source), blank + 1):
                if line.strip():
                    yield label, number, line


_CHUNK = 1 << 20  # bytes
#: The tokens that separate elements of an array: whole strings, brackets, commas, and the quote of a partial string.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},"]', re.DOTALL)


def _array(text: bytes, source: io.BufferedReader, label: str) -> Iterator[bytes]:
    """Yield the elements of a JSON array one at a time, unparsed; memory holds one of them.

    They are split at brackets and commas outside of strings; whether each is JSON is left to the parser.

    Args:
        text: The beginning of the array.
        source: The file, in which the array goes on.

    Raises:
        InputError: The file does not end with the array.
    """
    start = at = text.index(b"[") + 1
    depth = count = 0
    while True:
        for token in _TOKEN.finditer(text, at):
            if token[0] == b'"':  # the rest of the string has not been read yet
                at = token.start()
                break
            at = token.end()
            if token[0] in (b"[", b"{"):
                depth += 1
            elif depth and token[0] in (b"]", b"}"):
                depth -= 1
            elif not depth and token[0] in (b",", b"]", b"}"):
                part = text[start : token.start()]
                if part.strip() or count or token[0] == b",":
                    count += 1
                    yield part + b"\n"
                start = at
                if token[0] != b",":
                    if (text[at:] + source.read(_CHUNK)).strip():
                        raise InputError(f"{label}: something follows the array")
                    return
        else:
            at = len(text)
        more = source.read1(_CHUNK)
        if not more:
            raise InputError(f"{label}: the file ends within the array, in element {count + 1}")
        text, at, start = text[start:] + more, at - start, 0


@contextmanager
def _opened(name: str) -> Iterator[tuple[str, io.BufferedReader]]:
    """Open a file, or standard input, to read; its name in messages comes first.

    Raises:
        InputError: The file cannot be opened or read.
    """
    label = _NAME_OF_STDIN if name == STDIN else name
    source = _open_to_read(name)
    try:
        yield label, source
    except OSError as e:
        raise InputError(f"{label}: {e.strerror or e}") from None
    finally:
        if name != STDIN:
            source.close()


def _open_to_read(name: str) -> io.BufferedReader:
    if name == STDIN:
        if sys.stdin.isatty():
            tell("eexp: waiting for records on standard input (end with Ctrl-D)")
        return cast(io.BufferedReader, sys.stdin.buffer)
    try:
        return open(name, "rb")
    except IsADirectoryError:
        raise InputError(f"{name}: is a directory; give its files, such as {os.path.join(name, '*.jsonl')}") from None
    except OSError as e:
        raise InputError(f"{name}: {e.strerror or e}") from None


def read(files: Sequence[str], *types: str) -> Reader:
    """Read all records of files.

    Args:
        files: Names of files, as for `lines`.
        types: The types that a record may have, as for `record_types.check`.

    Raises:
        InputError: While reading, at the first record that is wrong; the message names its place.
    """
    return Reader(files, types)


class Reader(Iterator[dict]):
    """The iterator that `read` returns."""

    def __init__(self, files: Sequence[str], types: Sequence[str]):
        self.place = ""  # the place of the record that was read last, such as `file.jsonl:41`
        self._records = self._read(files, types)

    def __iter__(self) -> Iterator[dict]:
        return self._records

    def __next__(self) -> dict:
        return next(self._records)

    def _read(self, files: Sequence[str], types: Sequence[str]) -> Iterator[dict]:
        for name, number, line in lines(files):
            self.place = f"{name}:{number}"
            try:
                record = check(loads(line), *types)
            except InputError as e:
                raise InputError(f"{self.place}: {e}") from None
            yield record


# -- writing -----------------------------------------------------------------------------------------------------------


def cut_half_line(path: str | os.PathLike) -> int:
    """Remove the text after the last newline of a file, as a killed run leaves it; return the bytes removed."""
    with open(path, "r+b") as f:
        end = size = f.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            f.seek(start)
            last_newline = f.read(end - start).rfind(b"\n")
            if last_newline >= 0:
                end = start + last_newline + 1
                break
            end = start
        f.truncate(end)
    return size - end


def refuse_to_overwrite(targets: Iterable[str | None], sources: Iterable[str]) -> None:
    """Raise UsageError where a file to write is one of the files to read.

    Args:
        targets: The files to write; None is standard output.
        sources: The files to read; "-" is standard input.
    """
    read_files = [status for name in sources if (status := _status(name))]
    for target in targets:
        output = _status_of_stdout() if target is None else _status(target)
        if output and stat.S_ISREG(output.st_mode) and any(os.path.samestat(output, s) for s in read_files):
            raise UsageError(f"{target or 'standard output'} is both read and written; give another -o")


def _status(name: str) -> os.stat_result | None:
    """Return the status of a file or, for "-", of the file that standard input is redirected from; None without one."""
    try:
        return os.fstat(sys.stdin.fileno()) if name == STDIN else os.stat(name)
    except (OSError, ValueError):  # ValueError: standard input is no file at all
        return None


def _status_of_stdout() -> os.stat_result | None:
    try:
        return os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return None


def append(line: bytes, name: str) -> None:
    """Add a line to a file, or to standard output if its name is "-". Raises EexpError if it cannot be written."""
    if name == STDIN:
        write_to_stdout(line)
        return
    try:
        with open_to_write(name, "ab") as file:
            file.write(line)
    except OSError as e:
        raise EexpError(f"{name}: {e.strerror or e}") from None


def write_to_stdout(data: bytes) -> None:
    """Write data to standard output.

    Raises:
        EexpError: It cannot be written.
        BrokenPipeError: The reader of the pipe is gone.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        raise EexpError(f"<stdout>: {e.strerror or e}") from None


def open_to_write(name: str, mode: Literal["wb", "ab"]) -> BinaryIO:
    """Open a file and lock it before any of it is overwritten.

    Args:
        name: The name of the file.
        mode: "wb" or "ab".

    Raises:
        EexpError: The file cannot be opened, or another process writes it.
    """
    try:
        file = open(name, mode, _BUFFER, opener=lambda path, flags: os.open(path, flags & ~os.O_TRUNC, 0o666))
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            lock(file.fileno(), name)
            if mode == "wb":
                file.truncate(0)
        return file
    except OSError as e:
        raise EexpError(f"{name}: {e.strerror or e}") from None
