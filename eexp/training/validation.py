"""Losses on examples that are not trained on, by kind and by span."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedModel

from eexp.training.data import Row
from eexp.training.exact import evaluation_mode
from eexp.training.packing import PACKINGS, target_losses
from eexp.training.updates import distribute

#: By (kind, span): the sum of -log p over its target tokens, and the number of these.
Sums = dict[tuple[str, str], tuple[float, int]]


def validation_losses(
    model: PreTrainedModel,
    rows: Sequence[Row],
    *,
    packing: str = "tree",
    tokens_per_batch: int = 4096,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    rank: int = 0,
    processes: int = 1,
) -> Sums:
    """Return -log p of the targets of `rows`, summed by kind and span; nothing is learned.

    Every target counts once, whatever its weight and that of its row; tokens of spans of weight 0 are no targets, and
    rows of weight 0 are left out.

    Args:
        model: The model, with the attention of trees (exact.prepare) unless `packing` is "none".
        rows: The examples to validate with.
        packing: "tree" or "none".
        tokens_per_batch: Most tokens of a pass.
        dtype: The type to compute in; the model's by default.
        device: The device to compute on; the model's by default.
        rank: This process's number among `processes`; it computes its own passes, and `add_sums` puts the results of
            all together.
        processes: The number of processes.
    """
    sums: Sums = {}
    passes = distribute(rows, PACKINGS[packing], tokens_per_batch, processes)[rank] if rows else []
    with evaluation_mode(model, dtype or model.dtype):
        for part_rows in passes:
            part = PACKINGS[packing].part(part_rows, device or model.device)
            losses = target_losses(model, part).tolist()
            for row, places in zip(part_rows, part.row_targets):
                if row.weight:
                    _add_row(sums, row, [losses[n] for n in places])
    return sums


def _add_row(sums: Sums, row: Row, losses: list[float]) -> None:
    """Add the losses of a row's targets, in their order, to the sums."""
    start = 0
    for name, _, targets in row.spans():
        stop = start + len(targets)
        total, tokens = sums.get((row.kind, name), (0.0, 0))
        sums[row.kind, name] = (total + sum(losses[start:stop]), tokens + len(targets))
        start = stop


def add_sums(parts: Iterable[Sums]) -> Sums:
    """Return the sums over several processes' parts."""
    sums: Sums = {}
    for part in parts:
        for key, (loss, tokens) in part.items():
            total, count = sums.get(key, (0.0, 0))
            sums[key] = (total + loss, count + tokens)
    return sums


def summary(sums: Sums) -> dict:
    """Return mean losses per target token, in nats, as in metrics.jsonl.

    Keys: `loss` and `tokens` over everything; `kinds` by kind; `spans` by "kind/span".
    """
    kinds: Sums = {}
    for (kind, _), span_sums in sums.items():
        kinds = add_sums([kinds, {(kind, ""): span_sums}])
    (whole,) = add_sums({("", ""): span_sums} for span_sums in sums.values()).values()
    return {
        "loss": _mean(whole)["loss"],
        "tokens": whole[1],
        "kinds": {kind: _mean(kind_sums) for (kind, _), kind_sums in sorted(kinds.items())},
        "spans": {f"{kind}/{span}": _mean(span_sums) for (kind, span), span_sums in sorted(sums.items())},
    }


def _mean(loss_and_tokens: tuple[float, int]) -> dict:
    loss, tokens = loss_and_tokens
    return {"loss": loss / tokens, "tokens": tokens}
