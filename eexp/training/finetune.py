"""Fine-tuning on completions, with transformers' Trainer and PEFT.

The loss of an update is the weighted mean of the cross-entropy of its target tokens. It is the same, and so is its
gradient, as with one example at a time. Shared prefixes (trie.py), gradient accumulation and the number of processes
do not change them.

The files beside the weights say how they were made: resolved settings, versions, data fingerprint, prompt style and
lineage in `eexp.json`, the loss curve in `metrics.jsonl`, and all of it for a person in `README.md`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import cast

import orjson
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.optim import Optimizer
from transformers import Trainer

from eexp.errors import UsageError
from eexp.prompts import PromptStyle
from eexp.records.callbacks import OnError, stop_at_error
from eexp.records.runs import RUN_FILE, read_run, refuse_finished, resolve_base
from eexp.system.locks import DirectoryLock
from eexp.training import memory
from eexp.training.card import model_card
from eexp.training.files import replace_file, unify_modes, write_errors
from eexp.training.job import ExampleSource, Job
from eexp.training.metrics import best_validation, mean_loss, validation_summaries
from eexp.training.model import experts_warning
from eexp.training.optimizer import OPTIMIZER_FILE, save_state
from eexp.training.plan import plan_job
from eexp.training.preview import describe
from eexp.training.references import target_logprobs
from eexp.training.resume import (
    METRICS_FILE,
    check_finished_run,
    check_same_examples,
    choose_checkpoint,
    prepare_checkpoints,
)
from eexp.training.settings import Settings
from eexp.training.trainer import make_trainer, training_arguments


def finetune(
    examples: Iterable[dict],
    output: str | os.PathLike,
    settings: Settings,
    *,
    resume: bool = False,
    progress: bool = False,
    note: Callable[[str], None] = lambda text: None,
    on_error: OnError = stop_at_error,
    validation: ExampleSource | None = None,
    style: PromptStyle | None = None,
) -> dict:
    """Train on examples, and save the adapter (or the model) in a directory.

    Args:
        examples: The examples to train on; all are read before the first update.
        resume: Continue from the last checkpoint in `output`, to the weights that the uninterrupted run would have had.
        progress: Show a progress bar on standard error.
        note: Called with messages for a person.
        on_error: Called with an example that cannot be trained on.
        validation: Examples of other trajectories, whose losses are followed.
        style: The prompt style that the examples were made with, for one that is not built in.

    Returns:
        The contents of eexp.json.

    Raises:
        InputError: The examples cannot be trained on.
        UsageError: Settings exclude each other, or `output` holds another run.
        EexpError: Another process is training in `output`, or the run fails.
    """
    directory, source = Path(output), ExampleSource(examples, on_error)
    with DirectoryLock(output) as own:
        if (directory / RUN_FILE).is_file():
            if not resume:
                refuse_finished(directory)
            check_finished_run(directory, settings, source, validation, style)
            shutil.rmtree(directory / "checkpoints", ignore_errors=True)  # left by a kill while they were removed
            note(f"{directory} is finished already")
            return read_run(directory)
        for source_directory in filter(None, (resolve_base(settings.base), settings.init)):
            if os.path.isdir(source_directory) and os.path.realpath(source_directory) == os.path.realpath(directory):
                raise UsageError(f"{directory} is both read and written; give another -o")
        job = plan_job(source, settings, validation, style)
        warnings = (
            memory.shortage_warning(memory.estimate_job(job), settings.tokens_per_batch),
            job.budget_warning(),
            job.imagined_warning(),
            experts_warning(job.model),
        )
        for warning in filter(None, warnings):
            note(warning)
        _train(job, directory, own, resume, progress, note)
    return job.run


def preview(
    examples: Iterable[dict],
    settings: Settings,
    on_error: OnError = stop_at_error,
    validation: ExampleSource | None = None,
    style: PromptStyle | None = None,
) -> str:
    """Return what `finetune` would do, for a person: updates, tokens, memory, and a few examples with their targets.

    Arguments and errors are those of `finetune`.
    """
    job = plan_job(ExampleSource(examples, on_error), settings, validation, style)
    description = describe(job.tokenizer, job.rows, job.run, memory.estimate_job(job))
    return "\n".join(filter(None, (job.budget_warning(), job.imagined_warning(), description)))


def _train(
    job: Job, directory: Path, own: DirectoryLock, resume: bool, progress: bool, note: Callable[[str], None]
) -> None:
    """Make the updates of a job and save the weights; every process that trains along calls this."""
    checkpoints = directory / "checkpoints"
    arguments = training_arguments(job, checkpoints)
    check_same_examples(job.run)
    checkpoint = None
    with write_errors(directory):
        if arguments.process_index == 0:
            if own.create() and (directory / RUN_FILE).is_file():
                raise UsageError(f"{directory} holds a run that has finished meanwhile; give another -o")
            prepare_checkpoints(checkpoints, job.run, resume, directory)
            checkpoint = choose_checkpoint(checkpoints, note)
        (checkpoint,) = broadcast_object_list([checkpoint])  # the first process looks, for all
        trainer = make_trainer(job, arguments, directory / METRICS_FILE, progress)
        init = job.settings.init
        if job.settings.keep_optimizer and init and not (Path(init) / OPTIMIZER_FILE).is_file():
            note(f"{init} has no {OPTIMIZER_FILE}: the optimiser begins anew")
        logprobs_of = partial(
            target_logprobs, job, device=arguments.device, rank=arguments.process_index, processes=arguments.world_size
        )
        job.objective.prepare(job.rows, logprobs_of)  # before the weights of a checkpoint are loaded
        with memory.freed_memory(kept=memory.has_plenty(memory.estimate_job(job))):
            trainer.train(resume_from_checkpoint=checkpoint)
        _wait_for_all()
        _add_results(job, directory)
        _save(trainer, job, directory)
        if arguments.process_index == 0:
            shutil.rmtree(checkpoints)
        _wait_for_all()  # a launcher may end the other processes when the first one exits


def _wait_for_all() -> None:
    """Wait until all processes that train together have come here."""
    PartialState().wait_for_everyone()


def _add_results(job: Job, directory: Path) -> None:
    """Add the final losses, and the update whose weights are kept, to the contents of eexp.json."""
    lines = (directory / METRICS_FILE).read_bytes().splitlines()
    best = best_validation(lines)
    kept_step = best[1] if best and job.settings.keep == "best" else len(job.updates)
    job.run |= {
        "final_loss": mean_loss(lines),
        "kept_step": kept_step,
        "final_validation": validation_summaries(lines).get(kept_step),
    }


def _save(trainer: Trainer, job: Job, directory: Path) -> None:
    """Write the weights and the files beside them; eexp.json comes last, so a run that has one is finished."""
    best = directory / "checkpoints" / f"best-{job.run['kept_step']}"
    if job.settings.keep == "last":
        trainer.save_model(str(directory))  # in all processes, each of which may hold a part of the weights
    if not trainer.is_world_process_zero():
        return
    if job.settings.keep == "best":
        shutil.copytree(best, directory, dirs_exist_ok=True)
    if job.settings.keep_optimizer:
        save_state(cast(Optimizer, trainer.optimizer), directory)
    _sort_adapter_config(directory / "adapter_config.json")
    (directory / "training_args.bin").unlink(missing_ok=True)  # eexp.json has the same settings, readable
    unify_modes(directory)
    job.tokenizer.save_pretrained(directory)
    replace_file(directory / "README.md", model_card(job.run).encode())
    replace_file(directory / RUN_FILE, orjson.dumps(job.run, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _sort_adapter_config(file: Path) -> None:
    """Write the modules of an adapter in order; PEFT keeps them in sets, whose order depends on PYTHONHASHSEED."""
    if not file.is_file():
        return
    config = orjson.loads(file.read_bytes())
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key].sort()
    replace_file(file, orjson.dumps(config, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
