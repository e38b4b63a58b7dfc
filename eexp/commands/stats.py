"""`eexp stats`: count the contents of files of records (eexp/examples/statistics.py)."""

from __future__ import annotations

import click

from eexp.console.parameters import PATH, option
from eexp.errors import UsageError
from eexp.settings import FILE
from eexp.system.terminal import show, tell


@click.command("stats")
@option(None, "--apart-from", type=FILE, multiple=True).help(
    "Count leaks: records whose task occurs in this file, and examples with the words of one in it. The file is a "
    "panel or any records. May be repeated."
)
@option(None, "--tokenizer", metavar="MODEL").help(
    "Measure examples in the tokens of this model: tiny, or a model's directory or hub id.  [default: in characters]"
)
@option(False, "--json", "as_json").help("Write the rows of the table as JSONL, with the same numbers.")
@option(None, "--plot", "picture", type=FILE, metavar="PICTURE").help(
    "Draw how the lengths are distributed, as PNG, SVG or PDF."
)
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE]...")
def command(
    apart_from: tuple[str, ...], tokenizer: str | None, as_json: bool, picture: str | None, files: tuple[str, ...]
) -> None:
    """Count what is in files of records: lengths, valid share, duplicates, leaks.

    Each row is a type of record; for examples, a kind. `valid` is the share of actions that the environment accepted.
    In trajectories it counts executed alternatives, in examples those with a transition, in episodes all actions.
    Duplicates are examples with the same words, and trajectories and episodes with the same actions in the same task.
    The first of them is not counted. `eexp mix --duplicates` leaves out duplicates and near duplicates.

    \b
    Example:
      eexp expert house -n 9 | eexp imitation-data > il.jsonl
      eexp panel house -n 10 -o panel.jsonl
      eexp stats il.jsonl --apart-from panel.jsonl --tokenizer tiny
    """
    from eexp.examples.duplicates import HeldOut
    from eexp.examples.statistics import characters, plot, stats, table, tokens_of
    from eexp.records.jsonl import dumps, read, write_to_stdout
    from eexp.records.record import RECORD_TYPES

    measure = tokens_of(tokenizer) if tokenizer else characters
    held_out = HeldOut(apart_from) if apart_from else None
    statistics = stats(read(files, *RECORD_TYPES), measure, held_out)
    rows, unit = statistics.rows(), "tokens" if tokenizer else "characters"
    if not rows:
        if picture:
            raise UsageError("--plot: no records in the input")
        tell("stats: no records in the input")
        return
    if as_json:
        write_to_stdout(b"".join(map(dumps, rows)))
    else:
        show(table(rows, unit))
    if picture:
        plot(statistics.groups, unit, picture)
