"""`eexp split`: write one part of a file of records, the same part whatever else is in the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from eexp import options
from eexp.records import RECORD_TYPES, seed_of
from eexp.settings import command_options, option

if TYPE_CHECKING:
    from eexp.stream import Stream


def _part_numbers(ctx: click.Context, param: click.Parameter, numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers of parts, if there are so many parts."""
    parts = ctx.params["parts"]
    if too_large := [n for n in numbers if n > parts]:
        raise click.BadParameter(f"{too_large[0]}: there are {parts} parts")
    return numbers


@dataclass(frozen=True)
class SplitSettings:
    """Settings of `split`: either `included` or `excluded` is given."""

    parts: int = option(
        2,
        type=click.IntRange(min=1),
        is_eager=True,
        metavar="N",
        help="Number of parts, of about equal size.",
    )
    included: tuple[int, ...] = option(
        (),
        "--part",
        type=click.IntRange(min=1),
        multiple=True,
        metavar="I",
        callback=_part_numbers,
        help="A part to write, from 1. May be repeated.",
    )
    excluded: tuple[int, ...] = option(
        (),
        "--without",
        type=click.IntRange(min=1),
        multiple=True,
        metavar="I",
        callback=_part_numbers,
        help="Write all parts but this one. May be repeated.",
    )
    seed: int = options.seed.field()

    @property
    def kept(self) -> list[int]:
        """The numbers of the parts to yield, from 1."""
        return sorted(set(self.included) or set(range(1, self.parts + 1)) - set(self.excluded))


def split(records: Iterator[dict], settings: SplitSettings) -> Iterator[dict]:
    """Yield the records that belong to some of several parts of about equal size."""
    numbers = set(settings.kept)
    return (record for record in records if part_of(record, settings.parts, settings.seed) in numbers)


def part_of(record: dict, parts: int, seed: int = 0) -> int:
    """Return the number of the part that a record belongs to, from 1.

    The number follows from the hash of the record's id. For examples it is the id of their trajectory, so that an
    example is in the same part as its trajectory and all other examples of it.
    """
    return seed_of("split", seed, record.get("group") or record.get("origin") or record["id"]) % parts + 1


@click.command("split")
@command_options(SplitSettings)
@options.streams(*RECORD_TYPES)
def command(settings: SplitSettings, stream: Stream) -> None:
    """Write one part of a file of records.

    Takes records of any type but tasks. The part that a record belongs to follows from its id alone (for an
    example, from that of its trajectory): the same in every file and in every order.

    \b
    Example:
      eexp expert house -n 20 > expert.jsonl
      eexp split --parts 2 --part 1 expert.jsonl > one.jsonl
      eexp split --parts 2 --without 1 expert.jsonl > other.jsonl
    """
    if bool(settings.included) == bool(settings.excluded):
        raise click.UsageError("give --part or --without")
    part = ",".join(map(str, settings.kept))
    with stream.open("split", parts=settings.parts, part=part, seed=settings.seed) as io:
        for record in split(io.records(), settings):
            io.write(record)
