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
import shutil
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson

from eexp import __version__
from eexp.errors import EexpError, InputError, UsageError
from eexp.jsonl import OnError, stop_at_error
from eexp.models import fingerprints, hf
from eexp.training import exact, memory
from eexp.training.data import Row, tokenize
from eexp.training.packing import PACKINGS, target_losses
from eexp.training.updates import Updates, by_examples, by_targets, deal, weight_of

_MAX_LINEAGES = 20  # in the model card
_SCHEDULES = {"constant": "constant_with_warmup"}  # their names in transformers, where they differ


@dataclass
class Settings:
    """What decides the outcome of a training run.

    base: directory, hub id or "tiny". init: a PEFT adapter to go on with. batch_size: examples an update, computed in
    parts of `tokens_per_batch`. packing: "tree" or "none". shuffle: one of SHUFFLES. max_steps: updates, instead of
    `epochs`. budget_like: a run whose updates and target tokens this one takes, those of `init` included, instead of
    all three. rank, alpha, rslora: of a new adapter. load_in_4bit: its base in 4 bits, on a GPU. report_to:
    "tensorboard" or "wandb".
    """

    base: str
    init: str | None = None
    full: bool = False
    load_in_4bit: bool = False
    epochs: float = 1.0
    max_steps: int | None = None
    budget_like: str | None = None
    batch_size: int = 16
    tokens_per_batch: int = 4096
    packing: str = "tree"
    shuffle: str = "trajectories"
    learning_rate: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    rank: int = 16
    alpha: int = 32
    rslora: bool = False
    max_length: int | None = None
    seed: int = 0
    save_every: int | None = None
    gradient_checkpointing: bool = False
    report_to: str | None = None

    def resolved_learning_rate(self) -> float:
        """1e-5 for all weights (the paper's), 1e-4 for an adapter, which takes larger steps."""
        return self.learning_rate or (1e-5 if self.full else 1e-4)


def finetune(examples: Iterable[dict], output: str | os.PathLike, settings: Settings, *, resume: bool = False,
             progress: bool = False, note: Callable[[str], None] = lambda text: None,
             on_error: OnError = stop_at_error) -> dict:  # fmt: skip
    """Train on `examples` and save the adapter (or the model) in the directory `output`; returns what eexp.json says.

    resume: go on from the last checkpoint in `output`, to the weights that the uninterrupted run would have had.
    Raises InputError for examples that cannot be trained on, UsageError where `output` holds another run.
    """
    directory = Path(output)
    if (directory / hf.RUN_FILE).is_file():
        if not resume:
            raise UsageError(f"{directory} holds a finished run; remove it, or give another -o")
        data = _Data()
        for _ in data.watch(examples, on_error):
            pass
        now = {"settings": asdict(settings), "data": {"sha256": data.digest.hexdigest()}}
        _same_run(hf.read_run(directory), now, directory)
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)  # killed while they were being removed
        note(f"{directory} is finished already")
        return hf.read_run(directory)
    for read in filter(None, (hf.resolve(settings.base), settings.init)):
        if os.path.isdir(read) and os.path.realpath(read) == os.path.realpath(directory):
            raise UsageError(f"{directory} is both read and written; give another -o")
    job = _plan(examples, settings, on_error)
    for doubt in filter(None, (memory.doubt(job.memory(), settings.tokens_per_batch), job.missed())):
        note(doubt)
    checkpoints = directory / "checkpoints"
    arguments = _arguments(job, checkpoints)  # meets the other processes, if there are any
    _same_examples(job.run)
    if arguments.process_index == 0:
        _prepare(directory, checkpoints, job.run, resume)
        _last_checkpoint(checkpoints)  # half-written ones go before anybody looks
    _wait()
    trainer = _trainer(job, arguments, directory / "metrics.jsonl", progress)
    last = _last_checkpoint(checkpoints) if resume else None
    if last:
        note(f"going on from {last}")
    trainer.train(resume_from_checkpoint=last)
    _wait()
    job.run["final_loss"] = _mean_loss(directory / "metrics.jsonl")
    _save(trainer, job, directory)
    if arguments.process_index == 0:
        shutil.rmtree(checkpoints)
    _wait()  # a process that leaves first may have the others ended
    return job.run


