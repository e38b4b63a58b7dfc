"""The clipped loss of an agent's own answers (PPO, Schulman et al. 2017, arXiv 1707.06347), as in GRPO.

With weight w, and with the ratio r of a token's probability to that before the first update, the loss of the token is

    -min(w * r, w * clip(r, 1 - c, 1 + c))

At the first update this has the gradient of -w * log p. Later, a token that has become more likely by the share c, or
less likely where w is negative, is left alone: episodes say nothing about an agent that would not have played them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from eexp.training.data import Row
from eexp.training.packing import PACKINGS, Part, plain_loss
from eexp.training.references import target_logprobs

if TYPE_CHECKING:
    from eexp.training.job import Job

#: The kind of examples that are an agent's own answers (`eexp policy-data`).
POLICY = "policy"


@dataclass
class OwnRow(Row):
    """One of the agent's own answers as a row.

    Attributes:
        before: The log-probability of each target before the first update, once that is known.
    """

    before: Sequence[float] = ()


def own_row(row: Row) -> Row:
    """Return a row that can hold its log-probabilities before the first update, if it is one of the agent's own."""
    return OwnRow(**vars(row)) if row.kind == POLICY else row


def set_references(job: Job, device: torch.device, rank: int = 0, processes: int = 1) -> None:
    """Compute the log-probabilities of the agent's own answers, with arguments as for `target_logprobs`."""
    rows = [row for row in job.rows if isinstance(row, OwnRow)]
    packing = PACKINGS[job.settings.packing]
    for row, logprobs in zip(rows, target_logprobs(job, rows, packing, device, rank, processes)):
        row.before = logprobs


class ClippedLoss:
    """The loss of one update, in which the agent's own answers are clipped, and other examples are learned as ever.

    Args:
        clip: The share c above.
        scale: Factor of the losses of all tokens.

    Attributes:
        sums: [2] over the passes so far, without their signs: the weights of the targets that are clipped, and of all
            of the agent's own.
    """

    def __init__(self, clip: float, scale: float):
        self._clip, self._scale = clip, scale
        self.sums: torch.Tensor | float = 0.0

    def __call__(self, rows: Sequence[Row], part: Part, losses: torch.Tensor) -> torch.Tensor:
        """Return the share that a pass has in the loss, with arguments as for `plain_loss`."""
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
        self.sums = self.sums + torch.stack([w.abs()[(limited != ratios)].sum(), w.abs().sum()]).detach()
        return (plain_loss(rows, part, losses) - (w * limited).sum()) * self._scale

    def measures(self, sums: torch.Tensor) -> dict[str, float]:
        """Return numbers for the line of an update, from the sums over all processes."""
        clipped, weight = sums.tolist()
        return {"clipped": clipped / weight} if weight else {}
