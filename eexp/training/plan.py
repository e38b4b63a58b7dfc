"""The plan of a training run: its model, its examples as tokens, its updates, and the description in eexp.json."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import orjson
import peft
import torch
import transformers

from eexp import __version__
from eexp.errors import InputError, UsageError
from eexp.models.devices import device_name
from eexp.prompts import PromptStyle
from eexp.records.runs import fingerprint_of_directory, read_run, resolve_base
from eexp.training import exact
from eexp.training.data import Row
from eexp.training.distributed import process_count
from eexp.training.example_log import ExampleLog
from eexp.training.example_style import style_of_examples
from eexp.training.job import ExampleSource, Job
from eexp.training.model import check_packages, open_model
from eexp.training.objectives.base import Objective, open_objective
from eexp.training.packing import open_packing
from eexp.training.settings import Settings
from eexp.training.updates import (
    EXAMPLES,
    TRAJECTORIES,
    Updates,
    by_examples,
    by_mini_batches,
    by_targets,
    by_trajectories,
    distribute,
    set_shares,
    total_weight,
)

_MAX_LINEAGES = 20  # in eexp.json and the model card
_DEFAULT_LENGTH = 8192  # tokens of an example, for a model that does not tell its context

Budget = tuple[int, int]  # updates, target tokens


def plan_job(
    source: ExampleSource, settings: Settings, validation: ExampleSource | None, style: PromptStyle | None
) -> Job:
    """Open the model, read all examples and decide the updates of a run; nothing is trained or written.

    Args:
        validation: Examples of other trajectories, to validate with.
        style: The prompt style that the examples were made with, for one that is not built in.

    Raises:
        UsageError: Settings exclude each other, or the model cannot learn these examples exactly.
        InputError: An example cannot be used (unless `on_error` takes it), or none is left.
        EexpError: The model cannot be loaded, a package is missing, or the memory does not suffice.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries warn about each other
    check_packages(settings)
    objective = open_objective(settings)
    _check_settings(settings, objective, validation is not None)
    spent = _budget_spent(settings.init)
    budget = _budget_left(settings, spent)
    transformers.set_seed(settings.seed % 2**32)  # numpy's seeds are at most this large
    model, tokenizer, dtype = open_model(settings)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = settings.max_length or context or _DEFAULT_LENGTH
    rows_of = partial(objective.rows, tokenizer=tokenizer, max_length=longest)
    log = ExampleLog(given_style=style)
    rows, weightless = _training_rows(source, log, rows_of)
    objective.check_rows(rows)
    style = style_of_examples(log.style, style)
    validation_log = log.for_validation()
    validation_rows = _validation_rows(validation, validation_log, rows_of) if validation else []
    exact.check(model, rows + validation_rows, settings.packing, dtype, settings.tokens_per_batch)
    if settings.packing == "tree":
        exact.prepare(model, rows + validation_rows, dtype, settings.tokens_per_batch)
    updates = _plan_updates(rows, objective.units(rows), settings, budget)
    update_weight = _weigh_kinds(rows, updates, settings.share)
    job = Job(
        settings,
        objective,
        model,
        tokenizer,
        dtype,
        rows,
        updates,
        objective.packing(open_packing(settings.packing, settings.gradient_checkpointing)),
        target_budget=budget[1] if budget else None,
        update_weight=update_weight,
        validation_rows=validation_rows,
    )
    job.run = _describe(job, style, log, weightless, validation_log if validation else None, spent)
    return job


def _check_settings(settings: Settings, objective: Objective, has_validation: bool) -> None:
    """Raise UsageError for settings that exclude each other, or the objective."""
    sizes = ("batch_size", "batch_trajectories", "mini_batches")
    given = ["--" + name.replace("_", "-") for name in sizes if getattr(settings, name)]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} both say what an update is; give one")
    if settings.shuffle == "examples" and given and not settings.batch_size:
        raise UsageError(f"{given[0]} keeps trajectories whole, and --shuffle examples does not; give one")
    objective.check_settings()
    if settings.keep == "best" and not has_validation:
        raise UsageError("--keep best goes by the losses on --validate FILE; give one")
    if settings.keep == "best" and settings.keep_optimizer:
        raise UsageError("--keep-optimizer goes on from the last update; it excludes --keep best")