def preview(examples: Iterable[dict], settings: Settings, on_error: OnError = stop_at_error) -> str:
    """What `finetune` would do, for a person: its updates, tokens and memory, and a few examples with their targets."""
    from eexp.training.preview import describe

    job = _plan(examples, settings, on_error)
    said = describe(job.tokenizer, job.rows, job.run, job.memory())
    return "\n".join(filter(None, (job.missed(), said)))


@dataclass
class _Job:
    """All that a run is made of, before anything is computed or written."""

    settings: Settings
    model: Any
    tokenizer: Any
    rows: list[Row]
    updates: Updates
    run: dict
    budget: int | None = None  # of target tokens

    def missed(self) -> str | None:
        """What to tell where the budget of target tokens cannot be kept, each update having one example at least."""
        found = self.run["trained"]["target_tokens"]
        if self.budget is None or found - self.budget <= max(len(row.targets) for row in self.rows) / 2:
            return None
        return (f"{found:,} target tokens, though the budget is {self.budget:,}: {len(self.updates):,} updates have "
                f"one example each at least; a --budget-like with more examples an update can be kept")  # fmt: skip

    def updates_an_epoch(self) -> int:
        return math.ceil(len(self.updates) * len(self.rows) / self.run["trained"]["examples"])

    def memory(self) -> dict[str, int]:
        t = self.run["trained"]
        return memory.estimate(self.model, t["largest_pass"], t["target_tokens"] / t["computed_tokens"],
                               self.settings.gradient_checkpointing)  # fmt: skip


def _plan(examples: Iterable[dict], settings: Settings, on_error: OnError) -> _Job:
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about each other
    _check_packages(settings)
    spent = _spent(settings.init)
    budget = _budget(settings, spent)
    transformers.set_seed(settings.seed % 2**32)  # as large as numpy takes
    model, tokenizer = _open_model(settings)
    data = _Data()
    limit = settings.max_length or getattr(model.config, "max_position_embeddings", None) or 8192

    def refuse(example: dict, error: InputError) -> None:
        data.kinds[example["kind"]] -= 1
        on_error(example, error)

    rows = list(tokenize(data.watch(examples, on_error), tokenizer, limit, refuse))
    weighty = [row for row in rows if row.weight]
    if not weighty:
        raise InputError("no examples to train on" + (": all have weight 0" if rows else ""))
    exact.check_positions(model, weighty, settings.packing == "none" and settings.tokens_per_batch == 1)
    if settings.packing == "tree":
        exact.prepare(model, weighty)
    if budget:
        updates = by_targets(weighty, *budget, settings.seed, settings.shuffle)
    else:
        updates = by_examples(weighty, settings.batch_size, settings.epochs, settings.max_steps, settings.seed,
                              settings.shuffle)  # fmt: skip
    run = _describe(settings, data, rows, weighty, updates, model)
    run["total"] = {"updates": spent[0] + len(updates), "target_tokens": spent[1] + run["trained"]["target_tokens"]}
    return _Job(settings, model, tokenizer, weighty, updates, run, budget[1] if budget else None)


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
    total = hf.read_run(init).get("total", {}) if init else {}
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
        if "total" not in hf.read_run(run):
            raise UsageError(f"{run}: holds no finished training run that says what it was trained on")
    like = hf.read_run(s.budget_like)["total"]
    left = like["updates"] - spent[0]
    if left <= 0:
        raise UsageError(f"--budget-like {s.budget_like}: it was made in {like['updates']} updates, and --init "
                         f"{s.init} in {spent[0]}; none is left")  # fmt: skip
    return left, round(like["target_tokens"] * left / like["updates"])


