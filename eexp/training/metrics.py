"""The lines of metrics.jsonl: one for every update of a training run, and one for every validation.

A line of an update has the keys `step` (the update, from 1), `loss`, `epoch` and those that transformers' Trainer adds;
a line of a validation has `step`, `epoch` and `validation` (`validation.summary`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import orjson


def read_curves(metrics: Path) -> tuple[list[tuple[int, float]], list[tuple[int, dict]]]:
    """Read the losses and the validation losses from metrics.jsonl, each with its update.

    The run may still be going on, or may have been killed while it wrote a line. Losses that are not finite are left
    out.

    Returns:
        (update, loss) of every update, and (update, summary) of every validation.
    """
    losses, validations = [], []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            if "validation" in row:
                step, loss = int(row["step"]), float(row["validation"]["loss"])
                if math.isfinite(loss):
                    validations.append((step, {**row["validation"], "loss": loss}))
            else:
                step, loss = int(row["step"]), float(row["loss"])
                if math.isfinite(loss):
                    losses.append((step, loss))
        except (ValueError, KeyError, TypeError, OverflowError):  # half a line; or one without a loss
            continue
    return losses, validations


def last_updates(metrics: Path, n: int) -> list[dict]:
    """Return the last `n` lines of updates in metrics.jsonl that have a finite loss, whole lines alone."""
    rows = []
    for line in metrics.read_bytes().splitlines():
        try:
            row = orjson.loads(line)
            if "validation" not in row and math.isfinite(row["loss"]) and row["step"]:
                rows.append(row)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            continue
    return rows[-n:]


def mean_loss(lines: Iterable[bytes]) -> float:
    """Return the mean loss over all updates; Trainer's own mean leaves out those before a run was resumed."""
    losses = [row["loss"] for row in map(orjson.loads, lines) if "loss" in row]
    return round(sum(losses) / len(losses), 6)


def validation_summaries(lines: Iterable[bytes]) -> dict[int, dict]:
    """Return the summary of the losses on validation examples, by update."""
    rows = map(orjson.loads, lines)
    return {row["step"]: row["validation"] for row in rows if "validation" in row}


def best_validation(lines: Iterable[bytes]) -> tuple[float, int] | None:
    """Return (loss, update) of the lowest validation loss after at least one update; the first of equal ones.

    None where there was no validation after an update.
    """
    losses = ((summary["loss"], step) for step, summary in validation_summaries(lines).items() if step)
    return min(losses, default=None)
