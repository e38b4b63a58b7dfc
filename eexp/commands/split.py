"""`eexp split`: write one part of a file of records, the same part whatever else is in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eexp.console import options
from eexp.console.parameters import command_options
from eexp.examples.settings import SplitSettings
from eexp.records.record import RECORD_TYPES

if TYPE_CHECKING:
    from eexp.console.stream import Stream


@click.command("split")
@command_options(SplitSettings)
@options.streams(*RECORD_TYPES, shards=True)
def command(settings: SplitSettings, stream: Stream) -> None:
    """Write one part of a file of records.

    Takes records of any type but tasks. The part of a record follows from a hash of its id (for an example, of its
    trajectory's id). So it is the same in every file and in every order.

    \b
    Example:
      eexp expert house -n 20 > expert.jsonl
      eexp split --parts 2 --part 1 expert.jsonl > one.jsonl
      eexp split --parts 2 --without 1 expert.jsonl > other.jsonl
    """
    from eexp.examples.parts import split

    if bool(settings.included) == bool(settings.excluded):
        raise click.UsageError("give --part or --without")
    if too_large := [n for n in settings.included + settings.excluded if n > settings.parts]:
        raise click.BadParameter(f"{too_large[0]}: there are {settings.parts} parts")
    part = ",".join(map(str, settings.kept))
    with stream.open("split", parts=settings.parts, part=part, seed=settings.seed) as io:
        for record in split(io.records(), settings):
            io.write(record)
