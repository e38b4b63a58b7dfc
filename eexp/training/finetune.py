"""Fine-tuning on completions, with transformers' Trainer and PEFT.

Loss and gradient of an update are those of its examples one at a time, over the weights of their targets; how examples
share tokens (trie.py), how an update is cut into passes, and how many processes compute it change neither.

What is saved beside the weights is enough to say what they are: resolved settings, versions, data fingerprint, prompt
style and lineage in `eexp.json`, the loss curve in `metrics.jsonl`, all of it for a person in `README.md`.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from eexp import __version__
from eexp.errors import EexpError, InputError, UsageError
from eexp.locks import DirectoryLock
from eexp.models import hf
from eexp.prompts import PromptStyle, get_style
from eexp.spans import ACTION
from eexp.stream import OnError, stop_at_error
from eexp.training import exact, memory, trainer
from eexp.training.card import card
from eexp.training.data import Row, tokenize
from eexp.training.packing import PACKINGS
from eexp.training.updates import (
    EXAMPLES,
    TRAJECTORIES,
    Updates,
    by_examples,
    by_targets,
    by_trajectories,
    deal,
    epoch_ends,
    set_shares,
    shares_of_kinds,
    weight_of,
)
from eexp.weights import RUN_FILE, fingerprint_of_directory, read_run, resolve

_MAX_LINEAGES = 20  # in the model card


@dataclass
class Settings:
    """What decides the outcome of a training run.

    base: directory, hub id or "tiny". init: a PEFT adapter to go on with. batch_size: examples an update, or
    batch_trajectories: whole trajectories; without either, at least updates.TRAJECTORIES and updates.EXAMPLES. An
    update is computed in parts of `tokens_per_batch`. packing: "tree" or "none". shuffle: "trajectories" or "examples".
    max_steps: updates, instead of `epochs`. budget_like: a run whose updates and target tokens this one takes, those of
    `init` included, instead of all of these. action_weight: what the action after a thought counts. share: of the loss,
    for each kind of example. max_grad_norm: a longer gradient is shortened to it. rank, alpha, rslora: of a new
    adapter. load_in_4bit: its base in 4 bits, on a GPU. validate_every: updates, instead of every epoch. keep: weights
    of the "last" update, or of the "best" validation. report_to: "tensorboard" or "wandb". trust_remote_code: run the
    Python code that the base brings.
    """

    base: str
    init: str | None = None
    full: bool = False
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
    max_grad_norm: float = 1.0
    max_length: int | None = None
    seed: int = 0
    save_every: int | None = None
    validate_every: int | None = None
    keep: str = "last"
    gradient_checkpointing: bool = False
    report_to: str | None = None
    trust_remote_code: bool = False

    def resolved_learning_rate(self) -> float:
        """1e-5 for all weights (the paper's), 1e-4 for an adapter, which takes larger steps."""
        return self.learning_rate or (1e-5 if self.full else 1e-4)


@dataclass
class Source:
    """Examples, and what is done with one that cannot be used."""

    examples: Iterable[dict]
    on_error: OnError = stop_at_error


def finetune(
    examples: Iterable[dict],
    output: str | os.PathLike,
    settings: Settings,
    *,
    resume: bool = False,
    progress: bool = False,
    note: Callable[[str], None] = lambda text: None,
    on_error: OnError = stop_at_error,
    validation: Source | None = None,
    style: PromptStyle | None = None,
) -> dict:
    """Train on `examples` and save the adapter (or the model) in the directory `output`; returns what eexp.json says.

    resume: go on from the last checkpoint in `output`, to the weights that the uninterrupted run would have had.
    validation: examples of other trajectories, whose losses are followed. style: the prompt style that the examples
    were made with, which is needed where it is not built in.
    Raises InputError for examples that cannot be trained on, UsageError where `output` holds another run, EexpError
    where another process is training in it.
    """
    with DirectoryLock(output) as own:
        return _finetune(examples, Path(output), own, settings, resume, progress, note, on_error, validation, style)


def _finetune(
    examples: Iterable[dict],
    directory: Path,
    own: DirectoryLock,
    settings: Settings,
    resume: bool,
    progress: bool,
    note: Callable[[str], None],
    on_error: OnError,
    validation: Source | None,
    style: PromptStyle | None,
) -> dict:
    """Do what `finetune` does, once nobody else trains in `directory`."""
    if (directory / RUN_FILE).is_file():
        if not resume:
            raise UsageError(f"{directory} holds a finished run; remove it, or give another -o")
        now: dict = {"settings": asdict(settings), "validation": None}
        data = _Data()
        for name, source in (("data", Source(examples, on_error)), ("validation", validation)):
            if source:
                for _ in data.watch(source.examples, source.on_error):
                    pass
                now[name] = {"sha256": data.digest.hexdigest()}
                data = data.held_out()
        _same_run(read_run(directory), now, directory)
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)  # killed while they were being removed
        note(f"{directory} is finished already")
        return read_run(directory)
    for read in filter(None, (resolve(settings.base), settings.init)):
        if os.path.isdir(read) and os.path.realpath(read) == os.path.realpath(directory):
            raise UsageError(f"{directory} is both read and written; give another -o")
    job = _plan(examples, settings, on_error, validation, style)
    doubts = (memory.doubt(job.memory(), settings.tokens_per_batch), job.missed(), _left_alone(job.model))
    for doubt in filter(None, doubts):
        note(doubt)
    checkpoints = directory / "checkpoints"
    arguments = trainer.arguments(job, checkpoints)
    _same_examples(job.run)
    with _told_in_one_line(directory):
        if arguments.process_index == 0:
            if own.create() and (directory / RUN_FILE).is_file():
                raise UsageError(f"{directory} holds a run that has finished meanwhile; give another -o")
            _prepare(directory, checkpoints, job.run, resume)
            _last_checkpoint(checkpoints)  # half-written ones go before anybody looks
        _wait()
        made = trainer.trainer(job, arguments, directory / "metrics.jsonl", progress)
        last = _last_checkpoint(checkpoints) if resume else None
        if last:
            note(f"going on from {last}")
        made.train(resume_from_checkpoint=last)
        _wait()
        _finish(job, directory)
        _save(made, job, directory)
        if arguments.process_index == 0:
            shutil.rmtree(checkpoints)
        _wait()  # a process that leaves first may have the others ended
    return job.run


