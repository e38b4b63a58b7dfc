"""transformers' Trainer, for updates that are computed in several passes: the step at the centre of eexp's training.

Which examples make an update, and which of them each process computes, is decided before (updates.py); packing.py says
how the examples of a pass go through the model, and objectives/ what their loss is.
"""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import orjson
import torch
from accelerate.utils import gather_object, patch_environment
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eexp.errors import EexpError, short
from eexp.system.terminal import Progress
from eexp.training import resharding, sharding
from eexp.training.data import Row
from eexp.training.distributed import process_count
from eexp.training.files import replace_file
from eexp.training.job import Job
from eexp.training.metrics import best_validation
from eexp.training.optimizer import load_state
from eexp.training.packing import target_losses
from eexp.training.resume import METRICS_FILE, loading_errors, remove_older, seal_checkpoint
from eexp.training.updates import distribute, total_weight
from eexp.training.validation import add_sums, summary, validation_losses

_SHOWN_IDS = 5  # of the examples of an update that failed
_SCHEDULES = {"constant": "constant_with_warmup"}  # names of schedules in transformers, where they differ


def training_arguments(job: Job, checkpoints: Path) -> TrainingArguments:
    """Return Trainer's own settings for a job; this meets the other processes that train along, if there are any.

    Raises EexpError if the processes are fewer or more than the launcher said, or were started with DeepSpeed or
    Megatron-LM.
    """
    settings = job.settings
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        num_train_epochs=1,
        learning_rate=settings.resolved_learning_rate(),
        lr_scheduler_type=_SCHEDULES.get(settings.schedule, settings.schedule),
        warmup_steps=round(settings.warmup * len(job.updates)),
        weight_decay=settings.weight_decay,
        seed=settings.seed % 2**32,
        remove_unused_columns=False,
        report_to=[settings.report_to] if settings.report_to else [],
        disable_tqdm=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_every or job.updates_per_epoch(),
        save_total_limit=None,  # on_save removes older ones
        max_grad_norm=settings.max_grad_norm,
        bf16=job.dtype == torch.bfloat16,
        use_cpu=not torch.accelerator.is_available(),
        # A model of pictures and text leaves weights unused; looking for them costs any other model time.
        ddp_find_unused_parameters=job.model.config.get_text_config() is not job.model.config,
    )
    if arguments.world_size != process_count():
        raise EexpError(f"was started as one of {process_count()} processes, and found {arguments.world_size}")
    state = arguments.distributed_state
    kind = state.distributed_type.value if state else None
    if kind in ("DEEPSPEED", "MEGATRON_LM"):
        raise EexpError(f"{kind} cannot make an update of several passes here; start accelerate with DDP or FSDP")
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are for several processes, never for threads of one
    return arguments


