"""Learning the completions of examples by their likelihood: supervised fine-tuning (SFT)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from eexp.records.callbacks import OnError
from eexp.training.data import Row, tokenize
from eexp.training.objectives.base import Objective, UpdateLoss
from eexp.training.packing import Part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Likelihood(Objective):
    """The objective -log p of every target, by its weight."""

    def rows(
        self, records: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_length: int, on_error: OnError
    ) -> Iterator[Row]:
        """Yield the rows of examples (`data.tokenize`)."""
        return tokenize(records, tokenizer, max_length, on_error, self.settings.action_weight)

    def update_loss(self, rows: Sequence[Row], update_weight: float, processes: int) -> UpdateLoss:
        """Return the loss of an update: the mean of -log p by the weights of its targets."""
        return LikelihoodLoss(processes / update_weight)


class LikelihoodLoss(UpdateLoss):
    """The weighted sum of -log p of the targets of an update.

    Args:
        scale: Factor of the losses of all tokens.
    """

    def __init__(self, scale: float) -> None:
        self._scale = scale

    def __call__(self, rows: Sequence[Row], part: Part, losses: torch.Tensor) -> torch.Tensor:
        """Return the share that a pass has in the loss."""
        return (part.weights * losses).sum() * self._scale


def plain_loss(rows: Sequence[Row], part: Part, losses: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of -log p over the targets of the plain examples of a pass.

    Rows of a class derived from `Row` are left out: they have a loss of their own.
    """
    indices: list[int] = []
    weights: list[float] = []
    for row, targets in zip(rows, part.row_targets):
        if type(row) is Row:
            indices += targets
            weights += [weight for _, weight in row.target_weights()]
    return (losses[indices] * torch.tensor(weights, device=losses.device)).sum()