#: How torch and safetensors begin to say that a file could not be written; neither raises OSError.
_UNWRITTEN = re.compile(
    r"I/?O ?error|PytorchStreamWriter failed|\[enforce fail at inline_container|.*(No space left|File too large)"
)


@contextmanager
def _told_in_one_line(directory: Path) -> Iterator[None]:
    """Turn what is raised where a run cannot be written, on a full disk for one, into an EexpError."""
    try:
        yield
    except OSError as e:
        raise EexpError(f"{e.filename or directory}: {e.strerror or e}") from None
    except Exception as e:
        if not _UNWRITTEN.match(str(e)):
            raise
        raise EexpError(f"{directory}: cannot be written: {str(e).splitlines()[0]}") from None


def preview(
    examples: Iterable[dict],
    settings: Settings,
    on_error: OnError = stop_at_error,
    validation: Source | None = None,
    style: PromptStyle | None = None,
) -> str:
    """What `finetune` would do, for a person: its updates, tokens and memory, and a few examples with their targets."""
    from eexp.training.preview import describe

    job = _plan(examples, settings, on_error, validation, style)
    said = describe(job.tokenizer, job.rows, job.run, job.memory())
    return "\n".join(filter(None, (job.missed(), said)))


@dataclass
class Job:
    """All that a run is made of, before anything is computed or written."""

    settings: Settings
    model: Any
    tokenizer: Any
    rows: list[Row]
    updates: Updates
    run: dict
    dtype: Any  # what is computed in
    budget: int | None = None  # of target tokens
    update_weight: float | None = None  # what the losses of every update are divided by; its own weight if None
    validation: list[Row] = field(default_factory=list)

    def missed(self) -> str | None:
        """What to tell where the budget of target tokens cannot be kept, each update having one example at least."""
        found = self.run["trained"]["target_tokens"]
        if self.budget is None or found - self.budget <= max(row.n_targets for row in self.rows) / 2:
            return None
        return (
            f"{found:,} target tokens, though the budget is {self.budget:,}: {len(self.updates):,} updates have "
            f"one example each at least; a --budget-like with more examples an update can be kept"
        )

    def validation_steps(self) -> set[int]:
        """The updates after which losses on validation examples are computed; 0 is the start."""
        if not self.validation:
            return set()
        every, last = self.settings.validate_every, len(self.updates)
        return {0, last, *(range(every, last, every) if every else epoch_ends(self.updates, len(self.rows)))}

    def updates_an_epoch(self) -> int:
        return math.ceil(len(self.updates) * len(self.rows) / self.run["trained"]["examples"])

    def memory(self) -> dict[str, int]:
        t = self.run["trained"]
        return memory.estimate(
            self.model,
            t["largest_pass"],
            t["target_tokens"] / t["computed_tokens"],
            self.dtype.itemsize,
            self.settings.gradient_checkpointing,
        )