class UpdateTrainer(Trainer):
    """A Trainer whose batches are updates: every process is given all rows of one, and computes its own passes."""

    def __init__(self, job: Job, arguments: TrainingArguments) -> None:
        self._job = job
        self.measures: dict[str, float] = {}  # further numbers of the last update, for its line in metrics.jsonl
        # A list has all that Trainer asks of a data set, which is its length.
        super().__init__(model=job.model, args=arguments, train_dataset=cast("Dataset[Row]", job.rows))

    def create_accelerator_and_postprocess(self) -> None:
        """Make the Accelerator, which divides weights where the launcher asks for it."""
        with sharding.sharding_on_cpus():
            super().create_accelerator_and_postprocess()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights whole, even where accelerate's settings divide those of checkpoints over several files."""
        if _internal_call or not sharding.is_sharded(self.model):
            super().save_model(output_dir, _internal_call)
        else:
            self._save(output_dir, state_dict=sharding.whole_weights(self.model))

    def train(self, resume_from_checkpoint: str | None = None) -> Any:
        """Make the updates, from a checkpoint on if one is given, whatever number of processes wrote it."""
        if resume_from_checkpoint and self.is_fsdp_enabled and not resharding.is_in_parts(resume_from_checkpoint):
            with loading_errors(resume_from_checkpoint):
                resharding.load_whole_weights(self.model, resume_from_checkpoint)  # before they are divided
        return super().train(resume_from_checkpoint=resume_from_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        in_parts = resharding.is_in_parts(resume_from_checkpoint)
        with loading_errors(resume_from_checkpoint):
            if in_parts == self.is_fsdp_enabled:
                super()._load_from_checkpoint(resume_from_checkpoint, model)
            elif in_parts:
                resharding.load_parts(self.model, None, resume_from_checkpoint, self.accelerator)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with loading_errors(checkpoint):
            if resharding.is_in_parts(checkpoint) == self.is_fsdp_enabled:
                super()._load_optimizer_and_scheduler(checkpoint)
            else:
                self._load_other_optimizer(checkpoint)

    def _load_other_optimizer(self, checkpoint: str) -> None:
        """Load the optimiser's state and the schedule of a checkpoint that another kind of run wrote."""
        optimizer = cast(Optimizer, self.optimizer)
        if self.is_fsdp_enabled:
            resharding.load_whole_optimizer(self.model, optimizer, checkpoint)
        else:
            resharding.load_parts(self.model, optimizer, checkpoint, self.accelerator)
        scheduler = torch.load(Path(checkpoint) / "scheduler.pt", map_location="cpu", weights_only=True)
        self.lr_scheduler.load_state_dict(scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with loading_errors(checkpoint):
                super()._load_rng_state(checkpoint)

    def get_train_dataloader(self) -> DataLoader:
        """Return a loader that yields the rows of one update after the other."""
        return DataLoader(cast("Dataset[Row]", self._job.rows), batch_sampler=self._job.updates, collate_fn=list)

    def training_step(
        self, model: torch.nn.Module, inputs: list[Row], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Compute the gradient of one update, pass by pass, and return its loss on record.

        Args:
            model: The model, as it is wrapped for several processes.
            inputs: All rows of the update.
            num_items_in_batch: Not used.

        Returns:
            The mean loss by the weight of targets, a number on the device. The mean over processes is the update's.
        """
        model.train()
        packing, processes = self._job.packing, self.args.world_size
        own_weight = total_weight(inputs)
        update_weight = self._job.update_weight or own_weight
        update_loss = self._job.objective.update_loss(inputs, update_weight, processes)
        total = torch.zeros((), device=self.args.device)
        budget = self._job.settings.tokens_per_batch
        passes = distribute(inputs, packing, budget, processes)[self.args.process_index]
        for i, rows in enumerate(passes):
            with nullcontext() if i == len(passes) - 1 else self.accelerator.no_sync(model):
                part = packing.part(rows, self.args.device)
                with self.compute_loss_context_manager():
                    loss = update_loss(rows, part, target_losses(model, part))
                self.accelerator.backward(loss)
                total += loss.detach()
        if update_loss.sums is not None:
            self.measures = update_loss.measures(cast(torch.Tensor, self.accelerator.reduce(update_loss.sums, "sum")))
        return total * (update_weight / own_weight)  # on record is a mean over the update's own targets

    def floating_point_ops(self, inputs: list[Row]) -> int:
        """Return 0: Trainer's estimate is for tensors, and is not used here."""
        return 0


def make_trainer(job: Job, arguments: TrainingArguments, metrics: Path, progress: bool) -> UpdateTrainer:
    """Return a Trainer that makes the updates of `job`, and writes a line for each to the file `metrics`."""
    if job.settings.gradient_checkpointing:
        job.model.gradient_checkpointing_enable()
        job.model.enable_input_require_grads()  # frozen embeddings would cut the graph
    uses_cache = getattr(job.model.config, "use_cache", True)
    variables = {"TENSORBOARD_LOGGING_DIR": str(metrics.parent / "tensorboard")}  # not with the checkpoints
    with patch_environment(**{name: value for name, value in variables.items() if name not in os.environ}):
        trainer = UpdateTrainer(job, arguments)
    job.model.config.use_cache = uses_cache  # Trainer has turned it off, and would save it so
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(RunCallback(trainer, job, metrics, progress))
    return trainer


class RunCallback(TrainerCallback):
    """Writes a line for each update and each validation, keeps the best weights, and moves the progress bar."""

    _progress: Progress

    def __init__(self, trainer: UpdateTrainer, job: Job, metrics: Path, progress: bool) -> None:
        self._trainer, self._job, self._metrics, self._quiet = trainer, job, metrics, not progress
        self._checkpoints = Path(str(trainer.args.output_dir))
        sizes = accumulate(map(len, job.updates))
        self._epochs = [0.0, *(n / len(job.rows) for n in sizes)]  # passes over the examples, by update
        self._validation_steps = job.validation_steps()
        self._best: tuple[float, int] | None = None  # loss, update

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take up the lines in the checkpoint of a resumed run, or prepare for the first update and validate."""
        sharding.check_result(cast(torch.nn.Module, self._trainer.model))
        self._progress = Progress("finetune", "update", state.max_steps, state.global_step, self._quiet)
        checkpoint = self._checkpoints / f"checkpoint-{state.global_step}"
        lines = (checkpoint / METRICS_FILE).read_bytes().splitlines() if state.global_step else []
        self._best = best_validation(lines)
        if state.is_world_process_zero:
            replace_file(self._metrics, b"".join(line + b"\n" for line in lines))
        if not state.global_step:
            if self._job.settings.keep_optimizer and self._job.settings.init:
                load_state(cast(Optimizer, self._trainer.optimizer), Path(self._job.settings.init))
            self._validate(0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write the line of an update. Raises EexpError for a loss or a gradient that is not finite."""
        if not logs or "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):  # the next update would make NaN of all weights
            if not math.isfinite(logs.get(name, 0.0)):
                raise EexpError(
                    f"update {state.global_step}: the {name} is {logs[name]}; a lower --lr may help, or look at its "
                    f"examples: {self._examples_of(state.global_step)}"
                )
        if state.is_world_process_zero:
            self._append(
                {"step": state.global_step, **logs, **self._trainer.measures, "epoch": self._epochs[state.global_step]}
            )
            self._progress.advance(f"loss {logs['loss']:.3f}")
        self._validate(state.global_step)  # before the checkpoint of this update, so that none is without it

    def _examples_of(self, step: int) -> str:
        """Return the ids of an update's examples, the heaviest first."""
        rows = sorted((self._job.rows[i] for i in self._job.updates[step - 1]), key=lambda row: -abs(row.weight))
        ids = [short(name) for name in dict.fromkeys(row.id for row in rows)]
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        return ", ".join(ids[:_SHOWN_IDS]) + more

    def _append(self, line: dict) -> None:
        with open(self._metrics, "ab") as f:
            f.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def _validate(self, step: int) -> None:
        """Compute the validation losses after update `step`, if it is time for them; all processes take part."""
        if step not in self._validation_steps:
            return
        trainer, settings = self._trainer, self._job.settings
        sums = validation_losses(
            self._job.model,
            self._job.validation_rows,
            packing=settings.packing,
            tokens_per_batch=settings.tokens_per_batch,
            dtype=self._job.dtype,
            device=trainer.args.device,
            rank=trainer.args.process_index,
            processes=trainer.args.world_size,
        )
        losses = summary(add_sums(gather_object([sums])))
        if trainer.is_world_process_zero():
            self._append({"step": step, "epoch": self._epochs[step], "validation": losses})
        if trainer.args.report_to:
            spans = {f"eval_loss_{name}": span["loss"] for name, span in losses["spans"].items()}
            trainer.log({"eval_loss": losses["loss"], **spans})
        if settings.keep == "best" and step and (self._best is None or losses["loss"] < self._best[0]):
            self._best = losses["loss"], step
            trainer.save_model(str(self._checkpoints / f"best-{step}"))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Make a checkpoint whole, when all processes have written their files, and remove older ones."""
        self._trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            best = self._best if self._job.settings.keep == "best" else None
            best_weights = self._checkpoints / f"best-{best[1]}" if best else None
            seal_checkpoint(self._checkpoints / f"checkpoint-{state.global_step}", self._metrics, best_weights)
            remove_older(self._checkpoints)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remove the progress bar."""
        self._progress.close()
