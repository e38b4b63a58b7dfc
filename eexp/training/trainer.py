"""transformers' Trainer, for updates that are cut into passes: the step that eexp's training comes down to.

What makes an update, and what each process computes of it, is decided before (updates.py); how a part goes through the
model, in packing.py.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from eexp.errors import EexpError
from eexp.training import attention
from eexp.training.data import Row
from eexp.training.packing import PACKINGS, target_losses
from eexp.training.updates import distribute, total_weight
from eexp.training.validation import add_sums, summary, validation_losses

if TYPE_CHECKING:
    from eexp.training.finetune import Job


_SCHEDULES = {"constant": "constant_with_warmup"}  # their names in transformers, where they differ


def world() -> int:
    """Processes that train together, as `accelerate launch` says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def arguments(job: Job, checkpoints: Path) -> Any:
    """Trainer's own settings for a run. Meets the other processes, if there are any."""
    import torch
    from transformers import TrainingArguments

    s = job.settings
    made = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        num_train_epochs=1,
        learning_rate=s.resolved_learning_rate(),
        lr_scheduler_type=_SCHEDULES.get(s.schedule, s.schedule),
        warmup_steps=round(s.warmup * len(job.updates)),
        weight_decay=s.weight_decay,
        seed=s.seed % 2**32,
        remove_unused_columns=False,
        report_to=[s.report_to] if s.report_to else [],
        disable_tqdm=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=s.save_every or job.updates_an_epoch(),
        save_total_limit=2,
        max_grad_norm=s.max_grad_norm,
        bf16=job.dtype == torch.bfloat16,
        use_cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
        # A model of pictures and text leaves weights aside; to look for them costs every other one time.
        ddp_find_unused_parameters=job.model.config.get_text_config() is not job.model.config,
    )
    if made.world_size != world():
        raise EexpError(f"was started as one of {world()} processes, and found {made.world_size}")
    kind = made.distributed_state.distributed_type.value
    if kind in ("DEEPSPEED", "MEGATRON_LM"):
        raise EexpError(f"{kind} cannot make an update of several passes here; start accelerate with DDP or FSDP")
    made._n_gpu = min(made.n_gpu, 1)  # several are for several processes, never for threads of one
    return made


def trainer(job: Job, arguments: Any, metrics: Path, progress: bool) -> Any:
    """A Trainer that makes the updates of `job`, and writes a line for each to the file `metrics`."""
    import torch
    from accelerate.utils import patch_environment
    from transformers import PrinterCallback, Trainer

    packing = PACKINGS[job.settings.packing]
    rank, processes = arguments.process_index, arguments.world_size

    class UpdateTrainer(Trainer):
        """A batch is an update: every process is given all of its rows and computes its own parts of them."""

        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(job.rows, batch_sampler=job.updates, collate_fn=list)

        def training_step(self, model: Any, inputs: list[Row], num_items_in_batch: Any = None) -> Any:
            model.train()
            own = total_weight(inputs)
            whole = job.update_weight or own
            share = processes / whole  # gradients are averaged over processes, and so is the loss on record
            total = torch.zeros((), device=self.args.device)
            parts = distribute(inputs, packing, job.settings.tokens_per_batch, processes)[rank]
            for i, rows in enumerate(parts):
                with nullcontext() if i == len(parts) - 1 else self.accelerator.no_sync(model):
                    part = packing.part(rows, self.args.device)
                    with self.compute_loss_context_manager():
                        loss = (part.weights * target_losses(model, part)).sum() * share
                    self.accelerator.backward(loss)
                    total += loss.detach()
            return total * (whole / own)  # a mean of what it learns from, on record

        def floating_point_ops(self, inputs: list[Row]) -> int:
            return 0  # Trainer's estimate is for tensors, and nobody asks

    if job.settings.gradient_checkpointing:
        job.model.gradient_checkpointing_enable()
        job.model.enable_input_require_grads()  # frozen embeddings would cut the graph
    attention.REGATHER = not job.settings.gradient_checkpointing
    uses_cache = getattr(job.model.config, "use_cache", True)
    place = {"TENSORBOARD_LOGGING_DIR": str(metrics.parent / "tensorboard")}  # not with the checkpoints
    with patch_environment(**{name: value for name, value in place.items() if name not in os.environ}):
        made = UpdateTrainer(model=job.model, args=arguments, train_dataset=job.rows)
    job.model.config.use_cache = uses_cache  # Trainer has turned it off, for whoever loads what is saved, too
    made.remove_callback(PrinterCallback)
    made.add_callback(_metrics(made, job, metrics, progress))
    return made