def _plan(
    examples: Iterable[dict],
    settings: Settings,
    on_error: OnError,
    validation: Source | None,
    style: PromptStyle | None,
) -> Job:
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about each other
    _check_packages(settings)
    _check_batches(settings)
    if settings.keep == "best" and not validation:
        raise UsageError("--keep best goes by the losses on --validate FILE; give one")
    spent = _spent(settings.init)
    budget = _budget(settings, spent)
    transformers.set_seed(settings.seed % 2**32)  # as large as numpy takes
    model, tokenizer, dtype = _open_model(settings)
    data = _Data()
    limit = settings.max_length or getattr(model.config.get_text_config(), "max_position_embeddings", None) or 8192

    def refuse(example: dict, error: InputError) -> None:
        data.kinds[example["kind"]] -= 1
        on_error(example, error)

    rows = list(tokenize(data.watch(examples, on_error), tokenizer, limit, refuse, settings.action_weight))
    weighty = [row for row in rows if row.weight and row.n_targets]
    if not weighty:
        raise InputError("no examples to train on" + (": all have weight 0" if rows else ""))
    style = _style(data.style, style)
    held_out = data.held_out()
    validated: list[Row] = []
    if validation:
        watched = held_out.watch(validation.examples, validation.on_error)
        validated = [r for r in tokenize(watched, tokenizer, limit, validation.on_error) if r.weight and r.n_targets]
        if not validated:
            raise InputError("no examples to validate with")
    exact.check(model, weighty + validated, settings.packing, dtype, settings.tokens_per_batch)
    if settings.packing == "tree":
        exact.prepare(model, weighty + validated, dtype, settings.tokens_per_batch)
    updates = _updates(weighty, settings, budget)
    update_weight = None
    if settings.share:
        set_shares(weighty, updates, settings.share)
        update_weight = weight_of(weighty[i] for update in updates for i in update) / len(updates)
    run = _describe(settings, data, rows, weighty, updates, model, style)
    run["trained"]["shares"] = shares_of_kinds(weighty, updates, update_weight)
    run["validation"] = {**held_out.describe(), **_counts(validated)} if validation else None
    run["total"] = {"updates": spent[0] + len(updates), "target_tokens": spent[1] + run["trained"]["target_tokens"]}
    return Job(
        settings,
        model,
        tokenizer,
        weighty,
        updates,
        run,
        dtype,
        budget[1] if budget else None,
        update_weight,
        validated,
    )


def _style(label: str | None, given: PromptStyle | None) -> PromptStyle | None:
    """The prompt style of the examples, which say its label; `given` is that of --prompt-style."""
    if given:
        if label and label != given.label:
            raise UsageError(f"--prompt-style is {given.label}, but the examples were made with {label}")
        return given
    if not label:
        return None
    try:
        return get_style(label)
    except (UsageError, InputError) as e:
        raise UsageError(
            f"the examples were made with prompt style {label}: give its file as --prompt-style, so that "
            f"what is trained can be played with it ({e})"
        ) from None


def _check_batches(s: Settings) -> None:
    if s.batch_size and s.batch_trajectories:
        raise UsageError("--batch-size and --batch-trajectories both say what an update is; give one")
    if s.batch_trajectories and s.shuffle == "examples":
        raise UsageError("--batch-trajectories keeps trajectories whole, and --shuffle examples does not; give one")


