"""Shards of an input: which records one of several processes takes, and how its output says so.

`--shard 3/7` takes the records whose hash falls into the third of seven classes. Each record that it takes gets a mark,
one line of lineage with its place in the input, which every later stage of a pipe passes on. After the last record
comes the end of the shard, a line of type `shard` with the number of records, a digest of them, and the hash of the
whole input. It is written only by a run that has finished, and passed on only by stages that have. So the lines of an
output alone say whether it is whole, wherever they were piped, copied or concatenated to; eexp/records/merge.py reads
them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Optional

import msgspec

from eexp.errors import InputError, UsageError
from eexp.records.jsonl import cut_half_line, dumps, loads
from eexp.records.record import seed_of
from eexp.records.types import explain

#: The type of the record that ends a shard.
END = "shard"
#: The value of --shard that takes the shard from the environment of a Slurm array.
AUTO = "auto"

# -- which records -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """One of `count` shards; `number` is from 1 to `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, key: str) -> bool:
        """Return whether the records with this key are in the shard.

        The number of the shard follows from the key alone: the first 8 bytes of BLAKE2b of "shard", the byte 0x1f and
        the key, as a big-endian number, halved and rounded down, modulo `count`, plus 1.
        """
        return seed_of("shard", key.encode("utf-8", "backslashreplace").decode()) % self.count + 1 == self.number


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """Return the shard that the value of --shard names.

    Args:
        text: "I/N", or "auto" for the shard of this task of a Slurm array.
        environment: The environment variables.

    Raises:
        ValueError: It is no shard, or the variables of Slurm are not there or do not count evenly.
    """
    if text == AUTO:
        return _shard_of_task(environment)
    number, slash, count = text.partition("/")
    if not (slash and _is_number(number) and _is_number(count)):
        raise ValueError(f"{text!r} is no shard; write I/N, such as 3/7 for the third of seven, or {AUTO}")
    shard = Shard(int(number), int(count))
    if not 1 <= shard.number <= shard.count:
        hint = f"; the last one is {count}/{count}" if shard.number else f"; the first one is 1/{count}"
        raise ValueError(f"{text!r}: shards are numbered from 1{hint}")
    return shard


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _shard_of_task(environment: Mapping[str, str]) -> Shard:
    """Return the shard of a task of a Slurm array, whose first task has any number."""
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "MAX")]
    if missing := [name for name in names[:2] if not environment.get(name)]:
        raise ValueError(
            f"{AUTO}: {' and '.join(missing)} not set; it is for jobs of a Slurm array, elsewhere give I/N"
        )
    if wrong := [name for name in names if not _is_number(environment.get(name, "0"))]:
        raise ValueError(f"{AUTO}: {wrong[0]} is {environment[wrong[0]]!r}, which is no number")
    task, count = int(environment[names[0]]), int(environment[names[1]])
    # Slurm sets the two limits in every array. Without them, only an array that is numbered from 1 can be told.
    first = int(environment.get(names[2], 1))
    last = int(environment.get(names[3], first + count - 1))
    step = (last - first) // (count - 1) if count > 1 else 1
    if first + step * (count - 1) != last or (step and (task - first) % step) or not first <= task <= last:
        raise ValueError(
            f"{AUTO}: task {task} of {count} from {first} to {last}: the array has gaps, so the tasks are not numbered "
            f"evenly; give I/N"
        )
    return Shard((task - first) // step + 1, count)


def key_of(record: Any, text: bytes) -> str:
    """Return what decides the shard of a record: its `group`, if it is made from a trajectory, or else its `id`.

    Examples of one trajectory are in one shard, because stages evaluate together what they share.

    Args:
        record: The record; None where its line cannot be parsed.
        text: Its line, which decides where there is no id.
    """
    if isinstance(record, dict):
        for name in ("group", "id"):
            if isinstance(value := record.get(name), str) and value:
                return value
    return hashlib.blake2b(text.strip(), digest_size=16).hexdigest()


# -- marks in lineage --------------------------------------------------------------------------------------------------

_MARK = re.compile(r"shard ([0-9]{1,9})/([0-9]{1,9}) record=([0-9]{1,18}) input=([0-9a-f]{8})")
_MARK_BEGINS = "shard "


class Mark(NamedTuple):
    """The place of a record in the input of the stage that has --shard.

    Attributes:
        shard: The shard that took it.
        position: Its number among all records of the input, from 1.
        digest: The first 8 hex digits of the hash of the input up to it.
    """

    shard: Shard
    position: int
    digest: str

    def __str__(self) -> str:
        return f"{_MARK_BEGINS}{self.shard} record={self.position} input={self.digest}"


def parse_mark(entry: Any) -> Mark | None:
    """Return the mark that a line of lineage is; None for any other."""
    if not (isinstance(entry, str) and entry.startswith(_MARK_BEGINS)):
        return None
    found = _MARK.fullmatch(entry)
    return Mark(Shard(int(found[1]), int(found[2])), int(found[3]), found[4]) if found else None


def mark_in(record: Any) -> tuple[int, Mark] | None:
    """Return the index in a record's lineage at which its mark is, and the mark; None for a record without."""
    lineage = record.get("lineage") if isinstance(record, dict) else None
    for i, entry in enumerate(lineage if isinstance(lineage, list) else ()):
        if mark := parse_mark(entry):
            return i, mark
    return None


def mark_of(record: Any) -> Mark | None:
    """Return the mark of a record; None for a record without."""
    found = mark_in(record)
    return found[1] if found else None


def part_refused(place: str, shard: Shard, command: str) -> UsageError:
    """Return the error of a command that needs all records at once, and has read one of a shard."""
    return UsageError(
        f"{place}: of shard {shard}, and `eexp {command}` reads whole files: put the parts together with `eexp merge`"
    )


def refuse_part(record: Any, place: str, command: str) -> None:
    """Raise `part_refused` where a record is of a shard."""
    if mark := mark_of(record):
        raise part_refused(place, mark.shard, command)


def are_apart(record: dict, following: dict) -> bool:
    """Return whether records of other shards may stand between two records, which follow each other in this one."""
    first, second = mark_of(record), mark_of(following)
    return bool(first and second and second.position - first.position > 1)


def marked(record: dict, mark: Mark) -> dict:
    """Return a copy of a record with a mark at the end of its lineage."""
    return {**record, "lineage": [*record.get("lineage", []), str(mark)]}


def without_mark(record: dict, keep_empty: bool = True) -> dict:
    """Return a copy of a record whose lineage has no mark.

    Args:
        record: The record.
        keep_empty: Whether a lineage that was the mark alone stays, as an empty list.
    """
    found = mark_in(record)
    if found is None:
        return record
    rest = [entry for i, entry in enumerate(record["lineage"]) if i != found[0]]
    if rest or keep_empty:
        return {**record, "lineage": rest}
    return {key: value for key, value in record.items() if key != "lineage"}


# -- the end of a shard ------------------------------------------------------------------------------------------------


class _Input(msgspec.Struct, kw_only=True):
    """The whole input: the number of its records, and their hash (BLAKE2b, 8 bytes, as hex digits)."""

    records: int
    hash: str


class ShardEnd(msgspec.Struct, kw_only=True):
    """The last line of a shard that is whole.

    Attributes:
        id: The shard, such as "3/7".
        of: Whether it ends records, or the rejects of a stage.
        written: The number of lines before it that are of this shard.
        digest: Their `LinesDigest`; None in parts that earlier versions of eexp wrote.
        records: The number of records of the input that the shard has.
        input: The whole input.
        lineage: The stages that the records went through, from the one with --shard on.
    """

    type: Literal["shard"] = "shard"
    id: str
    of: Literal["records", "rejects"] = "records"
    written: int
    records: int
    input: _Input
    lineage: list[str]
    digest: Optional[Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]] = None

    @property
    def shard(self) -> Shard:
        return parse_shard(self.id, {})

    def after(self, entry: str, written: int, digest: str | None = None) -> ShardEnd:
        """Return the end that a later stage writes: with its line of lineage, and the lines that it has written.

        Args:
            entry: The stage's line of lineage.
            written: The number of lines.
            digest: Their `LinesDigest`.
        """
        return msgspec.structs.replace(self, written=written, lineage=[*self.lineage, entry], digest=digest)

    def of_rejects(self, written: int, digest: str | None = None) -> ShardEnd:
        """Return the end of the rejects of the stage that writes this one, with arguments as in `after`."""
        return msgspec.structs.replace(self, of="rejects", written=written, digest=digest)

    def line(self) -> bytes:
        """Return it as a line of JSON."""
        fields = msgspec.to_builtins(self)
        digest = fields.pop("digest")
        return dumps(fields if digest is None else {**fields, "digest": digest})


class LinesDigest:
    """A digest of lines in their order: BLAKE2b of 8 bytes, as hex digits.

    Lines count in the form in which eexp writes them, so a part that another program has written again, with other
    blanks between the same values, has the same digest.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)

    def add(self, line: bytes, value: Any = None) -> None:
        """Add a line.

        Args:
            line: The line, newline included.
            value: What it holds, where another program may have written it; None for a line that `dumps` returned.
        """
        self._hash.update(line if value is None else dumps(value))

    def __str__(self) -> str:
        return self._hash.hexdigest()


def parse_end(record: Any) -> ShardEnd | None:
    """Return the end of a shard that a record is; None for any other record.

    Raises:
        InputError: It has the type of an end, and is none.
    """
    if not (isinstance(record, dict) and record.get("type") == END):
        return None
    try:
        end = msgspec.convert(record, ShardEnd)
        _ = end.shard
    except msgspec.ValidationError as e:
        raise explain(str(e)) from None
    except ValueError as e:
        raise InputError(str(e), "$.id") from None
    return end


class Share:
    """The share of one shard in an input, of which all records pass by.

    Args:
        shard: The shard.

    Attributes:
        is_complete: Whether the input has been read to its end, which the reader sets.
    """

    def __init__(self, shard: Shard):
        self.shard, self.is_complete = shard, False
        self.records = self.all_records = 0
        self._hash = hashlib.blake2b(digest_size=8)

    def mark(self, key: str, text: bytes) -> Mark | None:
        """Count the next record of the input, and return its mark; None where it is in another shard.

        Args:
            key: As `key_of` returns it.
            text: What the hash of the input is made of.
        """
        self.all_records += 1
        self._hash.update(text.strip() + b"\n")
        if not self.shard.has(key):
            return None
        self.records += 1
        return Mark(self.shard, self.all_records, self._hash.hexdigest()[:8])

    def of(self, records: Iterable[dict]) -> Iterator[dict]:
        """Yield the records of the shard, with their marks, from those of the whole input."""
        for record in records:
            line = dumps(record)
            if mark := self.mark(key_of(record, line), line):
                yield marked(record, mark)
        self.is_complete = True

    def end(self) -> ShardEnd:
        """Return the end of the shard, before a stage has written it."""
        whole = _Input(records=self.all_records, hash=self._hash.hexdigest())
        return ShardEnd(id=str(self.shard), written=0, records=self.records, input=whole, lineage=[])


def cut_ends(path: str | os.PathLike) -> int:
    """Remove half a last line and the ends of shards from the end of a file, to go on there.

    Returns:
        The number of bytes of half a line, as `cut_half_line` returns it.
    """
    half = cut_half_line(path)
    with open(path, "r+b") as file:
        while last := _last_line(file):
            try:
                if parse_end(loads(last)) is None:
                    break
            except InputError:
                break
            file.truncate(file.seek(0, os.SEEK_END) - len(last))
    return half


def _last_line(file: Any) -> bytes:
    """Return the last line of a file that ends with a newline; b"" for an empty one."""
    start = size = file.seek(0, os.SEEK_END)
    text = b""
    while start > 0 and b"\n" not in text[:-1]:
        step = min(65536, start)
        start -= step
        file.seek(start)
        text = file.read(step) + text
    assert len(text) <= size
    return text[text[:-1].rfind(b"\n") + 1 :]
