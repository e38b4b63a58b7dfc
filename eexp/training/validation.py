"""Losses on examples that are not trained on, by kind and by span."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from eexp.training.data import Row
from eexp.training.exact import evaluation_mode
from eexp.training.packing import PACKINGS, target_losses
from eexp.training.updates import distribute

#: Of each (kind, span): the sum of -log p over its target tokens, and how many these are.
Sums = dict[tuple[str, str], tuple[float, int]]


def validation_losses(
    model: Any,
    rows: Sequence[Row],
    *,
    packing: str = "tree",
    tokens_per_batch: int = 4096,
    dtype: Any = None,
    device: Any = None,
    rank: int = 0,
    processes: int = 1,
) -> Sums:
    """Return -log p of the targets of `rows`, summed by kind and span, with nothing learned.

    Every target counts once, whatever its weight and that of its row; tokens of spans of weight 0 are no targets, and
    rows of weight 0 are left out.

    Args:
        model: with the attention of trees (exact.prepare), unless `packing` is "none".
        dtype: what to compute in; that of the model if None. device: where; that of the model if None.
        rank, processes: this process computes its part of what all processes compute; `add_sums` puts the parts together.
    """
    sums: Sums = {}
    passes = distribute(rows, PACKINGS[packing], tokens_per_batch, processes)[rank] if rows else []
    with evaluation_mode(model, dtype or model.dtype):
        for part_rows in passes:
            part = PACKINGS[packing].part(part_rows, device or model.device)
            losses = target_losses(model, part).double().tolist()
            for row, places in zip(part_rows, part.row_targets):
                if row.weight:
                    _add_row(sums, row, [losses[n] for n in places])
    return sums


def _add_row(sums: Sums, row: Row, losses: list[float]) -> None:
    start = 0
    for name, _, targets in row.spans():
        stop = start + len(targets)
        total, tokens = sums.get((row.kind, name), (0.0, 0))
        sums[row.kind, name] = (total + sum(losses[start:stop]), tokens + len(targets))
        start = stop


def add_sums(parts: Iterable[Sums]) -> Sums:
    """Put together what several processes have computed."""
    sums: Sums = {}
    for part in parts:
        for key, (loss, tokens) in part.items():
            total, before = sums.get(key, (0.0, 0))
            sums[key] = (total + loss, before + tokens)
    return sums


def summary(sums: Sums) -> dict:
    """Mean losses per target token: of everything, by kind, and by kind and span, as in metrics.jsonl."""
    kinds: Sums = {}
    for (kind, _), one in sums.items():
        kinds = add_sums([kinds, {(kind, ""): one}])
    (whole,) = add_sums({("", ""): one} for one in sums.values()).values()
    return {
        "loss": _mean(whole)["loss"],
        "tokens": whole[1],
        "kinds": {kind: _mean(one) for (kind, _), one in sorted(kinds.items())},
        "spans": {f"{kind}/{span}": _mean(one) for (kind, span), one in sorted(sums.items())},
    }


def _mean(one: tuple[float, int]) -> dict:
    return {"loss": one[0] / one[1], "tokens": one[1]}
