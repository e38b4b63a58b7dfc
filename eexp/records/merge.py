"""Put the parts of a run with --shard together (eexp/records/shards.py): what one run would have written, or an error.

The parts are read twice. The first time, all lines are checked against the ends of the shards, so that nothing is
written before it is known that nothing is missing. The second time, the records are merged by their places in the
input; memory holds one record of each shard.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from eexp.errors import InputError
from eexp.records.jsonl import loads, refuse_other_files
from eexp.records.shards import LinesDigest, Mark, Shard, ShardEnd, mark_in, parse_end, parse_mark, without_mark

_GO_ON = "the same command with --resume goes on"


@dataclass
class _Part:
    """The records of one shard, which follow each other in a file.

    Attributes:
        file: The name of the file.
        shard: The shard.
        start, stop: Where its records are in the file, in bytes.
        lines: The number of its records.
        digest: A digest of them.
        lineage: The stages that made them, from the one with --shard on.
        places: Of rejects, (position, offset) of each: a stage that reads ahead does not write them in order.
        end: The end of the shard, once it was read.
    """

    file: str
    shard: Shard
    start: int = 0
    stop: int = 0
    lines: int = 0
    digest: LinesDigest = field(default_factory=LinesDigest)
    lineage: list[str] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    end: ShardEnd | None = None


def merge(parts: Sequence[str]) -> Iterator[dict]:
    """Put the parts of a run with --shard together, in the order of the input.

    What is returned are the records of one run over the whole input, without the marks of the shards. The parts may be
    given in any order; a file may hold several, one after the other. Those of `--rejects` are put together in the same
    way, apart from the records.

    Args:
        parts: The names of the files.

    Raises:
        InputError: A part is missing, unfinished, there twice or edited; a record is there twice; or parts are not of
            the same commands, settings, seed, number of shards and input. The message names the file.
    """
    found = [part for file in parts for part in _parts_of(file)]
    _check(found)
    return _records(found)


# -- the first reading -------------------------------------------------------------------------------------------------


def _parts_of(file: str) -> list[_Part]:
    """Return the parts in a file.

    Raises:
        InputError: A line is no record of a shard, or is cut off; the shards are mixed up, or the order is; or a
            record is there twice.
    """
    parts: dict[Shard, _Part] = {}
    current: _Part | None = None
    position = 0
    ids: set[str] = set()  # of the records that were made from the record at this position
    for number, offset, line, value in _lines(file):
        here = f"{file}:{number}"
        try:
            end = parse_end(value)
        except InputError as e:
            raise InputError(f"{here}: {e}") from None
        if end:
            part = parts.setdefault(end.shard, _Part(file, end.shard))
            if part.end:
                raise InputError(f"{here}: shard {end.id} is in the file twice")
            part.end = end
            continue
        mark, lineage, is_reject = _mark_and_lineage(value)
        if mark is None:
            raise InputError(f"{here}: of no shard; only what commands with --shard wrote can be merged")
        if current is None or mark.shard != current.shard:
            if mark.shard in parts:
                raise InputError(f"{here}: shard {mark.shard} again, after others: it is there twice, or mixed up")
            current, position, ids = _Part(file, mark.shard, start=offset, lineage=lineage), 0, set()
            parts[mark.shard] = current
        elif current.end:
            raise InputError(f"{here}: shard {mark.shard} goes on after its end: it is there twice")
        if is_reject:
            current.places.append((mark.position, offset))
        elif mark.position < position:
            raise InputError(f"{here}: record {mark.position} of the input after {position}: not in the input's order")
        elif lineage != current.lineage:
            raise InputError(f"{here}: written by {_quoted(lineage)}, the line before it by {_quoted(current.lineage)}")
        if mark.position > position:
            ids.clear()
        position = mark.position
        if not is_reject and isinstance(record_id := value.get("id"), str):
            if record_id in ids:
                raise InputError(f"{here}: {record_id} of record {position} of the input is there twice")
            ids.add(record_id)
        current.lines += 1
        current.digest.add(line, value)
        current.stop = offset + len(line)
    if not parts:
        raise InputError(f"{file}: empty, so its run has not ended: even a shard without records has a last line")
    return list(parts.values())


def _lines(file: str) -> Iterator[tuple[int, int, bytes, dict]]:
    """Yield (line number, offset, line, its JSON object) for the lines of a file.

    Raises:
        InputError: The file cannot be read, or a line is no JSON object or ends with the file.
    """
    offset = 0
    try:
        with open(file, "rb") as source:
            if not source.seekable():
                raise InputError(f"{file}: no regular file; parts are read twice, so none can be a pipe")
            for number, line in enumerate(source, 1):
                if number == 1:
                    refuse_other_files(line, file, pipes=False)
                if line.strip():
                    try:
                        value = loads(line)
                    except InputError as e:
                        if line.endswith(b"\n"):
                            raise InputError(f"{file}:{number}: {e}") from None
                        raise InputError(f"{file}: unfinished, it ends within line {number}; {_GO_ON}") from None
                    if not isinstance(value, dict):
                        raise InputError(f"{file}:{number}: expected a JSON object")
                    yield number, offset, line, value
                offset += len(line)
    except OSError as e:
        raise InputError(f"{file}: {e.strerror or e}") from None


def _mark_and_lineage(value: dict) -> tuple[Mark | None, list[str], bool]:
    """Return the mark of a record or reject, the stages after it, and whether it is a reject."""
    if value.get("type") == "reject":
        return parse_mark(value.get("shard")), [], True
    found = mark_in(value)
    return (found[1], value["lineage"][found[0] + 1 :], False) if found else (None, [], False)


def _check(parts: list[_Part]) -> None:
    """Raise InputError where parts do not make a whole."""
    if not parts:
        raise InputError("no parts to merge")
    count = Counter(part.shard.count for part in parts).most_common(1)[0][0]
    for part in parts:
        if part.shard.count != count:
            raise InputError(f"{part.file}: shard {part.shard}, where the others are of {count}")
    by_shard: dict[Shard, _Part] = {}
    for part in parts:
        other = by_shard.setdefault(part.shard, part)
        if other is not part:
            raise InputError(f"shard {part.shard} is there twice: {other.file} and {part.file}")
    for part in parts:
        if part.end is None:
            raise InputError(
                f"{part.file}: shard {part.shard} is unfinished: it has no last line of type shard; {_GO_ON}"
            )
        if part.end.of == "records" and part.lines and part.lineage != part.end.lineage:
            written_by = f"its records by {_quoted(part.lineage)}, its end by {_quoted(part.end.lineage)}"
            raise InputError(f"{part.file}: shard {part.shard}: written by different commands, {written_by}")
        if bool(part.places) != (part.end.of == "rejects") and part.lines:
            raise InputError(f"{part.file}: shard {part.shard}: records and rejects in one file")
        if part.lines != part.end.written:
            raise InputError(
                f"{part.file}: shard {part.shard} has {part.lines:,} lines, and its run wrote {part.end.written:,}"
            )
        if part.end.digest and part.end.digest != str(part.digest):
            raise InputError(
                f"{part.file}: shard {part.shard} has changed since its run wrote it: its lines have the digest "
                f"{part.digest}, and its last line says {part.end.digest}"
            )
    _check_alike(parts)
    if missing := [str(shard) for n in range(1, count + 1) if (shard := Shard(n, count)) not in by_shard]:
        raise InputError(f"missing: shard{'s' * (len(missing) > 1)} {', '.join(missing)}")
    ends = [part.end for part in parts if part.end]
    taken, whole = sum(end.records for end in ends), ends[0].input.records
    if taken != whole:
        raise InputError(f"the shards have {taken:,} records, and their input has {whole:,}")


def _check_alike(parts: list[_Part]) -> None:
    """Raise InputError for the first part that was not made like most others."""
    for what, describe in _ALIKE.items():
        values = [describe(part.end) for part in parts if part.end]
        usual = Counter(values).most_common(1)[0][0]
        for part, value in zip(parts, values):
            if value != usual:
                other = parts[values.index(usual)]
                raise InputError(f"{part.file}: {what} {value}, where {other.file} has {usual}")


def _quoted(lineage: Iterable[str]) -> str:
    return " | ".join(lineage) or "nothing"


#: What the ends of all parts must agree on, and how messages say it.
_ALIKE = {
    "holds": lambda end: end.of,
    "written by": lambda end: f"`{_quoted(end.lineage)}`",
    "made from": lambda end: f"an input of {end.input.records:,} records with the hash {end.input.hash}",
}

# -- the second reading ------------------------------------------------------------------------------------------------


def _records(parts: list[_Part]) -> Iterator[dict]:
    """Yield the records of all parts, in the order of the input."""
    for _, record in heapq.merge(*map(_placed_records, parts), key=lambda placed: placed[0]):
        yield record


def _placed_records(part: _Part) -> Iterator[tuple[int, dict]]:
    """Yield (position in the input, record without its mark) for the records of a part."""
    if not part.lines:
        return
    with open(part.file, "rb") as source:
        if part.places:
            for position, offset in sorted(part.places):
                source.seek(offset)
                reject = loads(source.readline())
                yield position, {key: value for key, value in reject.items() if key != "shard"}
            return
        source.seek(part.start)
        offset = part.start
        while offset < part.stop:
            line = source.readline()
            offset += len(line)
            if line.strip():
                record = loads(line)
                found = mark_in(record)
                assert found, "the file has changed since it was read first"
                yield found[1].position, without_mark(record)
