"""`eexp mix`: weight, shuffle and cut files of examples into one.

Only the places of the examples are held in memory (some 100 bytes each), so files larger than memory can be mixed.
"""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import click

from eexp import options
from eexp.errors import InputError
from eexp.jsonl import STDIN, loads
from eexp.records import check, seed_of


@dataclass
class Source:
    """A file of examples, how much of it to take (1 = all, 0.5 = a random half, 2 = twice) and its loss weight."""

    name: str
    share: float = 1.0
    weight: float = 1.0


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
    return made


def _offsets(source: Source, file: BinaryIO) -> list[int]:
    """Where each example of a file begins; every line is checked on the way."""
    found, offset = [], 0
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                check(loads(line), "example")
            except InputError as e:
                raise InputError(f"{'<stdin>' if source.name == STDIN else source.name}:{number}: {e}") from None
            found.append(offset)
        offset += len(line)
    return found


def _taken(offsets: list[int], share: float, rng: random.Random) -> list[int]:
    whole, part = divmod(share, 1)
    taken = offsets * int(whole)
    return taken + sorted(rng.sample(offsets, round(part * len(offsets))))


def mix(sources: Sequence[Source], *, limit: int | None = None, shuffle: bool = True, seed: int = 0) -> Iterator[dict]:
    """The examples of all sources together, in an order that `seed` decides.

    limit: at most that many, drawn from the whole mixture. Raises InputError at the first line that is no example.
    """
    opened = [_seekable(s.name) for s in sources]
    try:
        places = []
        for n, (source, file) in enumerate(zip(sources, opened)):
            rng = random.Random(seed_of(seed, "share", n))
            places += [(n, offset) for offset in _taken(_offsets(source, file), source.share, rng)]
        if shuffle:
            random.Random(seed_of(seed, "order")).shuffle(places)
        for n, offset in places[:limit]:
            opened[n].seek(offset)
            record = loads(opened[n].readline())
            yield {**record, "weight": record.get("weight", 1.0) * sources[n].weight}
    finally:
        for file in opened:
            file.close()


def _seekable(name: str) -> BinaryIO:
    try:
        source = sys.stdin.buffer if name == STDIN else open(name, "rb")
        if name != STDIN and source.seekable():
            return source
        spool = tempfile.TemporaryFile()  # a pipe is read once and then jumped about in
        shutil.copyfileobj(source, spool)
        spool.seek(0)
        return spool
    except OSError as e:
        raise InputError(f"{name}: {e.strerror or e}") from None


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
