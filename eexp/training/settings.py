"""Settings of a training run with their command-line options, and the table of objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eexp.errors import UsageError
from eexp.settings import FILE, SEED, TRUST_REMOTE_CODE, Checked, Finite, Whole, Word, kind_shares, option


@dataclass(frozen=True)
class ObjectiveKind:
    """One objective, as the command line and a run choose it."""

    name: str  # the value of `--objective` that chooses it
    path: str  # its class, as module:class (eexp/training/objectives/base.py)
    record_types: tuple[str, ...] = ("example",)  # the types of the records that it learns from
    own_settings: tuple[str, ...] = ()  # the settings that only this value of `--objective` takes
    chosen_by: str | None = None  # the setting that, where it is given, chooses it among the objectives of one name


#: Of several objectives with one name, the first is that of a run without the settings that choose the others.
OBJECTIVES = (
    ObjectiveKind("sft", "eexp.training.objectives.likelihood:Likelihood"),
    ObjectiveKind("sft", "eexp.training.objectives.clipped:Clipped", chosen_by="clip"),
    ObjectiveKind(
        "dpo",
        "eexp.training.objectives.preferences:Preferences",
        record_types=("preference", "example"),
        own_settings=("beta", "sft_weight"),
    ),
)


@dataclass(frozen=True)
class Settings(Checked):
    """The settings that, with the examples, decide the outcome of a training run."""

    base: str = option(
        "tiny", "-m", "--model", type=FILE, metavar="MODEL", envvar="EEXP_BASE", show_default=False
    ).help(
        "Base model: a directory, a hub id (with or without hf:), or tiny. GGUF files cannot be trained.  "
        "[default: the built-in tiny model]"
    )
    init: str | None = option(None, type=FILE, metavar="DIR").help(
        "Continue this PEFT adapter (world model first, then imitation).  [default: a new one]"
    )
    keep_optimizer: bool = option(False).help(
        "Save AdamW's state beside the adapter, and load it from --init if it is there. For training in rounds."
    )
    full: bool = option(False).help("Train all weights instead of an adapter.")
    dtype: str = option("auto", type=Word(["auto", "float32", "bfloat16"])).help(
        "Number format of computation and of frozen weights. Weights that are trained stay in float32. auto is "
        "bfloat16 on a GPU that supports it, else float32."
    )
    load_in_4bit: bool = option(False).help(
        "QLoRA: train the adapter on a base quantised to 4 bits, on a GPU or a CPU. Needs bitsandbytes."
    )
    epochs: float = option(1.0, type=Finite(0, min_open=True), metavar="N").help("Passes over the examples.")
    max_steps: int | None = option(None, type=Whole(1), metavar="UPDATES").help(
        "Stop after this many updates; overrides --epochs.  [default: as --epochs says]"
    )
    batch_size: int | None = option(None, type=Whole(1)).help(
        "Batch size: examples in an update (optimiser step).  [default: whole trajectories, at least 4 of them and at "
        "least 16 examples; with --shuffle examples, 16 examples]"
    )
    batch_trajectories: int | None = option(None, type=Whole(1)).help(
        "Batch size in trajectories, each with all its examples.  [default: see --batch-size]"
    )
    mini_batches: int | None = option(None, type=Whole(1)).help(
        "Number of updates in an epoch, as in PPO, each with its part of the trajectories of every kind of examples; "
        "fewer where a kind has fewer trajectories.  [default: see --batch-size]"
    )
    budget_like: str | None = option(None, type=FILE, metavar="DIR").help(
        "Match the training run in DIR: as many updates, and as many target tokens. Overrides --epochs, "
        "--batch-size, --batch-trajectories and --mini-batches. Updates that trained --init count."
    )
    action_weight: float = option(1.0, type=Finite(0, min_open=True)).help(
        "Loss weight of the action where a thought precedes it in the completion."
    )
    share: Mapping[str, float] | None = option(None, gather=kind_shares, metavar="KIND=SHARE").help(
        "Scale the loss weights of the examples of a kind, so that they have this share of the loss, such as "
        "world_model=0.05. Can be repeated.  [default: as the weights of the examples say]"
    )
    objective: str = option("sft", type=Word([*dict.fromkeys(kind.name for kind in OBJECTIVES)])).help(
        "The objective. sft: the cross-entropy of completions. dpo: direct preference optimisation on preferences; "
        "its reference is "
        "the model at the start."
    )
    beta: float = option(0.1, type=Finite(0, min_open=True)).help(
        "With --objective dpo: DPO's beta. A larger value keeps the model closer to its reference."
    )
    sft_weight: float | None = option(None, type=Finite(0)).help(
        "With --objective dpo: weight of an added cross-entropy per token, on the examples among FILEs. Without "
        "examples, it is that of the chosen answers (RPO).  [default: 1 with examples, else 0]"
    )
    clip: float | None = option(None, type=Finite(0, 1, min_open=True)).help(
        "PPO's clipped objective, for examples of `eexp policy-data`. X is the clip range epsilon; 0.2 is usual. The "
        "probability ratio of a token is relative to the policy before the first update."
    )
    tokens_per_batch: int = option(4096, type=Whole(1)).help(
        "Tokens in a forward pass (micro-batch). Fewer tokens take less memory; the result is the same."
    )
    packing: str = option("tree", type=Word(["tree", "none"])).help(
        "How examples are batched in a forward pass. tree: compute the prefixes that examples share once. none: pad "
        "examples, which more models support. The result is the same."
    )
    shuffle: str = option("trajectories", type=Word(["trajectories", "examples"])).help(
        "What is shuffled every epoch: trajectories, each with its examples, or single examples. Trajectories are "
        "faster, because their examples share most tokens. Single examples make batches more varied."
    )
    learning_rate: float | None = option(None, "--lr", type=Finite(0, min_open=True), metavar="RATE").help(
        "Learning rate.  [default: 1e-4, with --full 1e-5]"
    )
    schedule: str = option("cosine", type=Word(["cosine", "linear", "constant"])).help(
        "Schedule of the learning rate after the warm-up."
    )
    warmup: float = option(0.03, type=Finite(0, 1), metavar="SHARE").help(
        "Warm-up, as a share of the updates: the learning rate rises from 0."
    )
    weight_decay: float = option(0.0, type=Finite(0)).help("Weight decay of the AdamW optimiser.")
    max_grad_norm: float = option(1.0, type=Finite(0, min_open=True)).help(
        "Gradient clipping: largest norm of an update's gradient."
    )
    rank: int = option(16, type=Whole(1)).help("LoRA's rank, of a new adapter.")
    alpha: int = option(32, type=Whole(1)).help("LoRA's alpha: a new adapter is scaled by alpha / rank.")
    rslora: bool = option(False).help("RsLoRA: scale a new adapter by alpha / sqrt(rank) instead.")
    max_length: int | None = option(None, type=Whole(2), metavar="TOKENS").help(
        "Longest example, in tokens. A longer one is a bad record, and is not cut.  [default: the model's context]"
    )
    gradient_checkpointing: bool = option(False).help(
        "Gradient checkpointing: recompute activations in the backward pass. Takes less memory and more time."
    )
    validate_every: int | None = option(None, type=Whole(1), metavar="UPDATES").help(
        "Compute the loss on --validate this often.  [default: every epoch]"
    )
    keep: str = option("last", type=Word(["last", "best"])).help(
        "Weights to save: the last ones, or those with the lowest held-out loss (--validate)."
    )
    save_every: int | None = option(None, type=Whole(1), metavar="UPDATES").help(
        "Write a checkpoint this often.  [default: every epoch]"
    )
    report_to: str | None = option(None, type=Word(["tensorboard", "wandb"])).help(
        "Send the curves to this service, too; its package must be installed."
    )
    trust_remote_code: bool = TRUST_REMOTE_CODE.field()
    seed: int = SEED.field()

    def resolved_learning_rate(self) -> float:
        """Return the learning rate; by default the paper's 1e-5 for all weights, and 1e-4 for an adapter.

        An adapter takes larger steps.
        """
        return self.learning_rate or (1e-5 if self.full else 1e-4)

    def objective_kind(self) -> ObjectiveKind:
        """Return the objective that these settings choose. Raises UsageError if none has its name."""
        kinds = [
            kind
            for kind in OBJECTIVES
            if kind.name == self.objective and (kind.chosen_by is None or getattr(self, kind.chosen_by))
        ]
        if not kinds:
            names = ", ".join(dict.fromkeys(kind.name for kind in OBJECTIVES))
            raise UsageError(f"no objective is called {self.objective}; there are {names}")
        return kinds[-1]
