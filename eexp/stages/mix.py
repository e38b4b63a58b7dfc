"""`eexp mix`: weight, shuffle and cut files of examples into one.

Which examples are taken, and their order, follow from hashes of their ids: shuffled input leads to the same output.
These hashes and the places of the examples are put in order on disk (eexp/ordered.py), so that memory is the same for
files of any size.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import BinaryIO

import click

from eexp import options
from eexp.errors import EexpError, InputError
from eexp.jsonl import STDIN, loads
from eexp.ordered import Ordered
from eexp.records import check


@dataclass
class Source:
    """A file of examples, how much of it to take (1 = all, 0.5 = a random half, 2 = twice) and its loss weight."""

    name: str
    share: float = 1.0
    weight: float = 1.0


MOST_COPIES = 10_000  # of a file

_MARKS = re.compile(r"(?P<name>.*?)(@(?P<share>[^@*/]*))?(\*(?P<weight>[^@*/]*))?", re.DOTALL)


def parse_source(text: str) -> Source:
    """FILE, FILE@SHARE, FILE*WEIGHT or FILE@SHARE*WEIGHT. Raises ValueError for anything else after a mark.

    A file that exists under the whole of `text` is that file.
    """
    if os.path.exists(text):
        return Source(text)
    found = _MARKS.fullmatch(text)
    assert found  # the pattern fits any text
    made = Source(found["name"], float(found["share"] or 1), float(found["weight"] or 1))
    if not all(0 <= mark < math.inf for mark in (made.share, made.weight)):
        raise ValueError(f"{text}: a share or weight below 0, or endless")
    if made.share > MOST_COPIES:
        raise ValueError(f"{text}: a share of more than {MOST_COPIES}")
    return made


_ENTRY = struct.Struct(">8sQ")  # of an example in its file: hash of its id, offset
_PLACE = struct.Struct(">8sIIQ")  # in the mixture: hash that decides the order, number of the source, copy, offset


def _hash(*parts: object) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()


def _entries(source: Source, file: BinaryIO, seed: int) -> Iterator[bytes]:
    """Yield an `_ENTRY` for each example of a file; every line is checked on the way."""
    offset = 0
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                record = check(loads(line), "example")
                _weight(record, source)
            except InputError as e:
                raise InputError(f"{'<stdin>' if source.name == STDIN else source.name}:{number}: {e}") from None
            yield _ENTRY.pack(_hash("mix", seed, record["id"]), offset)
        offset += len(line)


def _weight(record: dict, source: Source) -> float:
    weight = record.get("weight", 1.0)
    if weight * source.weight == math.inf:
        raise InputError(f"{weight:g} times {source.weight:g} is too large a number", "$.weight")
    return weight * source.weight


def _places(entries: Ordered, n: int, share: float) -> Iterator[bytes]:
    """Yield a `_PLACE` for each example taken from source `n`, as often as it is taken.

    The examples of the smallest hashes are part of any share, so that those of a smaller share are among those of a
    larger one.
    """
    whole, part = divmod(share, 1)
    for copy in range(int(whole) + 1):
        for entry in entries if copy < whole else islice(entries, round(part * len(entries))):
            id_hash, offset = _ENTRY.unpack(entry)
            yield _PLACE.pack(_hash(id_hash.hex(), n, copy), n, copy, offset)


def mix(sources: Sequence[Source], *, limit: int | None = None, shuffle: bool = True, seed: int = 0) -> Iterator[dict]:
    """The examples of all sources together, in an order that follows from their ids and `seed`.

    limit: at most that many, drawn from the whole mixture: the first in that order. shuffle: without it, what is taken
    keeps the order of the sources. Only examples of one source with equal ids are told apart by their order in it.
    Raises InputError at the first line that is no example.
    """
    opened = [_seekable(s.name) for s in sources]
    try:
        taken = (
            _places(Ordered(_entries(source, file, seed)), n, source.share)
            for n, (source, file) in enumerate(zip(sources, opened))
        )
        places: Iterable[bytes] = islice(Ordered(chain.from_iterable(taken)), limit)
        if not shuffle:
            places = (place[-8:] + place[:-8] for place in Ordered(place[8:] + place[:8] for place in places))
        for place in places:
            _, n, _, offset = _PLACE.unpack(place)
            opened[n].seek(offset)
            record = loads(opened[n].readline())
            yield {**record, "weight": _weight(record, sources[n])}
    finally:
        for file in opened:
            file.close()


def _seekable(name: str) -> BinaryIO:
    try:
        source = sys.stdin.buffer if name == STDIN else open(name, "rb")
        if name != STDIN and source.seekable():
            return source
    except OSError as e:
        raise InputError(f"{name}: {e.strerror or e}") from None
    try:
        spool = tempfile.TemporaryFile()  # a pipe is read once and then jumped about in
        shutil.copyfileobj(source, spool)
        spool.seek(0)
        return spool
    except OSError as e:
        raise EexpError(f"cannot keep a copy of {name} in {tempfile.gettempdir()}: {e.strerror or e}") from None


@click.command("mix")
@click.option("--limit", type=click.IntRange(min=0), metavar="N",
              help="At most that many examples in all.  [default: no limit]")  # fmt: skip
@click.option("--shuffle/--no-shuffle", default=True, show_default=True,
              help="Mix the order, or leave one file after the other.")  # fmt: skip
@options.seed
@click.argument("sources", nargs=-1, type=options.PATH, metavar="[FILE[@SHARE][*WEIGHT]]...")
@click.option("-o", "--output", type=options.PATH, metavar="FILE", help="Write here instead of standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No summary on standard error.")
def command(limit, shuffle, seed, sources, output, quiet) -> None:
    """Weight, shuffle and cut several files of examples into one.

    FILE@0.5 takes a random half of a file, FILE@2 takes it twice; FILE*0.3 multiplies the loss weight of its examples
    by 0.3. Marks can be combined: 'FILE@0.5*2', in quotes, because the star means something to the shell.

    What is taken, and its order, follow from the ids of the examples and --seed, whatever the order of the input: the
    examples of FILE@0.3 are among those of FILE@0.5, and a smaller --limit takes a part of a larger one.

    \b
    Example:
      eexp expert house -n 9 | eexp imitation-data > il.jsonl
      eexp mix il.jsonl@0.5 --limit 30 > train.jsonl
    """
    from eexp.jsonl import Stream

    try:
        parsed = [parse_source(s) for s in sources or [STDIN]]
    except ValueError as e:
        raise click.BadParameter(f"{e}; write FILE, FILE@SHARE or FILE*WEIGHT", param_hint="FILE") from None
    stream = Stream([s.name for s in parsed], output, quiet=quiet)
    with stream.open("mix", "example", seed=seed, limit=limit, of=",".join(sources) or None) as io:
        for record in mix(parsed, limit=limit, shuffle=shuffle, seed=seed):
            io.write(record)
            io.count(record["kind"])
        if not io.counts:
            io.note("no examples in the mixture")
