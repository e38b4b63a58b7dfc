"""The clipped loss of an agent's own answers (PPO, Schulman et al. 2017, arXiv 1707.06347), as in GRPO.

With weight w, and with the ratio r of a token's probability to that before the first update, the loss of the token is

    -min(w * r, w * clip(r, 1 - c, 1 + c))

At the first update this has the gradient of -w * log p. Later, a token that has become more likely by the share c, or
less likely where w is negative, is left alone: episodes say nothing about an agent that would not have played them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from eexp.errors import InputError
from eexp.records.callbacks import OnError
from eexp.training.data import Row
from eexp.training.objectives.base import LogprobsOf, Objective, UpdateLoss
from eexp.training.objectives.likelihood import Likelihood, plain_loss
from eexp.training.packing import Part
from eexp.training.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

POLICY = "policy"  # the kind of examples that are an agent's own answers (`eexp policy-data`)


@dataclass
class OwnRow(Row):
    """One of the agent's own answers as a row."""

    before: Sequence[float] = ()  # the log-probability of each target before the first update, once that is known


class Clipped(Likelihood):
    """The objective of `--clip`: the agent's own answers are clipped, and other examples are learned as ever."""

    def rows(
        self, records: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_length: int, on_error: OnError
    ) -> Iterator[Row]:
        """Yield the rows of examples; those of the agent's own answers can hold log-probabilities."""
        for row in super().rows(records, tokenizer, max_length, on_error):
            yield OwnRow(**vars(row)) if row.kind == POLICY else row

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Raise InputError if none of the rows is one of the agent's own answers."""
        if not any(isinstance(row, OwnRow) for row in rows):
            raise InputError("no examples of kind policy with a weight, which --clip is for (eexp policy-data)")

    def prepare(self, rows: Sequence[Row], logprobs_of: LogprobsOf) -> None:
        """Compute the log-probabilities of the agent's own answers before the first update."""
        own = [row for row in rows if isinstance(row, OwnRow)]
        for row, logprobs in zip(own, logprobs_of(own)):
            row.before = logprobs

    def update_loss(self, rows: Sequence[Row], update_weight: float, processes: int) -> UpdateLoss:
        """Return the loss of an update."""
        return ClippedLoss(self.settings.own.clip, processes / update_weight)


def likelihood_or_clipped(settings: Settings) -> Objective:
    """Return the objective of `--objective sft`, which `--clip` makes the clipped one."""
    return Clipped(settings) if settings.own.clip else Likelihood(settings)


class ClippedLoss(UpdateLoss):
    """The loss of one update, in which the agent's own answers are clipped.

    Args:
        clip: The share c above.
        scale: Factor of the losses of all tokens.

    Attributes:
        sums: [2] without their signs, the weights of the targets that are clipped, and of all of the agent's own.
    """

    def __init__(self, clip: float, scale: float) -> None:
        self._clip, self._scale = clip, scale

    def __call__(self, rows: Sequence[Row], part: Part, losses: torch.Tensor) -> torch.Tensor:
        """Return the share that a pass has in the loss."""
        indices: list[int] = []
        weights, before = array("f"), array("f")
        for row, targets in zip(rows, part.row_targets):
            if isinstance(row, OwnRow):
                indices += targets
                weights.extend(weight for _, weight in row.target_weights())
                before.extend(row.before)
        w, q = (torch.tensor(values, device=losses.device) for values in (weights, before))
        ratios = torch.exp(-losses[indices] - q)
        limited = torch.where(w > 0, ratios.clamp(max=1 + self._clip), ratios.clamp(min=1 - self._clip))
        self.add(torch.stack([w.abs()[(limited != ratios)].sum(), w.abs().sum()]))
        return (plain_loss(rows, part, losses) - (w * limited).sum()) * self._scale

    def measures(self, sums: torch.Tensor) -> dict[str, float]:
        """Return the share of the agent's own targets, by weight, that are clipped."""
        clipped, weight = sums.tolist()
        return {"clipped": clipped / weight} if weight else {}