def _updates(rows: list[Row], s: Settings, budget: tuple[int, int] | None) -> Updates:
    if budget:
        return by_targets(rows, *budget, s.seed, s.shuffle, bool(s.share))
    if s.batch_size or s.shuffle == "examples":
        size = s.batch_size or EXAMPLES
        return by_examples(rows, size, s.epochs, s.max_steps, s.seed, s.shuffle, bool(s.share))
    if s.batch_trajectories:
        return by_trajectories(rows, s.batch_trajectories, s.epochs, s.max_steps, s.seed)
    return by_trajectories(rows, TRAJECTORIES, s.epochs, s.max_steps, s.seed, examples=EXAMPLES)


def _check_packages(s: Settings) -> None:
    import torch

    packages = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
    if s.report_to and not any(map(_is_installed, packages[s.report_to])):
        raise EexpError(f"--report-to {s.report_to}: its package is missing; pip install {s.report_to}")
    if s.load_in_4bit and s.full:
        raise UsageError("--load-in-4bit freezes the weights that --full trains; give one")
    if s.load_in_4bit and not torch.cuda.is_available():
        raise EexpError("--load-in-4bit needs a CUDA GPU, and torch finds none")
    if s.load_in_4bit and not _is_installed("bitsandbytes"):
        raise EexpError("--load-in-4bit: its package is missing; pip install bitsandbytes")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # it is being kept from being imported
        return False


def _spent(init: str | None) -> tuple[int, int]:
    """(updates, target tokens) that made the adapter to go on with; 0 where it does not say."""
    total = (read_run(init).get("total") if init else None) or {}
    return total.get("updates", 0), total.get("target_tokens", 0)


def _budget(s: Settings, spent: tuple[int, int]) -> tuple[int, int] | None:
    """(updates, target tokens) left of those of the run that this one is to be like.

    Updates that made --init count. Each that is left has as many target tokens as one of that run, on average: a world
    model may have had more of them in its epoch than imitation ever takes.
    """
    if not s.budget_like:
        return None
    if s.max_steps:
        raise UsageError("--budget-like and --max-steps both say how many updates to make; give one")
    for run in filter(None, (s.budget_like, s.init)):
        if not {"updates", "target_tokens"} <= (read_run(run).get("total") or {}).keys():
            raise UsageError(f"{run}: holds no finished training run that says what it was trained on")
    like = read_run(s.budget_like)["total"]
    left = like["updates"] - spent[0]
    if left <= 0:
        raise UsageError(
            f"--budget-like {s.budget_like}: it was made in {like['updates']} updates, and --init "
            f"{s.init} in {spent[0]}; none is left"
        )
    return left, round(like["target_tokens"] * left / like["updates"])


class _Data:
    """Looks at examples as they pass: fingerprint, kinds, prompt style, trajectories, lineages.

    style: the only one allowed, if it is known. elsewhere: trajectories of which no example may come.
    """

    def __init__(self, style: str | None = None, elsewhere: Collection[str] = ()) -> None:
        self.digest = hashlib.sha256()
        self.kinds: dict[str, int] = {}
        self.style, self.elsewhere = style, elsewhere
        self.groups: set[str] = set()
        self.lineages: dict[tuple[str, ...], None] = {}

    def watch(self, examples: Iterable[dict], on_error: OnError) -> Iterable[dict]:
        for e in examples:
            style, group = e.get("prompt_style"), e.get("group")
            if self.style and style and style != self.style:
                on_error(e, InputError(f"examples of two prompt styles: {self.style} and {style}", "$.prompt_style"))
                continue
            if group in self.elsewhere:
                on_error(e, InputError(f"{group} is trained on, too; validate with other trajectories", "$.group"))
                continue
            self.style = self.style or style
            if group is not None:
                self.groups.add(group)
            self.digest.update(
                orjson.dumps([e["prompt"], e["completion"], e.get("weight", 1.0), group, e["kind"], e.get("spans")])
            )
            self.kinds[e["kind"]] = self.kinds.get(e["kind"], 0) + 1
            self.lineages[tuple(e.get("lineage", []))] = None
            yield e

    def held_out(self) -> _Data:
        """What is to look at the examples to validate with, after those to train on."""
        return _Data(self.style, self.groups)

    def describe(self) -> dict:
        kinds = {kind: n for kind, n in self.kinds.items() if n}
        return {"sha256": self.digest.hexdigest(), "examples": sum(kinds.values()), "kinds": kinds}


