"""`eexp show`: records for a person to read. Automatic checks never stand for reading."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import nsmallest
from itertools import islice
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from eexp import options
from eexp.errors import EexpError, InputError, UsageError, short
from eexp.outcomes import Shares
from eexp.records import seed_of
from eexp.terminal import show, style, tell
from eexp.training.metrics import read_curves

if TYPE_CHECKING:
    from eexp.training.data import Row

_EMPTY = "show: no records in the input"


def sample(records: Iterable[dict], n: int, seed: int) -> list[dict]:
    """Return `n` records drawn uniformly in one pass, in their order: those of the smallest hashes of their ids."""
    hashed = ((seed_of("show", seed, record["id"]), i, record) for i, record in enumerate(records))
    return [record for _, _, record in sorted(nsmallest(n, hashed), key=lambda one: one[1])]


def render(record: dict) -> str:
    """One record as text, whichever type it is."""
    how = {"trajectory": _trajectory, "example": _example, "episode": _episode}.get(record.get("type"))
    if how is None:
        raise InputError(f"a record of type {record.get('type')!r} cannot be shown", "$.type")
    lines = [style(f"{record['type']} {record['id']}", bold=True), *how(record)]
    lines += [style(f"  {entry}", dim=True) for entry in record.get("lineage", [])]
    return "\n".join(lines)


def _outcome(outcome: dict | None) -> str:
    if outcome is None:
        return style("not executed", dim=True)
    marks = [
        m
        for m, on in (
            ("invalid", outcome.get("valid") is False),
            ("done", outcome.get("done")),
            ("success", outcome.get("success")),
        )
        if on
    ]
    return outcome["observation"] + (f"  [{', '.join(marks)}]" if marks else "")


def _trajectory(t: dict) -> Iterator[str]:
    yield f"  {t['env']}, task {t['task'].get('id')}: {t['instruction']}"
    for i, step in enumerate(t["steps"]):
        yield indent(step["observation"], "  ")
        if step.get("thought"):
            yield style(indent(step["thought"], "    "), fg="cyan")
        marks = [mark for mark in ("mistake", "noise") if step.get(mark)]
        marked = style(f"  [{', '.join(marks)}]", dim=True) if marks else ""
        yield style(f"  {i}> {step['action']}", fg="green") + marked
        for a in step.get("alternatives", []):
            logprob = "" if a.get("logprob") is None else f" {a['logprob']:.1f}"
            pool = f", pool {a['pool']}" if a.get("pool") else ""
            source = style(f" ({a['source']}{logprob}{pool})", dim=True)
            yield style(f"     ~ {a['action']}", fg="yellow") + source
            shown = f"refused: {a['refused']}" if a.get("refused") else _outcome(a.get("outcome"))
            yield indent(shown, "         ")
    if t.get("outcome"):
        yield indent(_outcome(t["outcome"]), "  ")


def _example(e: dict) -> Iterator[str]:
    kind = f"{e['kind']}, {e['transition']}" if e.get("transition") else e["kind"]
    yield style(f"  {kind}, weight {e.get('weight', 1.0):g}, style {e.get('prompt_style')}", dim=True)
    for m in e["prompt"]:
        yield indent(f"{m['role']}: {m['content']}", "  ")
    for m in e["completion"]:  # the loss falls on this
        yield style(indent(f"{m['role']}: {m['content']}", "  "), fg="green")
    yield from _spans(e)


def _spans(e: dict) -> Iterator[str]:
    """The spans of an example that count otherwise than usual, and how probable a model found each."""
    text = e["completion"][-1]["content"]
    for span in e.get("spans") or []:
        if span.get("weight", 1.0) != 1 or span["name"] == "unknown":
            part = short(text[span["start"] : span["end"]])
            yield style(f"  {span['name']}, weight {span.get('weight', 1.0):g}: {part}", dim=True)
    for score in e.get("scores") or []:
        said = f"  {score['span']}: log-probability {score['logprob']:.2f}, {score['tokens']} tokens"
        yield style(said, dim=True)


def _episode(e: dict) -> Iterator[str]:
    verdict = style("success", fg="green") if e["success"] else style("failure", fg="red")
    counts = f"{e['steps']} steps, {e.get('invalid', 0)} invalid"
    yield f"  {verdict}, score {e.get('score')}, {counts}; {e.get('instruction')}"
    for turn in e.get("transcript", []):
        yield indent(turn["observation"], "  ")
        yield style(indent(turn.get("text") or turn["action"], "  > "), fg=None if turn.get("valid", True) else "red")
    yield indent(e.get("final") or "", "  ")


def render_row(example: dict, row: Row, tokenizer: Any) -> str:
    """One example as the row of tokens that is trained on: counts, and its text with the targets in [[ ]]."""
    from eexp.training.preview import mark_targets

    targets: Counter[str] = Counter()
    for name, _, indices in row.spans():
        targets[name or "completion"] += len(indices)
    spans = ", ".join(f"{name} {n}" for name, n in targets.items())
    counts = (
        f"  {row.n_prompt + row.n_completion} tokens: prompt {row.n_prompt}, completion {row.n_completion}; "
        f"targets {row.n_targets}" + (f" ({spans})" if spans else "") + f", weight {row.weight:g}"
    )
    head = style(f"example {example['id']}", bold=True)
    return "\n".join([head, style(counts, dim=True), indent(mark_targets(tokenizer, row), "  ")])


def show_run(directory: Path) -> str:
    """The model card and the end of the loss curve of a training run."""
    card = directory / "README.md"
    if not card.is_file():
        raise UsageError(f"{directory}: holds no training run (no README.md)")
    lines = [card.read_text(encoding="utf-8")]
    metrics = directory / "metrics.jsonl"
    if metrics.is_file():
        losses, validations = read_curves(metrics)
        lines += [f"step {step}: loss {loss:.4f}" for step, loss in losses[-5:]]
        lines += [f"step {step}: validation loss {_in_words(found)}" for step, found in validations]
    return "\n".join(lines)


def _in_words(validation: dict) -> str:
    spans = ", ".join(f"{span} {one['loss']:.4f}" for span, one in validation["spans"].items())
    return f"{validation['loss']:.4f} ({spans})"


def plot_runs(directories: list[Path], file: str) -> None:
    """The loss curves of training runs in one picture, those on validation examples dashed.

    The format is that of the ending of its name.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise EexpError("--plot needs matplotlib; pip install 'eexp[plot]'") from None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for directory in directories:
        metrics = directory / "metrics.jsonl"
        if not metrics.is_file():
            raise UsageError(f"{directory}: holds no training run (no metrics.jsonl)")
        losses, validations = read_curves(metrics)
        (line,) = axes.plot(*_points(losses), linewidth=1, label=directory.name)
        if validations:
            curve = _points([(step, found["loss"]) for step, found in validations])
            axes.plot(*curve, "--", color=line.get_color(), linewidth=1, label=f"{directory.name}, validation")
    axes.set(xlabel="update", ylabel="loss (nats per target token)")
    axes.legend(frameon=False)
    try:
        figure.savefig(file, dpi=150)
    except ValueError as e:
        raise UsageError(f"--plot {file}: {str(e).splitlines()[0]}") from None