class _Data:
    """Looks at examples as they pass: fingerprint, kinds, prompt style, lineages."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.kinds: dict[str, int] = {}
        self.style: str | None = None
        self.lineages: dict[tuple[str, ...], None] = {}

    def watch(self, examples: Iterable[dict], on_error: OnError) -> Iterable[dict]:
        for e in examples:
            style = e.get("prompt_style")
            if self.style and style and style != self.style:
                on_error(e, InputError(f"examples of two prompt styles: {self.style} and {style}", "$.prompt_style"))
                continue
            self.style = self.style or style
            self.digest.update(orjson.dumps([e["prompt"], e["completion"], e.get("weight", 1.0), e.get("group")]))
            self.kinds[e["kind"]] = self.kinds.get(e["kind"], 0) + 1
            self.lineages[tuple(e.get("lineage", []))] = None
            yield e


def _open_model(settings: Settings) -> tuple[Any, Any]:
    import torch

    if settings.full and settings.init:
        raise UsageError("--full trains all weights; to go on with a full model give it as -m, --init is for adapters")
    if settings.base.endswith(".gguf") or settings.base.startswith(("hf:", "http:", "https:")):
        raise UsageError(f"{settings.base}: what is trained is a directory or hub id, without hf:; no GGUF, no server")
    if (Path(hf.resolve(settings.base)) / "adapter_config.json").is_file():
        raise UsageError(f"{settings.base}: an adapter; give its base as -m, and it as --init to go on with it")
    dtype = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    memory.check(settings.base, dtype, full=settings.full, four_bit=settings.load_in_4bit)
    model, tokenizer = hf.load(settings.base, settings.init, trainable=True, dtype=dtype,
                               four_bit=settings.load_in_4bit)  # fmt: skip
    if settings.full:
        return model, tokenizer
    if not settings.init:
        from peft import LoraConfig, get_peft_model

        # Dropout 0: a shared prefix would be dropped differently for every example that shares it.
        config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", lora_dropout=0.0,
                            use_rslora=settings.rslora, task_type="CAUSAL_LM")  # fmt: skip
        model = get_peft_model(model, config)
    return model, tokenizer


def _describe(settings: Settings, data: _Data, rows: list[Row], weighty: list[Row], updates: Updates,
              model: Any) -> dict:  # fmt: skip
    import peft
    import torch
    import transformers

    base = hf.resolve(settings.base)
    return {"eexp": __version__, "base": settings.base,
            "base_fingerprint": fingerprints.of_model_dir(base) if os.path.isdir(base) else None,
            "init_fingerprint": fingerprints.of_model_dir(settings.init) if settings.init else None,
            "prompt_style": data.style, "settings": asdict(settings),
            "learning_rate": settings.resolved_learning_rate(),
            "data": {"sha256": data.digest.hexdigest(), "examples": len(rows), "weight_0": len(rows) - len(weighty),
                     "kinds": {kind: n for kind, n in data.kinds.items() if n}, **_counts(weighty)},
            "updates": len(updates), "trained": _trained(weighty, updates, settings),
            "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "versions": {"python": platform.python_version(), "torch": torch.__version__,
                         "transformers": transformers.__version__, "peft": peft.__version__},
            "processes": _world(), "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "lineage": [list(one) for one in list(data.lineages)[:_MAX_LINEAGES]]}  # fmt: skip


def _counts(rows: Iterable[Row]) -> dict[str, int]:
    rows = list(rows)
    return {"tokens": sum(len(row.ids) for row in rows), "target_tokens": sum(len(row.targets) for row in rows)}


def _trained(rows: list[Row], updates: Updates, settings: Settings) -> dict[str, int]:
    """Over the whole run: tokens with every example by itself, those that are computed, and forward passes."""
    packing = PACKINGS[settings.packing]
    passes = [part for update in updates
              for share in deal([rows[i] for i in update], packing, settings.tokens_per_batch, _world())
              for part in share]  # fmt: skip
    return {"examples": sum(map(len, updates)), **_counts(rows[i] for update in updates for i in update),
            "computed_tokens": sum(map(packing.size, passes)), "passes": len(passes),
            "largest_pass": max(map(packing.size, passes))}  # fmt: skip


def _world() -> int:
    """Processes that train together, as `accelerate launch` says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _wait() -> None:
    from accelerate import PartialState

    PartialState().wait_for_everyone()


def _same_examples(run: dict) -> None:
    from accelerate.utils import gather_object

    if len(set(gather_object([run["data"]["sha256"]]))) > 1:
        raise InputError("the processes read different examples; give files that all of them see")