def _open_model(settings: Settings) -> tuple[Any, Any, Any]:
    """(model, tokenizer, what to compute in)."""
    import torch

    if settings.full and settings.init:
        raise UsageError("--full trains all weights; to go on with a full model give it as -m, --init is for adapters")
    if settings.base.endswith(".gguf") or settings.base.startswith(("hf:", "http:", "https:")):
        raise UsageError(f"{settings.base}: what is trained is a directory or hub id, without hf:; no GGUF, no server")
    if (Path(resolve(settings.base)) / "adapter_config.json").is_file():
        raise UsageError(f"{settings.base}: an adapter; give its base as -m, and it as --init to go on with it")
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda and torch.cuda.is_bf16_supported() else torch.float32
    # Weights that are trained are not bfloat16: at the usual rates a step is less than what it can tell apart.
    weights = torch.float32 if settings.full else dtype
    trusted = settings.trust_remote_code
    memory.check(settings.base, weights, full=settings.full, four_bit=settings.load_in_4bit, trust_remote_code=trusted)
    model, tokenizer = hf.load(
        settings.base,
        settings.init,
        trainable=True,
        dtype=weights,
        four_bit=settings.load_in_4bit,
        trust_remote_code=trusted,
    )
    if cuda and not settings.load_in_4bit and not memory.is_split():
        model.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")  # so that what is checked now is what will be computed
    if not settings.full and not settings.init:
        from peft import LoraConfig, get_peft_model

        # Dropout 0: a shared prefix would be dropped differently for every example that shares it.
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules="all-linear",
            lora_dropout=0.0,
            use_rslora=settings.rslora,
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, config)
    return model, tokenizer, dtype


def _left_alone(model: Any) -> str | None:
    """What to tell of a mixture of experts whose adapter has none of them: PEFT's all-linear finds no 3-D weights."""
    experts = [p for name, p in model.named_parameters() if "experts" in name]
    if not experts or any(p.requires_grad for p in experts):
        return None
    share = sum(p.numel() for p in experts) / sum(p.numel() for p in model.parameters())
    return f"the adapter leaves the experts alone, {100 * share:.0f} % of the weights"


def _describe(
    settings: Settings,
    data: _Data,
    rows: list[Row],
    weighty: list[Row],
    updates: Updates,
    model: Any,
    style: PromptStyle | None,
) -> dict:
    import peft
    import torch
    import transformers

    base = resolve(settings.base)
    return {
        "eexp": __version__,
        "base": settings.base,
        "base_fingerprint": fingerprint_of_directory(base) if os.path.isdir(base) else None,
        "init_fingerprint": fingerprint_of_directory(settings.init) if settings.init else None,
        "prompt_style": style and style.label,
        "style": style and orjson.loads(orjson.dumps(style.as_dict())),  # lists, as they will be read again
        **_played(weighty),
        "settings": asdict(settings),
        "learning_rate": settings.resolved_learning_rate(),
        "data": {**data.describe(), "weight_0": len(rows) - len(weighty), **_counts(weighty)},
        "updates": len(updates),
        "trained": _trained(weighty, updates, settings),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
        "processes": trainer.world(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "lineage": [list(one) for one in list(data.lineages)[:_MAX_LINEAGES]],
    }


def _played(rows: list[Row]) -> dict:
    """How to play what was trained on `rows`: whether it thinks, and how many tokens it needs, by kind."""
    acting = [row for row in rows if any(segment.name == ACTION for segment in row.segments)]
    think = ("always" if any(row.thought for row in acting) else "never") if acting else None
    longest: dict[str, int] = {}
    for row in rows:
        longest[row.kind] = max(longest.get(row.kind, 0), row.n_completion)
    return {"think": think, "longest_completion": longest}


def _counts(rows: Iterable[Row]) -> dict[str, int]:
    rows = list(rows)
    return {"tokens": sum(len(row.ids) for row in rows), "target_tokens": sum(row.n_targets for row in rows)}


def _trained(rows: list[Row], updates: Updates, settings: Settings) -> dict[str, int]:
    """Over the whole run: tokens with every example by itself, those that are computed, and forward passes."""
    packing = PACKINGS[settings.packing]
    sizes = [
        packing.size(part)
        for update in updates
        for share in deal([rows[i] for i in update], packing, settings.tokens_per_batch, trainer.world())
        for part in share
    ]
    return {
        "examples": sum(map(len, updates)),
        **_counts(rows[i] for update in updates for i in update),
        "computed_tokens": sum(sizes),
        "passes": len(sizes),
        "largest_pass": max(sizes),
    }


def _wait() -> None:
    from accelerate import PartialState

    PartialState().wait_for_everyone()


def _same_examples(run: dict) -> None:
    from accelerate.utils import gather_object

    if len(set(gather_object([run["data"]["sha256"]]))) > 1:
        raise InputError("the processes read different examples; give files that all of them see")


def _same_run(before: dict, now: dict, directory: Path) -> None:
    defaults = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}  # of those not yet known then
    settings = defaults | before.get("settings", {})
    differs = [k for k in now["settings"] if settings.get(k) != now["settings"][k]]
    for name in ("data", "validation"):
        differs += [name] if (before.get(name) or {}).get("sha256") != (now[name] or {}).get("sha256") else []
    differs += [k for k in ("base_fingerprint", "init_fingerprint") if k in now and before.get(k) != now[k]]
    if not differs:  # of --budget-like, which may have been made anew
        differs = [k for k in ("updates", "total") if k in now and before.get(k) != now[k]]
    if differs:
        raise UsageError(
            f"{directory} holds a run with other settings ({', '.join(differs)}); give the same, or another -o"
        )


