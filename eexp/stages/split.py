"""`eexp split`: one part of a file of records, the same part whatever else is in the file."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import click

from eexp import options
from eexp.records import seed_of


def split(records: Iterator[dict], parts: int, kept: Collection[int], seed: int = 0) -> Iterator[dict]:
    """Yield the records that belong to some of several parts of about equal size.

    Args:
        parts: How many parts there are.
        kept: The numbers of the parts to yield, from 1.
    """
    return (record for record in records if part_of(record, parts, seed) in kept)


def part_of(record: dict, parts: int, seed: int = 0) -> int:
    """Return the number of the part that a record belongs to, from 1.

    It follows from the hash of the record's id. For examples it is the id of their trajectory, so that an example is in
    the same part as its trajectory and all other examples of it.
    """
    return seed_of("split", seed, record.get("group") or record.get("origin") or record["id"]) % parts + 1


def _numbers(ctx: click.Context, param: click.Parameter, numbers: tuple[int, ...]) -> tuple[int, ...]:
    parts = ctx.params["parts"]
    if too_large := [n for n in numbers if n > parts]:
        raise click.BadParameter(f"{too_large[0]}: there are {parts} parts")
    return numbers


@click.command("split")
@click.option(
    "--parts",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    is_eager=True,
    metavar="N",
    help="How many parts there are, of about equal size.",
)
@click.option(
    "--part",
    "included",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="I",
    callback=_numbers,
    help="A part to write, from 1. May be repeated.",
)
@click.option(
    "--without",
    "excluded",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="I",
    callback=_numbers,
    help="Write all parts but this one. May be repeated.",
)
@options.seed
@options.streams("any")
def command(parts, included, excluded, seed, stream) -> None:
    """Write one part of a file of records.

    Takes trajectories, examples and episodes. The part that a record belongs to follows from its id alone (for an
    example, from that of its trajectory): the same in every file and in every order.

    \b
    Example:
      eexp expert house -n 20 > expert.jsonl
      eexp split --parts 2 --part 1 expert.jsonl > one.jsonl
      eexp split --parts 2 --without 1 expert.jsonl > other.jsonl
    """
    if bool(included) == bool(excluded):
        raise click.UsageError("give --part or --without")
    kept = set(included) or set(range(1, parts + 1)) - set(excluded)
    with stream.open("split", "any", parts=parts, part=",".join(map(str, sorted(kept))), seed=seed) as io:
        for record in split(io.records(), parts, kept, seed):
            io.write(record)
