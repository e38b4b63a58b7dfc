"""`eexp show`: show records and training runs to a person, because automatic checks do not replace reading."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import click

from eexp import options
from eexp.errors import InputError, UsageError
from eexp.terminal import show, tell

_EMPTY = "show: no records in the input"


def sample(records: Iterable[dict], n: int, seed: int) -> list[dict]:
    """Return `n` records drawn uniformly in one pass, in their order: those of the smallest hashes of their ids."""
    from heapq import nsmallest

    from eexp.records import seed_of

    hashed = ((seed_of("show", seed, record["id"]), i, record) for i, record in enumerate(records))
    return [record for _, _, record in sorted(nsmallest(n, hashed), key=lambda one: one[1])]


def describe_run(directory: Path) -> str:
    """Return the model card and the end of the loss curve of a training run."""
    from eexp.training.metrics import last_updates, read_curves

    card = directory / "README.md"
    if not card.is_file():
        raise UsageError(f"{directory}: holds no training run (no README.md)")
    lines = [card.read_text(encoding="utf-8")]
    metrics = directory / "metrics.jsonl"
    if metrics.is_file():
        _, validations = read_curves(metrics)
        lines += [_update_in_words(row) for row in last_updates(metrics, 5)]
        lines += [f"step {step}: validation loss {_in_words(validation)}" for step, validation in validations]
    return "\n".join(lines)


def _update_in_words(row: dict) -> str:
    values = ", ".join(f"{name} {row[name]:.4f}" for name in ("loss", "accuracy", "margin", "clipped") if name in row)
    return f"step {row['step']}: {values}"


def describe_gguf(file: str) -> str:
    """Return what the header of a GGUF file says about the model or adapter and how it was trained."""
    from eexp.gguf.file import read_header

    return "\n".join(f"{key}: {value}" for key, value in sorted(read_header(file).strings.items()))


def _in_words(validation: dict) -> str:
    spans = ", ".join(f"{span} {entry['loss']:.4f}" for span, entry in validation["spans"].items())
    return f"{validation['loss']:.4f} ({spans})"


def plot_runs(directories: list[Path], file: str) -> None:
    """Draw the loss curves of training runs in one picture, dashed for validation examples.

    The ending of the file's name is the format.
    """
    from eexp.evidence.plot import picture
    from eexp.training.metrics import read_curves

    with picture(file, (7, 4)) as figure:
        axes = figure.subplots()
        for directory in directories:
            metrics = directory / "metrics.jsonl"
            if not metrics.is_file():
                raise UsageError(f"{directory}: holds no training run (no metrics.jsonl)")
            losses, validations = read_curves(metrics)
            (line,) = axes.plot(*_points(losses), linewidth=1, label=directory.name)
            if validations:
                curve = _points([(step, validation["loss"]) for step, validation in validations])
                axes.plot(*curve, "--", color=line.get_color(), linewidth=1, label=f"{directory.name}, validation")
        axes.set(xlabel="update", ylabel="loss (nats per target token)")
        axes.legend(frameon=False)


def _points(curve: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [loss for _, loss in curve]


@click.command("show")
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of records to show.",
)
@click.option("--sample", "sampled", is_flag=True, help="Draw them at random (--seed) instead of taking the first.")
@click.option("--id", "record_id", metavar="ID", help="Only the record with this id.")
@click.option(
    "--row",
    "row_of_model",
    metavar="MODEL",
    help="Show examples as the rows of tokens that this model is trained on, targets in [[ ]]: tiny, or a "
    "model's directory or hub id.",
)
@click.option(
    "--summary",
    "summarised",
    is_flag=True,
    help="Count all records instead, and show what share of the alternatives is valid, changes the state, leads to the "
    "expert's outcome and finishes the task, by source and pool.",
)
@click.option(
    "--plot", type=options.PATH, metavar="PICTURE", help="Draw the loss curves of training runs, as PNG, SVG or PDF."
)
@options.seed
@click.argument("files", nargs=-1, type=options.PATH, metavar="[FILE|DIR]...")
def command(
    number: int,
    sampled: bool,
    record_id: str | None,
    row_of_model: str | None,
    summarised: bool,
    plot: str | None,
    seed: int,
    files: tuple[str, ...],
) -> None:
    """Show records, or a training run, to a person.

    Trajectories are shown with their alternatives and outcomes, examples with the text that the loss falls on in green,
    episodes as they were played, and what --rejects has set aside with the reason. A directory is a training run: its
    model card and last losses. Of a GGUF file, what it says about itself is shown.

    \b
    Example:
      eexp expert house -n 5 | eexp branch | eexp rollout > rollout.jsonl
      eexp show -n 1 rollout.jsonl
      eexp show --summary rollout.jsonl
      eexp reflect rollout.jsonl | eexp show -n 1 --row tiny
    """
    from eexp.rendering import summary

    if plot is not None:
        if not files:
            raise UsageError("--plot draws training runs; give their directories")
        plot_runs([Path(f) for f in files], plot)
        return
    if files and os.path.isdir(files[0]):
        show("\n".join(describe_run(Path(f)) for f in files))
        return
    if files and files[0].endswith(".gguf"):
        show("\n".join(describe_gguf(f) for f in files))
        return
    records: Iterable[dict] = _records(files)
    if summarised:
        lines = summary(records)
        if not lines:
            tell(_EMPTY)
        for line in lines:
            show(line)
        return
    if record_id is not None:
        records = (r for r in records if r.get("id") == record_id)
    rendered = _renderer(row_of_model)
    n_shown, before = 0, None
    for record in sample(records, number, seed) if sampled else islice(records, number):
        show(("\n" if n_shown else "") + rendered(record, before))
        n_shown, before = n_shown + 1, record
    if record_id is not None and not n_shown:
        raise InputError(f"no record has the id {record_id!r}")
    if not n_shown:
        tell(_EMPTY)


def _records(files: tuple[str, ...]) -> Iterator[dict]:
    """Yield records, and what stages have set aside, which has a form of its own (`--rejects`)."""
    from eexp.jsonl import lines, loads
    from eexp.record_types import check
    from eexp.records import RECORD_TYPES

    for name, number, line in lines(files):
        try:
            record = loads(line)
            yield (
                record if isinstance(record, dict) and record.get("type") == "reject" else check(record, *RECORD_TYPES)
            )
        except InputError as e:
            raise InputError(f"{name}:{number}: {e}") from None


def _renderer(row_of_model: str | None) -> Callable[[dict, dict | None], str]:
    """Return the function that renders a record after another one; examples as rows of a model, if one is named."""
    from eexp.rendering import render, render_row

    if row_of_model is None:
        return render
    from eexp.models.tokenizers import load_tokenizer
    from eexp.training.data import row_maker

    tokenizer = load_tokenizer(row_of_model)
    row_of = row_maker(tokenizer)

    def rendered(record: dict, before: dict | None) -> str:
        if record["type"] != "example":
            return render(record, before)
        return render_row(record, row_of(record), tokenizer)

    return rendered