def _metrics(trainer: Any, job: Job, path: Path, progress: bool) -> Any:
    from accelerate.utils import gather_object
    from tqdm import tqdm
    from transformers import TrainerCallback

    checkpoints = Path(trainer.args.output_dir)
    epochs = [0.0, *(n / len(job.rows) for n in accumulate(map(len, job.updates)))]  # passes over the data, by update
    validated_at = job.validation_steps()

    class Metrics(TrainerCallback):
        """Writes one line an update and one a validation, keeps the best weights if asked for, and moves the bar."""

        bar: Any = None
        best: tuple[float, int] | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                unit="update",
                disable=None if progress else True,
                leave=False,
            )
            before = path.read_bytes().splitlines() if state.global_step and path.is_file() else []
            kept = [line for line in before if _step_of(line) <= state.global_step]
            self.best = best_of(kept)
            if state.is_world_process_zero:
                write(path, b"".join(line + b"\n" for line in kept))  # whole, or as it was
            if not state.global_step:
                self.validate(0)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            for what in ("loss", "grad_norm"):  # the next update would make NaN of all that is trained
                if not math.isfinite(logs.get(what, 0.0)):
                    raise EexpError(f"update {state.global_step}: the {what} is {logs[what]}; a lower --lr may help")
            if state.is_world_process_zero:
                self.append({"step": state.global_step, **logs, "epoch": epochs[state.global_step]})
                self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
            self.validate(state.global_step)  # before the checkpoint of this update, so that none is without it

        def append(self, line: dict) -> None:
            with open(path, "ab") as f:
                f.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

        def validate(self, step: int) -> None:
            if step not in validated_at:
                return
            args = trainer.args
            sums = validation_losses(
                trainer.model_wrapped if trainer.is_fsdp_enabled else job.model,
                job.validation,
                packing=job.settings.packing,
                tokens_per_batch=job.settings.tokens_per_batch,
                dtype=job.dtype,
                device=args.device,
                rank=args.process_index,
                processes=args.world_size,
            )
            found = summary(add_sums(gather_object([sums])))
            if trainer.is_world_process_zero():
                self.append({"step": step, "epoch": epochs[step], "validation": found})
            if args.report_to:
                trainer.log(
                    {
                        "eval_loss": found["loss"],
                        **{f"eval_loss_{span}": one["loss"] for span, one in found["spans"].items()},
                    }
                )
            if job.settings.keep == "best" and step and (self.best is None or found["loss"] < self.best[0]):
                self.best = found["loss"], step
                trainer.save_model(str(checkpoints / f"best-{step}"))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Remove weights that were the best until now: a run that is killed goes on from this checkpoint."""
            if state.is_world_process_zero and self.best:
                for older in checkpoints.glob("best-*"):
                    if older.name != f"best-{self.best[1]}":
                        shutil.rmtree(older, ignore_errors=True)

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


def validations(lines: Iterable[bytes]) -> dict[int, dict]:
    """Return the validation losses among the lines of metrics.jsonl, by update."""
    rows = map(orjson.loads, lines)
    return {row["step"]: row["validation"] for row in rows if "validation" in row}


def best_of(lines: Iterable[bytes]) -> tuple[float, int] | None:
    """Return (loss, update) of the lowest validation loss after at least one update; the first of equal ones."""
    return min(((found["loss"], step) for step, found in validations(lines).items() if step), default=None)


def write(path: Path, data: bytes) -> None:
    """Replace a file, whole: a kill leaves what was there."""
    half = path.with_name(path.name + ".part")
    half.write_bytes(data)
    half.replace(path)
