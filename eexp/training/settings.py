"""Settings of a training run with their command-line options, and the table of objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from eexp.errors import UsageError
from eexp.settings import (
    FILE,
    OPTION,
    SEED,
    TRUST_REMOTE_CODE,
    Checked,
    Finite,
    Name,
    Option,
    Whole,
    Word,
    kind_shares,
    option,
)
from eexp.system.plugins import Registry


@dataclass(frozen=True)
class ObjectiveKind:
    """An objective as the command line and a run choose it; its class, which needs torch, is imported by the run.

    Attributes:
        path: Its class, `module:class`, or a function that returns an object of one (objectives/base.py).
        record_types: The types of the records that it learns from.
        settings: The class of its own settings.
    """

    path: str
    record_types: tuple[str, ...] = ("example",)
    settings: type[Checked] = Checked


@dataclass(frozen=True)
class ClipSettings(Checked):
    """Settings of the objective sft."""

    clip: float | None = option(None, type=Finite(0, 1, min_open=True)).help(
        "PPO's clipped objective, for examples of `eexp policy-data`. X is the clip range epsilon; 0.2 is usual. The "
        "probability ratio of a token is relative to the policy before the first update."
    )


@dataclass(frozen=True)
class DPOSettings(Checked):
    """Settings of the objective dpo."""

    beta: float = option(0.1, type=Finite(0, min_open=True)).help(
        "With --objective dpo: DPO's beta. A larger value keeps the model closer to its reference."
    )
    sft_weight: float | None = option(None, type=Finite(0)).help(
        "With --objective dpo: weight of an added cross-entropy per token, on the examples among FILEs. Without "
        "examples, it is that of the chosen answers (RPO).  [default: 1 with examples, else 0]"
    )


SFT = ObjectiveKind("eexp.training.objectives.clipped:likelihood_or_clipped", settings=ClipSettings)
DPO = ObjectiveKind("eexp.training.objectives.preferences:Preferences", ("preference", "example"), DPOSettings)

#: Other packages add objectives: each entry names an `ObjectiveKind`.
OBJECTIVES = Registry(
    "eexp.objectives",
    "objective",
    {
        "sft": ("eexp.training.settings:SFT", "the cross-entropy of completions, or PPO's clipped objective"),
        "dpo": ("eexp.training.settings:DPO", "direct preference optimisation"),
    },
)


def kind_of(objective: str) -> ObjectiveKind:
    """Return the objective of a name; raises UsageError for a name of none, and for an entry that is none."""
    kind = OBJECTIVES.load(objective)
    if not isinstance(kind, ObjectiveKind):
        raise UsageError(f"objective {OBJECTIVES.label(objective)} is not an eexp.training.settings.ObjectiveKind")
    return kind


def own_options(objective: str) -> dict[str, tuple[str, Option]]:
    """Return the own options of an objective: name on the command line and in eexp.json -> (field, option).

    Those of another package begin with the name of its objective.
    """
    prefix = "" if objective in OBJECTIVES.built_in else f"{objective.replace('-', '_')}_"
    own = {field.name: field.metadata.get(OPTION) for field in fields(kind_of(objective).settings)}
    return {f"{prefix}{name}": (name, option) for name, option in own.items() if option}


def built_in_options() -> dict[str, tuple[str, Option]]:
    """Return the own options of all objectives of eexp, in the order in which help and eexp.json have them."""
    return {name: own for objective in reversed(OBJECTIVES.built_in) for name, own in own_options(objective).items()}


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
    objective: str = option("sft", type=Name(OBJECTIVES)).help(
        "The objective. sft: the cross-entropy of completions. dpo: direct preference optimisation on preferences; "
        "its reference is "
        "the model at the start."
    )
    #: The objective's own settings, an object of its `ObjectiveKind.settings`; None stands for their defaults.
    own: Any = None
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

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = kind_of(self.objective)
        if self.own is None:
            object.__setattr__(self, "own", kind.settings())
        elif not isinstance(self.own, kind.settings):
            raise UsageError(f"{type(self.own).__name__} is not for --objective {self.objective}")

    def as_dict(self) -> dict[str, Any]:
        """Return all settings by name, as eexp.json has them: those of the objective among the others."""
        values: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name == "own":
                values |= {key: option.default for key, (_, option) in built_in_options().items()}
                values |= {key: getattr(self.own, name) for key, (name, _) in own_options(self.objective).items()}
            else:
                values[name] = OBJECTIVES.label(value) if name == "objective" else value
        return values
