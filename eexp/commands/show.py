"""`eexp show`: show records and training runs to a person, because automatic checks do not replace reading."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import click

from eexp.console.parameters import PATH, option, parameter
from eexp.errors import InputError, UsageError
from eexp.settings import FILE, SEED, Whole
from eexp.system.terminal import paged, show, tell

LONGEST = 600  # characters of an observation on a terminal, unless --full is given
_EMPTY = "show: no records in the input"


@click.command("show")
@option(3, "-n", "--number", type=Whole(1)).help("Number of records to show.")
@option(False, "--sample", "sampled").help("Draw them at random (--seed) instead of taking the first.")
@option(None, "--id", "record_id", metavar="ID").help("Only the record with this id.")
@option(None, "--row", "row_of_model", metavar="MODEL").help(
    "Show examples as the rows of tokens that this model is trained on, targets in [[ ]]: tiny, or a "
    "model's directory or hub id."
)
@option(False, "--summary", "summarised").help(
    "Count all records instead, and show what share of the alternatives is valid, changes the state, leads to the "
    "expert's outcome and finishes the task, by source and pool."
)
@option(False, "--tree", "as_tree").help("Show only the actions of trajectories, with the outcome of each.")
@option(False, "--full").help("Show long observations whole on a terminal, too.")
@option(None, "--plot", type=FILE, metavar="PICTURE").help("Draw the loss curves of training runs, as PNG, SVG or PDF.")
@parameter(SEED)
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE|DIR]...")
def command(
    number: int,
    sampled: bool,
    record_id: str | None,
    row_of_model: str | None,
    summarised: bool,
    as_tree: bool,
    full: bool,
    plot: str | None,
    seed: int,
    files: tuple[str, ...],
) -> None:
    """Show records, or a training run, to a person.

    A trajectory has its alternatives and their outcomes. In an example, the text that the loss falls on is green. An
    episode is shown turn by turn. A record that --rejects set aside has the reason. For the directory of a training
    run, the model card and the last losses are shown; for a GGUF file, its metadata.

    FILE#ID shows one record, and FILE#ID/STEP one step of it. On a terminal, long observations are cut unless --full is
    given, and long output goes through a pager (PAGER, or less).

    \b
    Example:
      eexp expert house -n 5 | eexp branch | eexp rollout > rollout.jsonl
      eexp show -n 1 rollout.jsonl
      eexp show 'rollout.jsonl#house/train/0/2'
      eexp show --tree rollout.jsonl
      eexp show --summary rollout.jsonl
      eexp reflect rollout.jsonl | eexp show -n 1 --row tiny
    """
    from eexp.console.rendering import Detail, render_gguf, render_run, renderer, summary
    from eexp.examples.parts import sample

    if plot is not None:
        from eexp.evidence.plot import plot_losses

        if not files:
            raise UsageError("--plot draws training runs; give their directories")
        plot_losses([Path(f) for f in files], plot)
        return
    if files and os.path.isdir(files[0]):
        show("\n".join(render_run(Path(f)) for f in files))
        return
    if files and files[0].endswith(".gguf"):
        show("\n".join(map(render_gguf, files)))
        return
    files, place = _place(files)
    records: Iterable[dict] = _records(files)
    if summarised:
        lines = summary(records)
        if not lines:
            tell(_EMPTY)
        for line in lines:
            show(line)
        return
    step = None
    if place is not None:
        record_id = place
        records, step = _at(records, place)
    elif record_id is not None:
        records = (r for r in records if r.get("id") == record_id)
    longest = None if full or not sys.stdout.isatty() else LONGEST
    render = renderer(row_of_model, Detail(step, longest, as_tree))
    n_shown, before = 0, None
    with paged():
        for record in sample(records, number, seed) if sampled else islice(records, number):
            show(("\n" if n_shown else "") + render(record, before))
            n_shown, before = n_shown + 1, record
    if record_id is not None and not n_shown:
        raise InputError(f"no record has the id {record_id!r}")
    if not n_shown:
        tell(_EMPTY)


def _place(files: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Return the files, and the place after the # of FILE#ID or FILE#ID/STEP; None where there is none."""
    if len(files) == 1 and "#" in files[0] and not os.path.exists(files[0]):
        file, _, place = files[0].partition("#")
        return (file,), place
    return files, None


def _at(records: Iterable[dict], place: str) -> tuple[list[dict], int | None]:
    """Return the first record with an id, and the step that stands behind it: "house/train/0/3" is step 3 of one."""
    identity, _, number = place.rpartition("/")
    whole: dict | None = None
    for record in records:
        if record.get("id") == place:
            return [record], None
        if whole is None and number.isdecimal() and record.get("id") == identity:
            whole = record
    return ([], None) if whole is None else ([whole], int(number))


def _records(files: tuple[str, ...]) -> Iterator[dict]:
    """Yield records, and what stages have set aside, which has a form of its own (`--rejects`)."""
    from eexp.records.jsonl import lines, loads
    from eexp.records.record import RECORD_TYPES
    from eexp.records.shards import parse_end
    from eexp.records.types import check

    for name, number, line in lines(files):
        try:
            record = loads(line)
            if parse_end(record):
                continue
            yield (
                record if isinstance(record, dict) and record.get("type") == "reject" else check(record, *RECORD_TYPES)
            )
        except InputError as e:
            raise InputError(f"{name}:{number}: {e}") from None