def _prepare(directory: Path, checkpoints: Path, run: dict, resume: bool) -> None:
    plan = checkpoints / "run.json"
    if resume and plan.is_file():
        _same_run(orjson.loads(plan.read_bytes()), run, directory)
        return
    shutil.rmtree(checkpoints, ignore_errors=True)
    try:
        checkpoints.mkdir(parents=True)
    except OSError as e:
        raise EexpError(f"{checkpoints}: {e.strerror or e}") from None
    trainer.write(plan, orjson.dumps(run, option=orjson.OPT_INDENT_2))


def _last_checkpoint(checkpoints: Path) -> str | None:
    """The last checkpoint that is whole; half-written ones are removed. Trainer writes its state last of all."""
    for path in sorted(checkpoints.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        try:
            orjson.loads((path / "trainer_state.json").read_bytes())
            return str(path)
        except (OSError, orjson.JSONDecodeError):
            shutil.rmtree(path)
    return None


def _finish(job: Job, directory: Path) -> None:
    """Add to what eexp.json says how the run went."""
    lines = (directory / "metrics.jsonl").read_bytes().splitlines()
    best = trainer.best_of(lines)
    kept = best[1] if best and job.settings.keep == "best" else len(job.updates)
    job.run |= {
        "final_loss": _mean_loss(lines),
        "kept_step": kept,
        "final_validation": trainer.validations(lines).get(kept),
    }


def _mean_loss(lines: Iterable[bytes]) -> float:
    """Over all updates; Trainer's own mean forgets those before a resumed run."""
    losses = [row["loss"] for row in map(orjson.loads, lines) if "loss" in row]
    return round(sum(losses) / len(losses), 6)


def _save(made: Any, job: Job, directory: Path) -> None:
    best = directory / "checkpoints" / f"best-{job.run['kept_step']}"
    if job.settings.keep == "last":
        made.save_model(str(directory))  # with all processes, which may hold a part of the weights each
    if not made.is_world_process_zero():
        return
    if job.settings.keep == "best":
        shutil.copytree(best, directory, dirs_exist_ok=True)
    _sort_adapter_config(directory / "adapter_config.json")
    (directory / "training_args.bin").unlink(missing_ok=True)  # eexp.json says it, for people
    job.tokenizer.save_pretrained(directory)
    (directory / "README.md").write_text(card(job.run), encoding="utf-8")
    trainer.write(directory / RUN_FILE, orjson.dumps(job.run, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _sort_adapter_config(file: Path) -> None:
    """Write the modules of an adapter in order; PEFT keeps them in sets, whose order depends on PYTHONHASHSEED."""
    if not file.is_file():
        return
    config = orjson.loads(file.read_bytes())
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key].sort()
    trainer.write(file, orjson.dumps(config, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
