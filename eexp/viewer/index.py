"""An index of files of records: where each line is, and what the list filters and sorts by.

A record is some kilobytes and an index entry 62 bytes, in columns:

    file  line  offset      size     values of filters      id, parent       steps  refused  logprob  gain
       0     1       0      8731     bits of `facets`       64-bit hashes       9        4    -1.31   nan
       0     2    8731      9120     ...

Files are read once, from their beginning to their end, by `read_on`; what a file has grown by is read when it is called
again. Where a file no longer begins with what was read of it, `outdated` says so, and a new index has to be made. The
records themselves are read when they are shown.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shlex
import stat
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock

from eexp.errors import EexpError, InputError
from eexp.records.jsonl import loads
from eexp.records.record import RECORD_TYPES
from eexp.records.shards import parse_end
from eexp.records.types import check
from eexp.viewer.facets import GROUPS, Numbers, facets_of, numbers_of, parent_of, text_of

_BLOCK = 1 << 22  # bytes read at a time
_BITS = 63  # values of filters that have a bit of their own; all others share the last one
_OTHER = ("type", "other values")
_END = 64  # bytes before the place up to which a file was read, by which it is known again

#: What a list can be sorted by, with the words for it. "place" is the order of the files.
ORDERS = {
    "place": "Order in the file",
    "size": "Length, in bytes",
    "steps": "Steps",
    "refused": "Refused actions",
    "logprob": "Log-probability",
    "gain": "Gain by the thought",
}


@dataclass(frozen=True)
class Query:
    """What a list is asked for."""

    words: tuple[str, ...] = ()  # all of them have to occur in a record, in any case
    masks: tuple[int, ...] = ()  # one a group of filters; a record has to have one of the bits of each
    order: str = "place"  # a key of ORDERS
    descending: bool = False  # whether the largest comes first


@dataclass
class Matches:
    """A part of a list."""

    entries: list[int]  # numbers of index entries
    next: int | None  # where the list goes on, in places of its order; None at its end


@dataclass
class Index:
    """The index of some files, and access to their records.

    Attributes:
        facets: The bit of each value to filter by, (group, value). A page keeps them over several indexes.
        generation: How many indexes of these files were made before, since a file had become another.
        problems: Why a file could not be read any further, by its number.

    Raises:
        EexpError: A file cannot be opened, or is a directory or a pipe.
    """

    files: Sequence[str]
    facets: dict[tuple[str, str], int] = field(default_factory=dict)
    generation: int = 0
    problems: dict[int, str] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = Lock()
        self._descriptors: list[int] = []
        for file in self.files:
            self._descriptors.append(_open(file))
        self._ends = [0] * len(self.files)  # offset after the last line that was read
        self._last = [b""] * len(self.files)  # the bytes before that offset
        self._lines = [0] * len(self.files)
        self.file, self.line, self.offset, self.size = array("H"), array("I"), array("Q"), array("I")
        self.bits, self.ids, self.parents = array("Q"), array("Q"), array("Q")
        self.numbers = {name: array("f") for name in Numbers._fields}
        self._sorted: tuple[tuple[str, bool, int], array] | None = None

    def __del__(self) -> None:  # a viewer that goes on with another index may still answer from this one
        for descriptor in getattr(self, "_descriptors", ()):
            os.close(descriptor)

    def __len__(self) -> int:
        return len(self.bits)  # the last column that `_add` appends to

    def bytes_known(self) -> tuple[int, int]:
        """Return how many bytes were read, and how many the files have now."""
        return sum(self._ends), sum(os.fstat(descriptor).st_size for descriptor in self._descriptors)

    # -- reading -------------------------------------------------------------------------------------------------------

    def read_on(self, growing: bool = False) -> Iterator[int]:
        """Index what the files have beyond what was read; yield the number of entries after every block.

        Args:
            growing: Whether a last line without a newline is left for the next call, since more of it may come.
        """
        for number in range(len(self.files)):
            try:
                yield from self._read_file(number, growing)
                self.problems.pop(number, None)
            except OSError as e:
                self.problems[number] = f"{self.files[number]}: {e.strerror or e}"

    def outdated(self) -> str:
        """Return what has happened to a file that no longer begins with what was read of it; "" where none has.

        It was replaced by another file of this name, cut short, or written anew.
        """
        for number, (file, descriptor) in enumerate(zip(self.files, self._descriptors, strict=True)):
            end, last = self._ends[number], self._last[number]
            try:
                status = os.fstat(descriptor)
                if not os.path.samestat(status, os.stat(file)):
                    return f"{file} was replaced"
                if status.st_size < end:
                    return f"{file} was cut short"
                if os.pread(descriptor, len(last), end - len(last)) != last:
                    return f"{file} was written anew"
            except OSError:  # one that is gone can still be read
                continue
        return ""

    def _read_file(self, number: int, growing: bool) -> Iterator[int]:
        descriptor, rest = self._descriptors[number], b""
        while True:
            before = (self._last[number] + rest[-_END:])[-_END:]
            block = os.pread(descriptor, _BLOCK, self._ends[number] + len(rest) - len(before))
            if not block.startswith(before):
                raise OSError(errno.ESTALE, "changed while it was read")
            if len(block) == len(before):
                break
            data = rest + block[len(before) :]
            start = 0
            while (end := data.find(b"\n", start)) >= 0:
                self._add(number, data[start : end + 1])
                start = end + 1
            rest = data[start:]
            yield len(self)
        if rest and not growing:
            self._add(number, rest)
        yield len(self)

    def _add(self, number: int, line: bytes) -> None:
        self._lines[number] += 1
        offset = self._ends[number]
        self._ends[number] += len(line)
        self._last[number] = (self._last[number] + line[-_END:])[-_END:]
        if not line.strip():
            return
        values, numbers, identity, parent = [("type", "unreadable")], Numbers(), None, None
        try:
            record = parse(line)
            values, numbers = list(facets_of(record)), numbers_of(record)
            identity, parent = text_of(record, "id") or None, parent_of(record)
        except InputError:
            if _is_end_of_shard(line):
                return
        except Exception:  # a record of a shape that is not expected here is listed like a line that cannot be read
            values, numbers = [("type", "unreadable")], Numbers()
        self.file.append(number)
        self.line.append(self._lines[number])
        self.offset.append(offset)
        self.size.append(min(len(line), 0xFFFFFFFF))
        self.ids.append(hash_of(identity))
        self.parents.append(hash_of(parent))
        for name, value in zip(Numbers._fields, numbers, strict=True):
            self.numbers[name].append(value)
        self.counts.update(set(values))
        self.bits.append(self._mask(values))

    def _mask(self, values: Sequence[tuple[str, str]]) -> int:
        mask = 0
        for value in values:
            bit = self.facets.get(value)
            if bit is None:
                if len(self.facets) >= _BITS:
                    value, bit = _OTHER, _BITS
                else:
                    bit = len(self.facets)
                self.facets[value] = bit
            mask |= 1 << bit
        return mask

    def add_value(self, entry: int, value: tuple[str, str]) -> None:
        """Add a value to filter by to a record."""
        self.counts[value] += 1
        self.bits[entry] |= self._mask([value])

    def raw(self, entry: int) -> bytes:
        """Return the line of a record as it stands in its file."""
        return os.pread(self._descriptors[self.file[entry]], self.size[entry], self.offset[entry])

    # -- finding -------------------------------------------------------------------------------------------------------

    def find(self, query: Query, start: int = 0, count: int = 50, seconds: float = 1.0) -> Matches:
        """Return the next entries of a list.

        Args:
            query: What the list holds, and its order.
            start: Where to go on: `Matches.next` of the call before.
            count: Most entries.
            seconds: After this time the call returns with what it has found, to be called again.
        """
        known = len(self)
        order = self._order(query, known)
        words = [SearchTerm(word) for word in query.words]
        deadline = time.monotonic() + seconds
        entries: list[int] = []
        place = start
        while place < known and len(entries) < count:
            entry = order[place] if order is not None else place
            place += 1
            if all(self.bits[entry] & mask for mask in query.masks):
                if not words:
                    entries.append(entry)
                else:
                    line = self.raw(entry)
                    lower = line.lower()
                    if all(word.occurs(line, lower) for word in words):
                        entries.append(entry)
                    if time.monotonic() > deadline:
                        break
        return Matches(entries, place if place < known else None)

    def count(self, masks: Sequence[int]) -> int:
        """Return how many entries fit all groups of filters."""
        if not masks:
            return len(self)
        return sum(all(bits & mask for mask in masks) for bits in self.bits)

    def _order(self, query: Query, known: int) -> array | None:
        """Return the entries in the order of a query; None for the order of the files. The last one is kept."""
        if query.order == "place":
            return array("I", range(known - 1, -1, -1)) if query.descending else None
        key = (query.order, query.descending, known)
        with self._lock:
            if self._sorted is None or self._sorted[0] != key:
                column = self.size if query.order == "size" else self.numbers[query.order]
                sign = -1 if query.descending else 1
                missing = math.inf  # those without the number come last either way
                entries = sorted(range(known), key=lambda e: missing if math.isnan(column[e]) else sign * column[e])
                self._sorted = key, array("I", entries)
            return self._sorted[1]

    def with_id(self, identity: str, file: int | None = None) -> int | None:
        """Return the first entry with an id, in one file or in any."""
        for entry in _places(self.ids, hash_of(identity)):
            if file is None or self.file[entry] == file:
                return entry
        return None

    def children(self, parent: str, most: int = 500) -> list[int]:
        """Return the entries whose parent has an id (`facets.parent_of`)."""
        return [entry for entry, _ in zip(_places(self.parents, hash_of(parent)), range(most), strict=False)]

    def groups(self) -> list[dict]:
        """Return the filters: each group with its values, their bits and how many records have them."""
        values = sorted(self.facets.items(), key=lambda item: -self.counts[item[0]])
        return [
            {
                "key": key,
                "name": name,
                "values": [
                    {"value": value, "bit": bit, "count": self.counts[group, value]}
                    for (group, value), bit in values
                    if group == key
                ],
            }
            for key, name in GROUPS.items()
            if any(group == key for (group, _), _ in values)
        ]


class SearchTerm:
    """A word to search for in lines of JSON, in which some characters are written as escapes."""

    def __init__(self, word: str):
        self._ascii = word.isascii()
        escaped = json.dumps(word.lower(), ensure_ascii=False)[1:-1]
        self._text, self._bytes = escaped, escaped.encode("utf-8", "replace")

    def occurs(self, line: bytes, lower: bytes) -> bool:
        """Return whether a line has the word; `lower` is the line with its ASCII letters in lower case."""
        return self._bytes in lower if self._ascii else self._text in line.decode("utf-8", "replace").lower()


def _open(file: str) -> int:
    """Return a descriptor of a file in which one can go back and forth.

    Raises:
        EexpError: It cannot be opened, or is a directory or a pipe.
    """
    try:
        kind = os.stat(file).st_mode
        if stat.S_ISDIR(kind):
            raise EexpError(f"{file}: is a directory; give its files, such as {os.path.join(file, '*.jsonl')}")
        if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
            raise EexpError(f"{file}: is a pipe, which is read on standard input: `eexp view < {shlex.quote(file)}`")
        return os.open(file, os.O_RDONLY)
    except (OSError, ValueError) as e:  # ValueError: a name with a null character
        raise EexpError(f"{file}: {getattr(e, 'strerror', None) or e}") from None


def parse(line: bytes) -> dict:
    """Return the record of a line, checked unless it is one that a stage has set aside.

    Raises:
        InputError: It is no JSON, or no record.
    """
    record = loads(line)
    if isinstance(record, dict) and record.get("type") == "reject":
        return record
    return check(record, *RECORD_TYPES)


def _is_end_of_shard(line: bytes) -> bool:
    try:
        return parse_end(loads(line)) is not None
    except InputError:
        return False


def hash_of(text: str | None) -> int:
    """Return 64 bits that stand for a text; 0 for None."""
    if text is None:
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") or 1


def _places(column: array, value: int) -> Iterator[int]:
    place = -1
    while value:
        try:
            place = column.index(value, place + 1)
        except ValueError:
            return
        yield place
