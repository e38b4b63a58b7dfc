"""Fine-tuning on completions, with transformers' Trainer and PEFT.

What is saved beside the weights is enough to say what they are: resolved settings, versions, data fingerprint, prompt
style and lineage in `eexp.json`, the loss curve in `metrics.jsonl`, all of it for a person in `README.md`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import random
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from eexp import __version__
from eexp.errors import EexpError, InputError, UsageError
from eexp.jsonl import OnError, stop_at_error
from eexp.models import fingerprints, hf
from eexp.training.data import LeftPadded, Row, computed_tokens, in_chains, in_order, tokenize

_MAX_LINEAGES = 20  # in the model card


@dataclass
class Settings:
    """What decides the outcome of a training run.

    base: directory, hub id or "tiny". init: a PEFT adapter to go on with. batch_size: examples an update, in
    micro-batches of `micro_batch_size`. max_steps: updates, instead of `epochs`. rank, alpha, rslora: of a new adapter.
    """

    base: str
    init: str | None = None
    full: bool = False
    epochs: float = 1.0
    max_steps: int | None = None
    batch_size: int = 16
    micro_batch_size: int = 4
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
        _same_run(hf.read_run(directory), {"settings": asdict(settings)}, directory)
        note(f"{directory} is finished already")
        return hf.read_run(directory)
    import torch
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about each other
    transformers.set_seed(settings.seed)
    model, tokenizer = _open_model(settings)
    data = _Data()
    limit = settings.max_length or getattr(model.config, "max_position_embeddings", None) or 8192
    rows = list(tokenize(data.watch(examples, on_error), tokenizer, limit, on_error))
    if not rows:
        raise InputError("no examples to train on")
    groups = in_chains(rows)
    run = _describe(settings, data, rows, computed_tokens(rows, groups), model, torch, transformers)
    checkpoints = directory / "checkpoints"
    _prepare(directory, checkpoints, run, resume)
    # Worth the less even lengths in a batch only where rows do continue each other.
    chained = run["data"]["computed_tokens"] < 0.8 * run["data"]["tokens"]
    sampler = _InChains(groups, settings.seed) if chained else None
    trainer = _trainer(model, tokenizer, rows, sampler, settings, checkpoints, progress)
    last = _last_checkpoint(checkpoints) if resume else None
    if last:
        note(f"going on from {last}")
    trainer.train(resume_from_checkpoint=last)
    run["updates"] = trainer.state.global_step
    run["final_loss"] = _mean_loss(directory / "metrics.jsonl")
    _save(trainer, model, tokenizer, directory, run)
    shutil.rmtree(checkpoints)
    return run


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
            self.digest.update(orjson.dumps([e["prompt"], e["completion"], e.get("weight", 1.0)]))
            self.kinds[e["kind"]] = self.kinds.get(e["kind"], 0) + 1
            self.lineages[tuple(e.get("lineage", []))] = None
            yield e


def _open_model(settings: Settings) -> tuple[Any, Any]:
    import torch

    if settings.full and settings.init:
        raise UsageError("--full trains all weights; to go on with a full model give it as -m, --init is for adapters")
    dtype = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    model, tokenizer = hf.load(settings.base, settings.init, trainable=True, dtype=dtype)
    if settings.full:
        return model, tokenizer
    if not settings.init:
        from peft import LoraConfig, get_peft_model

        # Dropout 0: a shared prefix would be dropped differently for every example that shares it.
        config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", lora_dropout=0.0,
                            use_rslora=settings.rslora, task_type="CAUSAL_LM")  # fmt: skip
        model = get_peft_model(model, config)
    return model, tokenizer


def _describe(settings: Settings, data: _Data, rows: list[Row], computed: int, model: Any, torch: Any,
              transformers: Any) -> dict:  # fmt: skip
    import peft

    base = hf.resolve(settings.base)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"eexp": __version__, "base": settings.base,
            "base_fingerprint": fingerprints.of_model_dir(base) if os.path.isdir(base) else None,
            "init_fingerprint": fingerprints.of_model_dir(settings.init) if settings.init else None,
            "prompt_style": data.style, "settings": asdict(settings),
            "learning_rate": settings.resolved_learning_rate(),
            "data": {"sha256": data.digest.hexdigest(), "examples": len(rows), "kinds": data.kinds,
                     "tokens": sum(len(r.ids) for r in rows), "computed_tokens": computed,
                     "target_tokens": sum(len(r.ids) - r.n_prompt for r in rows)},
            "trainable_parameters": trainable,
            "versions": {"python": platform.python_version(), "torch": torch.__version__,
                         "transformers": transformers.__version__, "peft": peft.__version__},
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "lineage": [list(one) for one in list(data.lineages)[:_MAX_LINEAGES]]}  # fmt: skip


def _same_run(before: dict, now: dict, directory: Path) -> None:
    differs = [k for k in now["settings"] if before["settings"].get(k) != now["settings"][k]]
    if "data" in now and before["data"]["sha256"] != now["data"]["sha256"]:
        differs.append("data")
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


class _Rows:
    """A map-style dataset; `input_ids` is there for the sampler that groups by length."""

    def __init__(self, rows: list[Row]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict:
        return {"row": self.rows[i], "input_ids": self.rows[i].ids}


class _InChains:
    """Samples rows in chains, in another order every epoch and the same one for the same seed, so that runs resume."""

    def __init__(self, groups: list[list[list[int]]], seed: int):
        self.groups, self.seed, self.epoch = groups, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(len(chain) for chains in self.groups for chain in chains)

    def __iter__(self) -> Iterator[int]:
        return iter(in_order(self.groups, random.Random(f"{self.seed}/{self.epoch}")))


def _trainer(model: Any, tokenizer: Any, rows: list[Row], sampler: _InChains | None, s: Settings, checkpoints: Path,
             progress: bool) -> Any:  # fmt: skip
    import torch
    from transformers import PrinterCallback, Trainer, TrainingArguments

    class CompletionTrainer(Trainer):
        """Cross-entropy over completion tokens, each times its example's weight, over all tokens of the update."""

        def compute_loss(self, model: Any, inputs: dict, return_outputs: bool = False,
                         num_items_in_batch: Any = None) -> Any:  # fmt: skip
            inputs = dict(inputs)
            weights, labels = inputs.pop("weights"), inputs.pop("labels")
            # Only columns with a target are projected onto the vocabulary; left padding brings most of them together.
            columns = (labels != -100).any(0).nonzero().flatten()
            logits = model(**inputs, logits_to_keep=columns - 1, use_cache=False).logits
            targets = labels[:, columns]
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(),
                                                       reduction="none", ignore_index=-100)  # fmt: skip
            total = (losses.view_as(targets) * weights[:, columns]).sum()
            if num_items_in_batch is None:
                num_items_in_batch = (targets != -100).sum()
            loss = total / num_items_in_batch
            return (loss, {"logits": logits}) if return_outputs else loss

        def _get_train_sampler(self, *args: Any) -> Any:
            return sampler or super()._get_train_sampler(*args)

    world = int(os.environ.get("WORLD_SIZE", "1"))
    micro = min(s.micro_batch_size, max(1, s.batch_size // world))
    if s.batch_size % (micro * world):
        raise UsageError(f"--batch-size {s.batch_size} is not a multiple of --micro-batch-size {micro} times "
                         f"{world} processes")  # fmt: skip
    updates = s.max_steps or -(-len(rows) // s.batch_size) * s.epochs
    arguments = TrainingArguments(
        output_dir=str(checkpoints), per_device_train_batch_size=micro,
        gradient_accumulation_steps=s.batch_size // (micro * world), num_train_epochs=s.epochs,
        max_steps=s.max_steps or -1, learning_rate=s.resolved_learning_rate(), lr_scheduler_type=s.schedule,
        warmup_steps=round(s.warmup * updates), weight_decay=s.weight_decay, seed=s.seed, data_seed=s.seed,
        train_sampling_strategy="group_by_length", remove_unused_columns=False, report_to=[], disable_tqdm=True,
        logging_steps=1, logging_nan_inf_filter=False, save_strategy="steps" if s.save_every else "epoch",
        save_steps=s.save_every or 500, save_total_limit=2, bf16=model.dtype == torch.bfloat16,
        dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    if s.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()  # frozen embeddings would cut the graph
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    trainer = CompletionTrainer(model=model, args=arguments, train_dataset=_Rows(rows), data_collator=LeftPadded(pad))
    trainer.model_accepts_loss_kwargs = True  # compute_loss normalises over the whole accumulated batch itself
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_metrics_callback(checkpoints.parent / "metrics.jsonl", progress))
    return trainer


def _metrics_callback(path: Path, progress: bool) -> Any:
    from tqdm import tqdm
    from transformers import TrainerCallback

    class Metrics(TrainerCallback):
        """Writes one line an update, and moves the bar."""

        bar: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            before = path.read_bytes().splitlines() if state.global_step and path.is_file() else []
            kept = [line for line in before if _step_of(line) <= state.global_step]
            path.write_bytes(b"".join(line + b"\n" for line in kept))
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="update",
                            disable=None if progress else True, leave=False)  # fmt: skip

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                row = {"step": state.global_step, "epoch": state.epoch, **logs}
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


def _save(trainer: Any, model: Any, tokenizer: Any, directory: Path, run: dict) -> None:
    if not trainer.is_world_process_zero():
        return
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "README.md").write_text(card(run))
    _write(directory / hf.RUN_FILE, orjson.dumps(run, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def card(run: dict) -> str:
    """The model card: what it was made from and how."""
    s, d = run["settings"], run["data"]
    what = "All weights" if s["full"] else "A LoRA adapter" + (f", continuing `{s['init']}`" if s["init"] else "")
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in d["kinds"].items())
    rows = {"base": f"{run['base']} ({run['base_fingerprint'] or 'no local weights to fingerprint'})",
            "prompt style": run["prompt_style"], "examples": f"{d['examples']:,} ({kinds})",
            "tokens": f"{d['tokens']:,}, {d['target_tokens']:,} of them targets", "updates": f"{run['updates']:,}",
            "batch": s["batch_size"], "learning rate": f"{run['learning_rate']:g}, {s['schedule']}", "seed": s["seed"],
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
