"""What every objective of training has: its data, its loss, its checks and its numbers for metrics.jsonl.

The plan of a run and the training step know this class alone. The methods that are not abstract are those of an
objective whose rows are examples, each of which is learned by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from eexp.errors import UsageError
from eexp.records.callbacks import OnError
from eexp.records.spans import ACTION
from eexp.training.data import Row
from eexp.training.packing import Packing, Part
from eexp.training.settings import OBJECTIVES, Settings, kind_of
from eexp.training.updates import Updates, loss_shares

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Returns the log-probabilities of the targets of rows before the first update, one sequence for each row.
LogprobsOf = Callable[[Sequence[Row]], Sequence[Sequence[float]]]


class UpdateLoss(ABC):
    """The loss of one update, which is computed pass by pass."""

    #: Sums over the passes so far, a vector on the device, for `measures`; None for an objective without any.
    sums: torch.Tensor | None = None

    @abstractmethod
    def __call__(self, rows: Sequence[Row], part: Part, losses: torch.Tensor) -> torch.Tensor:
        """Return the share that a pass has in the loss, a number on the device.

        Args:
            losses: -log p of its targets, [N].
        """

    def add(self, sums: torch.Tensor) -> None:
        """Add what `measures` needs of a pass to the sums."""
        self.sums = sums.detach() if self.sums is None else self.sums + sums.detach()

    def measures(self, sums: torch.Tensor) -> dict[str, float]:
        """Return numbers for the line of an update in metrics.jsonl, from the sums over all processes."""
        return {}


class Objective(ABC):
    """What a run learns. One object belongs to one run, whose `settings.own` are the objective's own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    # -- data --

    @abstractmethod
    def rows(
        self, records: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_length: int, on_error: OnError
    ) -> Iterator[Row]:
        """Yield the rows of records.

        Args:
            records: Records of the types that the objective learns from.
            on_error: Called with a record that cannot be rows.
        """

    def units(self, rows: Sequence[Row]) -> list[list[int]]:
        """Return the indices of rows that stay together in an update; here each row is by itself."""
        return [[i] for i in range(len(rows))]

    def packing(self, packing: Packing) -> Packing:
        """Return a packing whose passes hold what the loss computes together."""
        return packing

    # -- checks --

    def check_settings(self) -> None:
        """Raise UsageError for settings that mean nothing for this objective."""

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Raise InputError for the rows of a run, all of which have a weight, if this objective is not for them."""

    # -- what eexp.json says --

    def loss_shares(self, rows: Sequence[Row], updates: Updates, update_weight: float | None) -> dict[str, float]:
        """Return the share of the loss that each kind of record has; arguments are those of `updates.loss_shares`."""
        return loss_shares(rows, updates, update_weight)

    def think(self, rows: Sequence[Row]) -> str | None:
        """Return whether the trained model is to think before an action, as `--think` spells it; None for unknown."""
        acting = [row for row in rows if any(segment.name == ACTION for segment in row.segments)]
        return ("always" if any(row.thought for row in acting) else "never") if acting else None

    # -- training --

    def prepare(self, rows: Sequence[Row], logprobs_of: LogprobsOf) -> None:
        """Take from the run's rows, and from the model before the first update, what the loss needs of them.

        Args:
            logprobs_of: Computes log-probabilities; every process that trains along has to call it alike.
        """

    @abstractmethod
    def update_loss(self, rows: Sequence[Row], update_weight: float, processes: int) -> UpdateLoss:
        """Return the loss of an update.

        Args:
            update_weight: What the weighted losses of its targets are divided by.
            processes: The number of processes, over which gradients and losses are averaged.
        """


def open_objective(settings: Settings) -> Objective:
    """Return the objective that the settings of a run choose; raises UsageError if they do not fit it."""
    name = settings.objective
    path = kind_of(name).path
    entry = OBJECTIVES.get(name)._replace(path=path)
    objective = OBJECTIVES.guarded(name, OBJECTIVES.load_entry(entry))(settings)
    if not isinstance(objective, Objective):
        raise UsageError(f"objective {entry.label}: {path} is not derived from eexp.training.objectives.base.Objective")
    return objective
