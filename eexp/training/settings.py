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
        "Save the averages of gradients that AdamW keeps, too, and begin with those of --init, where it has them: "
        "for training in rounds."
    )
    full: bool = option(False).help("Train all weights instead of an adapter.")
    dtype: str = option("auto", type=Word(["auto", "float32", "bfloat16"])).help(
        "Type that is computed in, and that frozen weights are held in; what is trained is held in float32. auto "
        "is bfloat16 on a GPU that has it, else float32."
    )
    load_in_4bit: bool = option(False).help(
        "Train the adapter on a base in 4 bits (QLoRA), on a GPU or a CPU; needs bitsandbytes."
    )
    epochs: float = option(1.0, type=Finite(0, min_open=True), metavar="N").help("Passes over the examples.")
    max_steps: int | None = option(None, type=Whole(1), metavar="UPDATES").help(
        "Stop after this many updates, whatever --epochs says.  [default: as --epochs says]"
    )
    batch_size: int | None = option(None, type=Whole(1)).help(
        "Examples in an update.  [default: whole trajectories, at least 4, with at least 16 examples; 16 "
        "with --shuffle examples]"
    )
    batch_trajectories: int | None = option(None, type=Whole(1)).help(
        "Whole trajectories in an update, with all their examples.  [default: as --batch-size says]"
    )
    budget_like: str | None = option(None, type=FILE, metavar="DIR").help(
        "Make as many updates, of as many target tokens, as the training run in DIR, whatever --epochs and "
        "--batch-size say; those that made --init count."
    )
    action_weight: float = option(1.0, type=Finite(0, min_open=True)).help(
        "Multiply the loss of an action that follows a thought in the same completion."
    )
    share: Mapping[str, float] | None = option(None, gather=kind_shares, metavar="KIND=SHARE").help(
        "Weigh the examples of a kind so that they are this share of the loss, e.g. world_model=0.05; "
        "can be repeated.  [default: as the weights of the examples say]"
    )
    objective: str = option("sft", type=Word([*dict.fromkeys(kind.name for kind in OBJECTIVES)])).help(
        "What is learned: the completions of examples (sft), or to prefer the chosen answers of preferences to "
        "the rejected ones (dpo), measured against the model as it is at the start."
    )
    beta: float = option(0.1, type=Finite(0, min_open=True)).help(
        "For --objective dpo: how much the log-ratio to the model at the start counts; more keeps closer to it."
    )
    sft_weight: float | None = option(None, type=Finite(0)).help(
        "For --objective dpo: add the loss per token of the examples among FILEs, times X; where there are none, "
        "that of the chosen answers.  [default: 1 with examples, else 0]"
    )
    clip: float | None = option(None, type=Finite(0, 1, min_open=True)).help(
        "For examples of `eexp policy-data`: leave a token alone once its probability has changed by this share "
        "since before the first update, in the direction that its weight asks for; 0.2 is usual."
    )
    tokens_per_batch: int = option(4096, type=Whole(1)).help(
        "Tokens computed at once; fewer take less memory and give the same result."
    )
    packing: str = option("tree", type=Word(["tree", "none"])).help(
        "Compute the tokens that examples share once (tree), or pad examples side by side (none), which more "
        "models support; the result is the same."
    )
    shuffle: str = option("trajectories", type=Word(["trajectories", "examples"])).help(
        "What is shuffled every epoch. Examples of one trajectory share most tokens, and make updates less "
        "varied; single examples share fewer, and make them more varied."
    )
    learning_rate: float | None = option(None, "--lr", type=Finite(0, min_open=True), metavar="RATE").help(
        "Learning rate.  [default: 1e-4, with --full 1e-5]"
    )
    schedule: str = option("cosine", type=Word(["cosine", "linear", "constant"])).help(
        "Schedule of the learning rate after the warm-up."
    )
    warmup: float = option(0.03, type=Finite(0, 1), metavar="SHARE").help(
        "Share of the updates in which the learning rate rises from 0."
    )
    weight_decay: float = option(0.0, type=Finite(0)).help("Weight decay of the AdamW optimiser.")
    max_grad_norm: float = option(1.0, type=Finite(0, min_open=True)).help("Shorten a longer gradient to this length.")
    rank: int = option(16, type=Whole(1)).help("Rank of a new adapter.")
    alpha: int = option(32, type=Whole(1)).help("Scale a new adapter by alpha / rank.")
    rslora: bool = option(False).help("Scale a new adapter by alpha / sqrt(rank) instead.")
    max_length: int | None = option(None, type=Whole(2), metavar="TOKENS").help(
        "Most tokens of an example; a longer one is a bad record.  [default: the model's context]"
    )
    gradient_checkpointing: bool = option(False).help(
        "Compute activations again in the backward pass: less memory, more time."
    )
    validate_every: int | None = option(None, type=Whole(1), metavar="UPDATES").help(
        "Compute the loss on --validate this often.  [default: every epoch]"
    )
    keep: str = option("last", type=Word(["last", "best"])).help(
        "Weights to save: the last, or those with the lowest loss on --validate."
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