def _same_run(before: dict, now: dict, directory: Path) -> None:
    settings = before.get("settings", {})
    differs = [k for k in now["settings"] if settings.get(k) != now["settings"][k]]
    differs += ["data"] if before.get("data", {}).get("sha256") != now["data"]["sha256"] else []
    differs += [k for k in ("base_fingerprint", "init_fingerprint") if k in now and before.get(k) != now[k]]
    if not differs:  # of --budget-like, which may have been made anew
        differs = [k for k in ("updates", "total") if k in now and before.get(k) != now[k]]
    if differs:
        raise UsageError(f"{directory} holds a run with other settings ({', '.join(differs)}); give the same, or "
                         f"another -o")  # fmt: skip


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
    _write(plan, orjson.dumps(run, option=orjson.OPT_INDENT_2))


def _write(path: Path, data: bytes) -> None:
    half = path.with_name(path.name + ".part")
    half.write_bytes(data)
    half.replace(path)


def _last_checkpoint(checkpoints: Path) -> str | None:
    """The last checkpoint that is whole; half-written ones are removed. Trainer writes its state last of all."""
    for path in sorted(checkpoints.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        try:
            orjson.loads((path / "trainer_state.json").read_bytes())
            return str(path)
        except (OSError, orjson.JSONDecodeError):
            shutil.rmtree(path)
    return None


def _mean_loss(metrics: Path) -> float:
    """Over all updates; Trainer's own mean forgets those before a resumed run."""
    losses = [orjson.loads(line)["loss"] for line in metrics.read_bytes().splitlines()]
    return round(sum(losses) / len(losses), 6)


def _arguments(job: _Job, checkpoints: Path) -> Any:
    import torch
    from transformers import TrainingArguments

    s = job.settings
    arguments = TrainingArguments(
        output_dir=str(checkpoints), per_device_train_batch_size=1, gradient_accumulation_steps=1, num_train_epochs=1,
        learning_rate=s.resolved_learning_rate(), lr_scheduler_type=_SCHEDULES.get(s.schedule, s.schedule),
        warmup_steps=round(s.warmup * len(job.updates)), weight_decay=s.weight_decay, seed=s.seed % 2**32,
        remove_unused_columns=False, report_to=[s.report_to] if s.report_to else [], disable_tqdm=True,
        logging_steps=1, logging_nan_inf_filter=False, save_strategy="steps",
        save_steps=s.save_every or job.updates_an_epoch(), save_total_limit=2,
        bf16=job.model.dtype == torch.bfloat16, use_cpu=not torch.cuda.is_available(),
        # A model of pictures and text leaves weights aside; to look for them costs every other one time.
        ddp_find_unused_parameters=job.model.config.get_text_config() is not job.model.config,
    )  # fmt: skip
    if arguments.world_size != _world():
        raise EexpError(f"was started as one of {_world()} processes, and found {arguments.world_size}")
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several are for several processes, never for threads of one
    return arguments


def _trainer(job: _Job, arguments: Any, metrics: Path, progress: bool) -> Any:
    import torch
    from accelerate.utils import patch_environment
    from transformers import PrinterCallback, Trainer

    packing = PACKINGS[job.settings.packing]
    rank, world = arguments.process_index, arguments.world_size

    class UpdateTrainer(Trainer):
        """A batch is an update: every process is given all of its rows and computes its own parts of them."""

        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(job.rows, batch_sampler=job.updates, collate_fn=list)

        def training_step(self, model: Any, inputs: list[Row], num_items_in_batch: Any = None) -> Any:
            model.train()
            share = world / weight_of(inputs)  # gradients are averaged over processes, and so is the loss on record
            total = torch.zeros((), device=self.args.device)
            parts = deal(inputs, packing, job.settings.tokens_per_batch, world)[rank]
            for i, rows in enumerate(parts):
                with nullcontext() if i == len(parts) - 1 else self.accelerator.no_sync(model):
                    part = packing.part(rows, self.args.device)
                    with self.compute_loss_context_manager():
                        loss = (part.weights * target_losses(model, part)).sum() * share
                    self.accelerator.backward(loss)
                    total += loss.detach()
            return total

        def floating_point_ops(self, inputs: list[Row]) -> int:
            return 0  # Trainer's estimate is for tensors, and nobody asks

    if job.settings.gradient_checkpointing:
        job.model.gradient_checkpointing_enable()
        job.model.enable_input_require_grads()  # frozen embeddings would cut the graph
    uses_cache = getattr(job.model.config, "use_cache", True)
    place = {"TENSORBOARD_LOGGING_DIR": str(metrics.parent / "tensorboard")}  # not with the checkpoints
    with patch_environment(**{name: value for name, value in place.items() if name not in os.environ}):
        trainer = UpdateTrainer(model=job.model, args=arguments, train_dataset=job.rows)
    job.model.config.use_cache = uses_cache  # Trainer has turned it off, for whoever loads what is saved, too
    trainer.remove_callback(PrinterCallback)
    seen = accumulate(map(len, job.updates))
    trainer.add_callback(_metrics_callback(metrics, [n / len(job.rows) for n in seen], progress))
    return trainer


def _metrics_callback(path: Path, epochs: list[float], progress: bool) -> Any:
    from tqdm import tqdm
    from transformers import TrainerCallback

    class Metrics(TrainerCallback):
        """Writes one line an update (epochs: where each update ends, in passes over the data), and moves the bar."""

        bar: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="update",
                            disable=None if progress else True, leave=False)  # fmt: skip
            if not state.is_world_process_zero:
                return
            before = path.read_bytes().splitlines() if state.global_step and path.is_file() else []
            kept = [line for line in before if _step_of(line) <= state.global_step]
            _write(path, b"".join(line + b"\n" for line in kept))  # whole, or as it was

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            for what in ("loss", "grad_norm"):  # the next update would make NaN of all that is trained
                if not math.isfinite(logs.get(what, 0.0)):
                    raise EexpError(f"update {state.global_step}: the {what} is {logs[what]}; a lower --lr may help")
            if state.is_world_process_zero:
                row = {"step": state.global_step, **logs, "epoch": epochs[state.global_step - 1]}
                with open(path, "ab") as f:
                    f.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
                self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.update(1)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    return Metrics()


