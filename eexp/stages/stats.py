"""`eexp stats`: count the contents of files of records (eexp/statistics.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eexp import options
from eexp.errors import UsageError
from eexp.terminal import show, tell

if TYPE_CHECKING:
    from eexp.statistics import Measure


@click.command("stats")
@click.option(
    "--apart-from",
    multiple=True,
    type=options.PATH,
    metavar="FILE",
    help="Count as leaks the records of tasks that occur in this file, a panel or any records, and examples "
    "with the words of one in it. May be repeated.",
)
@click.option(
    "--tokenizer",
    metavar="MODEL",
    help="Measure examples in the tokens of this model: tiny, or a model's directory or hub id.  "
    "[default: in characters]",
)
@click.option("--json", "as_json", is_flag=True, help="Write the rows of the table as JSONL, with the same numbers.")
@click.option(
    "--plot",
    "picture",
    type=options.PATH,
    metavar="PICTURE",
    help="Draw how the lengths are distributed, as PNG, SVG or PDF.",
)
@click.argument("files", nargs=-1, type=options.PATH, metavar="[FILE]...")
def command(
    apart_from: tuple[str, ...], tokenizer: str | None, as_json: bool, picture: str | None, files: tuple[str, ...]
) -> None:
    """Count what is in files of records: lengths, valid share, duplicates, leaks.

    A row is a type of record and, for examples, a kind. Valid is the share of the actions that the environment took: of
    executed alternatives in trajectories, of examples with a transition, of the actions of episodes. Duplicates are
    examples with the same words, and trajectories and episodes with the same actions in the same task, the first not
    counted. `eexp mix` leaves them out, and near duplicates with them.

    \b
    Example:
      eexp expert house -n 9 | eexp imitation-data > il.jsonl
      eexp panel house -n 10 -o panel.jsonl
      eexp stats il.jsonl --apart-from panel.jsonl --tokenizer tiny
    """
    from eexp.jsonl import dumps, read, write_to_stdout
    from eexp.mixing.duplicates import HeldOut
    from eexp.records import RECORD_TYPES
    from eexp.statistics import Statistics, characters, plot, table

    statistics = Statistics(
        _tokens_of(tokenizer) if tokenizer else characters, HeldOut.of(apart_from) if apart_from else None
    )
    for record in read(files, *RECORD_TYPES):
        statistics.add(record)
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


def _tokens_of(spec: str) -> Measure:
    """Return the function that measures an example in the tokens of a model."""
    from eexp.models.tokenizers import load_tokenizer
    from eexp.training.data import row_maker

    row_of = row_maker(load_tokenizer(spec))

    def tokens(example: dict) -> tuple[int, int]:
        row = row_of(example)
        return row.n_prompt, row.n_completion

    return tokens