def _points(curve: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [loss for _, loss in curve]


def summary(records: Iterable[dict]) -> list[str]:
    """Return what can be counted in records, as lines of text."""
    counts: dict[str, Counter[str]] = {}
    shares = Shares()
    for record in records:
        counted = counts.setdefault(record["type"], Counter())
        counted[record["type"] if record["type"] != "example" else record["kind"]] += 1
        if record["type"] == "trajectory":
            counted["steps"] += len(record["steps"])
            shares.add(record)
        elif record["type"] == "episode":
            counted["steps"] += record["steps"]
            counted["successes"] += record["success"]
    lines = []
    if found := counts.get("trajectory"):
        lines.append(f"trajectories: {found['trajectory']}, of {found['steps']} steps")
        lines += [f"  alternatives {line}" for line in shares.lines()]
    if found := counts.get("example"):
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(found.items()))
        lines.append(f"examples: {found.total()}, of which {kinds}")
    if found := counts.get("episode"):
        lines.append(f"episodes: {found['episode']}, of {found['steps']} steps, {found['successes']} successes")
    return lines


def _checked(files: tuple[str, ...]) -> Iterator[dict]:
    from eexp.jsonl import read

    return read(files, "any")


@click.command("show")
@click.option(
    "-n", "--number", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="How many records."
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
    help="Count all records instead, and tell what share of the alternatives is valid, changes the state, "
    "leads to the expert's outcome and finishes the task, by source and pool.",
)
@click.option(
    "--plot", type=options.PATH, metavar="PICTURE", help="Draw the loss curves of training runs, as PNG, SVG or PDF."
)
@options.seed
@click.argument("files", nargs=-1, type=options.PATH, metavar="[FILE|DIR]...")
def command(number, sampled, record_id, row_of_model, summarised, plot, seed, files) -> None:
    """Show records, or a training run, to a person.

    Trajectories with their alternatives and outcomes, examples with what the loss falls on in green, episodes as they
    were played. A directory is a training run: its model card and last losses.

    \b
    Example:
      eexp expert house -n 20 | eexp branch | eexp rollout > rollout.jsonl
      eexp show -n 1 rollout.jsonl
      eexp show --summary rollout.jsonl
      eexp reflect rollout.jsonl | eexp show -n 1 --row tiny
    """
    if plot is not None:
        if not files:
            raise UsageError("--plot draws training runs; give their directories")
        plot_runs([Path(f) for f in files], plot)
        return
    if files and os.path.isdir(files[0]):
        show("\n".join(show_run(Path(f)) for f in files))
        return
    records: Iterable[dict] = _checked(files)
    if summarised:
        counted = summary(records)
        if not counted:
            tell(_EMPTY)
        for line in counted:
            show(line)
        return
    if record_id is not None:
        records = (r for r in records if r["id"] == record_id)
    tokenizer = None
    if row_of_model is not None:
        from eexp.models.tokenizers import load_tokenizer
        from eexp.training.data import row_maker

        tokenizer = load_tokenizer(row_of_model)
        row_of = row_maker(tokenizer)
    chosen = sample(records, number, seed) if sampled else islice(records, number)
    shown = 0
    for record in chosen:
        as_row = tokenizer is not None and record["type"] == "example"
        show(("\n" if shown else "") + (render_row(record, row_of(record), tokenizer) if as_row else render(record)))
        shown += 1
    if record_id is not None and not shown:
        raise InputError(f"no record has the id {record_id!r}")
    if not shown:
        tell(_EMPTY)