def _step_of(line: bytes) -> int:
    try:
        return orjson.loads(line)["step"]
    except (orjson.JSONDecodeError, KeyError):
        return 2**62  # a half-written line is not kept


def _save(trainer: Any, job: _Job, directory: Path) -> None:
    trainer.save_model(str(directory))  # with all processes, which may hold a part of the weights each
    if not trainer.is_world_process_zero():
        return
    (directory / "training_args.bin").unlink(missing_ok=True)  # eexp.json says it, for people
    job.tokenizer.save_pretrained(directory)
    (directory / "README.md").write_text(card(job.run), encoding="utf-8")
    _write(directory / hf.RUN_FILE, orjson.dumps(job.run, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def card(run: dict) -> str:
    """The model card: what it was made from and how."""
    s, d, t = run["settings"], run["data"], run["trained"]
    what = "All weights" if s["full"] else "A LoRA adapter" + (f", continuing `{s['init']}`" if s["init"] else "")
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in d["kinds"].items())
    rows = {"base": f"{run['base']} ({run['base_fingerprint'] or 'no local weights to fingerprint'})",
            "prompt style": run["prompt_style"], "examples": f"{d['examples']:,} ({kinds})",
            "tokens": f"{d['tokens']:,}, {d['target_tokens']:,} of them targets",
            "updates": f"{run['updates']:,}, with {t['target_tokens']:,} target tokens",
            "computed tokens": f"{t['computed_tokens']:,} for {t['tokens']:,}, {s['tokens_per_batch']:,} at once",
            "batch": f"{s['batch_size']} examples" if not s["budget_like"] else f"as in {s['budget_like']}",
            "learning rate": f"{run['learning_rate']:g}, {s['schedule']}", "seed": s["seed"],
            "trainable parameters": f"{run['trainable_parameters']:,}", "mean training loss": run["final_loss"],
            "device": run["device"], "data sha256": d["sha256"][:16],
            "versions": ", ".join(f"{k} {v}" for k, v in run["versions"].items())}  # fmt: skip
    lines = ["---", "library_name: " + ("transformers" if s["full"] else "peft"), "tags: [eexp, early-experience]",
             "---", "", f"{what} of `{run['base']}`, trained by eexp {run['eexp']}.", "",
             "| | |", "|---|---|"]  # fmt: skip
    lines += [f"| {key} | {value} |" for key, value in rows.items()]
    lines += ["", "The data came from:", ""]
    for one in run["lineage"]:
        lines += [f"- `{entry}`" if i == 0 else f"  then `{entry}`" for i, entry in enumerate(one)]
    return "\n".join(lines) + "\n"
