"""The job of a training run: a model, examples as tokens, and updates, ready to be trained."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eexp.records.callbacks import OnError, stop_at_error
from eexp.training.data import Row
from eexp.training.objectives.base import Objective
from eexp.training.settings import Settings
from eexp.training.updates import Updates, epoch_ends

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from eexp.training.packing import Packing


@dataclass
class ExampleSource:
    """Examples, and the function that is called with one that cannot be used."""

    examples: Iterable[dict]
    on_error: OnError = stop_at_error


@dataclass
class Job:
    """A training run that is planned, before any update is computed and any file is written."""

    settings: Settings
    objective: Objective  # what the run learns
    model: PreTrainedModel  # the model to train, with its adapter if it has one
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype  # the type that passes are computed in
    rows: list[Row]
    updates: Updates  # indices into `rows`, for every update
    packing: Packing  # how rows share a pass
    #: Target tokens that all updates together should have; None without `--budget-like`.
    target_budget: int | None = None
    #: What the losses of every update are divided by; None for the weight of its own targets.
    update_weight: float | None = None
    validation_rows: list[Row] = field(default_factory=list)  # the rows to validate with
    run: dict[str, Any] = field(default_factory=dict)  # the contents of eexp.json, so far

    def budget_warning(self) -> str | None:
        """Return a warning if the budget of target tokens is exceeded, since every update has at least one example."""
        target_tokens = self.run["trained"]["target_tokens"]
        most = max(row.n_targets for row in self.rows)
        if self.target_budget is None or target_tokens - self.target_budget <= most / 2:
            return None
        return (
            f"{target_tokens:,} target tokens, though the budget is {self.target_budget:,}: {len(self.updates):,} "
            f"updates have one example each at least; a --budget-like with more examples an update can be kept"
        )

    def imagined_warning(self) -> str | None:
        """Return a warning if some of the examples to train on are of imagined environments."""
        data = self.run["data"]
        if not data.get("imagined"):
            return None
        number, total = data["imagined"], data["examples"]
        return f"{number:,} of {total:,} examples are imagined (a world model wrote their observations)"

    def validation_steps(self) -> set[int]:
        """Return the updates after which the validation losses are computed; 0 is the start."""
        if not self.validation_rows:
            return set()
        every, last = self.settings.validate_every, len(self.updates)
        return {0, last, *(range(every, last, every) if every else epoch_ends(self.updates, len(self.rows)))}

    def updates_per_epoch(self) -> int:
        """Return the number of updates that go once over the examples, rounded up."""
        return math.ceil(len(self.updates) * len(self.rows) / self.run["trained"]["examples"])