# -- rows --------------------------------------------------------------------------------------------------------------


def _training_rows(
    source: ExampleSource, log: ExampleLog, rows_of: Callable[..., Iterator[Row]]
) -> tuple[list[Row], int]:
    """Return the rows of the examples to train on, and the number of rows that are left out since they have no weight.

    Raises InputError if no row is left.
    """

    def refuse(example: dict, error: InputError) -> None:
        log.discount(example)
        source.on_error(example, error)

    all_rows = list(rows_of(log.read(source), on_error=refuse))
    rows = _with_weight(all_rows)
    if not rows:
        raise InputError("no examples to train on" + (": all have weight 0" if all_rows else ""))
    return rows, len(all_rows) - len(rows)


def _validation_rows(validation: ExampleSource, log: ExampleLog, rows_of: Callable[..., Iterator[Row]]) -> list[Row]:
    """Return the rows of the examples to validate with. Raises InputError if there is none that has a weight."""
    rows = _with_weight(rows_of(log.read(validation), on_error=validation.on_error))
    if not rows:
        raise InputError("no examples to validate with")
    return rows


def _with_weight(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.weight and row.n_targets]


# -- updates -----------------------------------------------------------------------------------------------------------


def _plan_updates(rows: list[Row], units: list[list[int]], settings: Settings, budget: Budget | None) -> Updates:
    """Return the updates of a run, indices into `rows`.

    Args:
        units: The indices of rows that stay together; the first of them stands for all.
        budget: The updates and target tokens to make; None for those that the settings ask for.
    """
    updates = _updates_of_units([rows[unit[0]] for unit in units], settings, budget)
    return [[i for unit in update for i in units[unit]] for update in updates]


def _updates_of_units(rows: list[Row], s: Settings, budget: Budget | None) -> Updates:
    """Return the updates of a run, indices into its units, each of which one row stands for."""
    if budget:
        return by_targets(rows, *budget, s.seed, s.shuffle, bool(s.share))
    if s.batch_size or s.shuffle == "examples":
        size = s.batch_size or EXAMPLES
        return by_examples(rows, size, s.epochs, s.max_steps, s.seed, s.shuffle, bool(s.share))
    if s.mini_batches:
        return by_mini_batches(rows, s.mini_batches, s.epochs, s.max_steps, s.seed)
    if s.batch_trajectories:
        return by_trajectories(rows, s.batch_trajectories, s.epochs, s.max_steps, s.seed)
    return by_trajectories(rows, TRAJECTORIES, s.epochs, s.max_steps, s.seed, examples=EXAMPLES)


def _weigh_kinds(rows: list[Row], updates: Updates, shares: Mapping[str, float] | None) -> float | None:
    """Give each kind in `shares` its share of the loss; return what the losses of every update are divided by.

    Without shares the rows stay as they are, and the result is None: each update is divided by its own weight.
    """
    if not shares:
        return None
    set_shares(rows, updates, shares)
    return total_weight(rows[i] for update in updates for i in update) / len(updates)


def _budget_spent(init: str | None) -> Budget:
    """Return the updates and target tokens that the adapter to continue was trained with; 0 where it does not say."""
    total = (read_run(init).get("total") if init else None) or {}
    return total.get("updates", 0), total.get("target_tokens", 0)


