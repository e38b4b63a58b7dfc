"""The settings of a training run, and the job: a model, examples as tokens, and updates, ready to be trained."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eexp.callbacks import OnError, stop_at_error
from eexp.training.data import Row
from eexp.training.updates import Updates, epoch_ends

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from eexp.training.packing import Packing


@dataclass(frozen=True)
class Settings:
    """The settings that, with the examples, decide the outcome of a training run.

    Attributes:
        base: The base model: a directory, a hub id or a built-in model; `hf:` may stand before it.
        init: Directory of a PEFT adapter to continue.
        full: Train all weights instead of an adapter.
        dtype: The type that passes are computed in, and that frozen weights are held in: "float32", "bfloat16", or
            "auto", which is bfloat16 on a GPU that has it and float32 elsewhere. Weights that are trained are float32.
        load_in_4bit: Hold the weights of the base's linear layers in 4 bits.
        epochs: Passes over the examples.
        max_steps: Number of updates, instead of `epochs`.
        budget_like: Directory of a training run. This run makes as many updates, of as many target tokens, as that run;
            those that made `init` count. It replaces the settings of epochs, updates and batches.
        batch_size: Examples in an update.
        batch_trajectories: Whole trajectories in an update. Without this and `batch_size` an update has at least
            `updates.TRAJECTORIES` trajectories and `updates.EXAMPLES` examples.
        tokens_per_batch: Most tokens in one pass through the model; an update is computed in such passes.
        packing: "tree" (examples share their common beginnings) or "none" (they are padded).
        shuffle: What is shuffled in every epoch: "trajectories" or "examples".
        action_weight: Factor of the loss of an action that follows a thought.
        share: Share of the loss that each kind of example has, for the kinds named.
        learning_rate: Peak learning rate; None for `resolved_learning_rate`.
        schedule: "cosine", "linear" or "constant".
        warmup: Share of the updates in which the learning rate rises from 0.
        weight_decay: Weight decay of AdamW.
        rank, alpha, rslora: Of a new adapter.
        objective: "sft" (the completion of every example is learned) or "dpo" (preferences.py).
        beta: How much a log-ratio counts, for "dpo".
        sft_weight: The weight of imitation beside the loss of "dpo": that of the examples, or of the chosen answers
            where there are none. None is 1 for examples and 0 for answers.
        clip: Share by which the probability of a token of the agent's own answers may change (clipping.py); None for
            any.
        max_grad_norm: Length that a longer gradient is shortened to.
        max_length: Most tokens of an example; None for the model's context.
        seed: Decides the order of the examples and a new adapter's weights.
        save_every: Updates between checkpoints; None for every epoch.
        validate_every: Updates between validations; None for every epoch.
        keep: Weights that are saved: those of the "last" update, or of the "best" validation.
        keep_optimizer: Begin with the optimiser's state of `init`, where it has one, and save it beside the weights.
        gradient_checkpointing: Compute activations again in the backward pass, to save memory.
        report_to: "tensorboard" or "wandb".
        trust_remote_code: Run the Python code that comes with the base model.
    """

    base: str
    init: str | None = None
    full: bool = False
    dtype: str = "auto"
    load_in_4bit: bool = False
    epochs: float = 1.0
    max_steps: int | None = None
    budget_like: str | None = None
    batch_size: int | None = None
    batch_trajectories: int | None = None
    tokens_per_batch: int = 4096
    packing: str = "tree"
    shuffle: str = "trajectories"
    action_weight: float = 1.0
    share: dict[str, float] | None = None
    learning_rate: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    rank: int = 16
    alpha: int = 32
    rslora: bool = False
    objective: str = "sft"
    beta: float = 0.1
    sft_weight: float | None = None
    clip: float | None = None
    max_grad_norm: float = 1.0
    max_length: int | None = None
    seed: int = 0
    save_every: int | None = None
    validate_every: int | None = None
    keep: str = "last"
    keep_optimizer: bool = False
    gradient_checkpointing: bool = False
    report_to: str | None = None
    trust_remote_code: bool = False

    def resolved_learning_rate(self) -> float:
        """Return the learning rate; by default the paper's 1e-5 for all weights, and 1e-4 for an adapter.

        An adapter takes larger steps.
        """
        return self.learning_rate or (1e-5 if self.full else 1e-4)


@dataclass
class ExampleSource:
    """Examples, and the function that is called with one that cannot be used."""

    examples: Iterable[dict]
    on_error: OnError = stop_at_error


@dataclass
class Job:
    """A training run that is planned, before any update is computed and any file is written.

    Attributes:
        settings: The run's settings.
        model: The model to train, with its adapter if it has one.
        tokenizer: The model's tokenizer.
        rows: The examples that are trained on, as tokens.
        updates: Indices into `rows`, for every update.
        run: The contents of eexp.json, so far.
        dtype: The type that passes are computed in.
        packing: How rows share a pass.
        target_budget: Target tokens that all updates together should have; None without `--budget-like`.
        update_weight: What the losses of every update are divided by; None for the weight of its own targets.
        has_examples: Whether there are examples among the rows, beside preferences.
        validation_rows: The examples to validate with, as tokens.
    """

    settings: Settings
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: list[Row]
    updates: Updates
    run: dict[str, Any]
    dtype: torch.dtype
    packing: Packing
    target_budget: int | None = None
    update_weight: float | None = None
    has_examples: bool = True
    validation_rows: list[Row] = field(default_factory=list)

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

    def validation_steps(self) -> set[int]:
        """Return the updates after which the validation losses are computed; 0 is the start."""
        if not self.validation_rows:
            return set()
        every, last = self.settings.validate_every, len(self.updates)
        return {0, last, *(range(every, last, every) if every else epoch_ends(self.updates, len(self.rows)))}

    def updates_per_epoch(self) -> int:
        """Return the number of updates that go once over the examples, rounded up."""
        return math.ceil(len(self.updates) * len(self.rows) / self.run["trained"]["examples"])