def _budget_left(settings: Settings, spent: Budget) -> Budget | None:
    """Return the updates and target tokens that are left of those of the run named by --budget-like.

    Updates that made --init count. Each that is left has as many target tokens as one of that run, on average: a world
    model may have had more of them in its epoch than imitation ever takes.
    """
    if not settings.budget_like:
        return None
    if settings.max_steps:
        raise UsageError("--budget-like and --max-steps both say how many updates to make; give one")
    for run in filter(None, (settings.budget_like, settings.init)):
        if not {"updates", "target_tokens"} <= (read_run(run).get("total") or {}).keys():
            raise UsageError(f"{run}: holds no finished training run that says what it was trained on")
    total = read_run(settings.budget_like)["total"]
    updates_left = total["updates"] - spent[0]
    if updates_left <= 0:
        raise UsageError(
            f"--budget-like {settings.budget_like}: it was made in {total['updates']} updates, and --init "
            f"{settings.init} in {spent[0]}; none is left"
        )
    return updates_left, round(total["target_tokens"] * updates_left / total["updates"])


# -- the description ---------------------------------------------------------------------------------------------------


def _describe(
    job: Job,
    style: PromptStyle | None,
    log: ExampleLog,
    weightless: int,
    validation_log: ExampleLog | None,
    spent: Budget,
) -> dict[str, Any]:
    """Return what eexp.json says about a run before it starts.

    Args:
        log: The examples to train on.
        weightless: The number of rows that are left out since they have no weight.
        validation_log: The examples to validate with; None for a run without.
        spent: The updates and target tokens that `init` was trained with.
    """
    settings, rows, trained = job.settings, job.rows, _computation(job)
    base = resolve_base(settings.base)
    return {
        "eexp": __version__,
        "base": settings.base.removeprefix("hf:"),
        "base_fingerprint": fingerprint_of_directory(base) if os.path.isdir(base) else None,
        "init_fingerprint": fingerprint_of_directory(settings.init) if settings.init else None,
        "prompt_style": style and style.label,
        "style": style and orjson.loads(orjson.dumps(style.as_dict())),  # with lists, as when it is read again
        "think": job.objective.think(rows),
        "longest_completion": _longest_completions(rows),
        "settings": settings.as_dict(),
        "learning_rate": settings.resolved_learning_rate(),
        "data": {**log.counts(), "weight_0": weightless, **_token_counts(rows)},
        "updates": len(job.updates),
        "trained": {**trained, "shares": job.objective.loss_shares(rows, job.updates, job.update_weight)},
        "trainable_parameters": sum(p.numel() for p in job.model.parameters() if p.requires_grad),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
        "processes": process_count(),
        "device": device_name(),
        "dtype": str(job.dtype).removeprefix("torch."),
        "lineage": log.lineages(_MAX_LINEAGES),
        "validation": {**validation_log.counts(), **_token_counts(job.validation_rows)} if validation_log else None,
        "total": {"updates": spent[0] + len(job.updates), "target_tokens": spent[1] + trained["target_tokens"]},
    }


def _longest_completions(rows: list[Row]) -> dict[str, int]:
    """Return the tokens of the longest completion of each kind."""
    longest: dict[str, int] = {}
    for row in rows:
        longest[row.kind] = max(longest.get(row.kind, 0), row.n_completion)
    return longest


def _token_counts(rows: Iterable[Row]) -> dict[str, int]:
    rows = list(rows)
    return {"tokens": sum(len(row.ids) for row in rows), "target_tokens": sum(row.n_targets for row in rows)}


def _computation(job: Job) -> dict[str, int]:
    """Return counts over the whole run.

    They are: examples; tokens and target tokens with every example by itself; tokens that are computed; passes through
    the model, and the tokens of the largest.
    """
    rows, budget = job.rows, job.settings.tokens_per_batch
    sizes = [
        job.packing.size(part)
        for update in job.updates
        for parts in distribute([rows[i] for i in update], job.packing, budget, process_count())
        for part in parts
    ]
    return {
        "examples": sum(map(len, job.updates)),
        **_token_counts(rows[i] for update in job.updates for i in update),
        "computed_tokens": sum(sizes),
        "passes": len(sizes),
        "largest_pass": max(sizes),
    }
