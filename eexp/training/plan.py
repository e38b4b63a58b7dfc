"""The plan of a training run: its model, its examples as tokens, its updates, and the description in eexp.json."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import orjson
import peft
import torch
import transformers
from transformers import PreTrainedModel

from eexp import __version__
from eexp.errors import InputError, UsageError, short
from eexp.models.devices import device_name
from eexp.prompts import PromptStyle, built_in_style, built_in_styles
from eexp.spans import ACTION
from eexp.training import exact
from eexp.training.clipping import OwnRow, own_row
from eexp.training.data import Row, tokenize
from eexp.training.distributed import process_count
from eexp.training.examples import ExampleLog
from eexp.training.job import ExampleSource, Job, Settings
from eexp.training.model import check_packages, computed_dtype, open_model
from eexp.training.packing import PACKINGS, Packing
from eexp.training.preferences import AnswerRow, check_settings, paired, shares_of_loss, tokenize_pairs, units_of
from eexp.training.updates import (
    EXAMPLES,
    TRAJECTORIES,
    Updates,
    by_examples,
    by_targets,
    by_trajectories,
    distribute,
    loss_shares,
    set_shares,
    total_weight,
)
from eexp.weights import fingerprint_of_directory, read_run, resolve_base

_MAX_LINEAGES = 20  # in eexp.json and the model card
_DEFAULT_LENGTH = 8192  # tokens of an example, for a model that does not tell its context

Budget = tuple[int, int]  # updates, target tokens


def plan_job(
    source: ExampleSource, settings: Settings, validation: ExampleSource | None, style: PromptStyle | None
) -> Job:
    """Open the model, read all examples and decide the updates of a run; nothing is trained or written.

    Args:
        source: The examples to train on.
        settings: The run's settings.
        validation: Examples of other trajectories, to validate with.
        style: The prompt style that the examples were made with, for one that is not built in.

    Raises:
        UsageError: Settings exclude each other, or the model cannot learn these examples exactly.
        InputError: An example cannot be used (unless `on_error` takes it), or none is left.
        EexpError: The model cannot be loaded, a package is missing, or the memory does not suffice.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries warn about each other
    check_packages(settings)
    _check_batches(settings)
    if settings.objective == "dpo":
        check_settings(settings)
    if settings.keep == "best" and not validation:
        raise UsageError("--keep best goes by the losses on --validate FILE; give one")
    if settings.keep == "best" and settings.keep_optimizer:
        raise UsageError("--keep-optimizer goes on from the last update; it excludes --keep best")
    spent = _budget_spent(settings.init)
    budget = _budget_left(settings, spent)
    transformers.set_seed(settings.seed % 2**32)  # numpy's seeds are at most this large
    model, tokenizer, dtype = open_model(settings)
    log = ExampleLog()
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    max_length = settings.max_length or context or _DEFAULT_LENGTH

    def refuse(example: dict, error: InputError) -> None:
        log.discount(example)
        source.on_error(example, error)

    rows: list[Row]
    if settings.objective == "dpo":
        rows = list(tokenize_pairs(log.read(source), tokenizer, max_length, refuse))
    else:
        rows = list(tokenize(log.read(source), tokenizer, max_length, refuse, settings.action_weight))
        if settings.clip:
            rows = list(map(own_row, rows))
    weighted_rows = [row for row in rows if row.weight and row.n_targets]
    if not weighted_rows:
        raise InputError("no examples to train on" + (": all have weight 0" if rows else ""))
    if settings.clip and not any(isinstance(row, OwnRow) for row in weighted_rows):
        raise InputError("no examples of kind policy with a weight, which --clip is for (eexp policy-data)")
    style = _resolve_style(log.style, style)
    validation_log = log.for_validation()
    validation_rows: list[Row] = []
    if validation:
        all_rows = (
            tokenize_pairs(validation_log.read(validation), tokenizer, max_length, validation.on_error)
            if settings.objective == "dpo"
            else tokenize(validation_log.read(validation), tokenizer, max_length, validation.on_error)
        )
        validation_rows = [row for row in all_rows if row.weight and row.n_targets]
        if not validation_rows:
            raise InputError("no examples to validate with")
    exact.check(model, weighted_rows + validation_rows, settings.packing, dtype, settings.tokens_per_batch)
    if settings.packing == "tree":
        exact.prepare(model, weighted_rows + validation_rows, dtype, settings.tokens_per_batch)
    packing = PACKINGS[settings.packing]
    if settings.objective == "dpo":
        packing = paired(packing)
        units = units_of(weighted_rows)
        planned = _plan_updates([weighted_rows[unit[0]] for unit in units], settings, budget)
        updates = [[i for unit in update for i in units[unit]] for update in planned]
    else:
        updates = _plan_updates(weighted_rows, settings, budget)
    update_weight = None
    if settings.share:
        set_shares(weighted_rows, updates, settings.share)
        update_weight = total_weight(weighted_rows[i] for update in updates for i in update) / len(updates)
    run = _describe(settings, log, rows, weighted_rows, updates, packing, model, style)
    examples = [row for row in weighted_rows if not isinstance(row, AnswerRow)]
    if settings.objective == "dpo":
        if len(examples) == len(weighted_rows):
            raise InputError("no preferences to train on: --objective dpo needs some")
        of_kinds = loss_shares(examples, [list(range(len(examples)))], None) if examples else {}
        run["trained"]["shares"] = shares_of_loss(settings, of_kinds)
    else:
        run["trained"]["shares"] = loss_shares(weighted_rows, updates, update_weight)
    if settings.objective == "dpo" and settings.init:  # preferences do not say whether the agent thinks
        run["think"] = read_run(settings.init).get("think")
    run["validation"] = {**validation_log.counts(), **_token_counts(validation_rows)} if validation else None
    run["total"] = {"updates": spent[0] + len(updates), "target_tokens": spent[1] + run["trained"]["target_tokens"]}
    return Job(
        settings,
        model,
        tokenizer,
        weighted_rows,
        updates,
        run,
        dtype,
        packing,
        target_budget=budget[1] if budget else None,
        update_weight=update_weight,
        has_examples=bool(examples),
        validation_rows=validation_rows,
    )


def _resolve_style(label: str | None, style: PromptStyle | None) -> PromptStyle | None:
    """Return the prompt style of the examples.

    Args:
        label: The label that the examples have.
        style: The style given as --prompt-style; without it the label must be that of a built-in one.
    """
    if style:
        if label and label != style.label:
            hint = ""
            if style.name == label.partition("@")[0]:
                origin = "the built-in style" if label in map(_built_in_label, built_in_styles()) else "another style"
                hint = f", {origin} of that name: give your style another name, and make the examples with it"
            raise UsageError(f"--prompt-style is {style.label}, but the examples were made with {label}{hint}")
        return style
    if not label:
        return None
    try:
        return built_in_style(label)
    except (UsageError, InputError) as e:
        raise UsageError(
            f"the examples were made with prompt style {short(label)}: give its file as --prompt-style, so that "
            f"what is trained can be played with it ({e})"
        ) from None


def _built_in_label(name: str) -> str:
    return built_in_style(name).label


# -- updates -----------------------------------------------------------------------------------------------------------


def _check_batches(settings: Settings) -> None:
    if settings.batch_size and settings.batch_trajectories:
        raise UsageError("--batch-size and --batch-trajectories both say what an update is; give one")
    if settings.batch_trajectories and settings.shuffle == "examples":
        raise UsageError("--batch-trajectories keeps trajectories whole, and --shuffle examples does not; give one")


def _plan_updates(rows: list[Row], s: Settings, budget: Budget | None) -> Updates:
    if budget:
        return by_targets(rows, *budget, s.seed, s.shuffle, bool(s.share))
    if s.batch_size or s.shuffle == "examples":
        size = s.batch_size or EXAMPLES
        return by_examples(rows, size, s.epochs, s.max_steps, s.seed, s.shuffle, bool(s.share))
    if s.batch_trajectories:
        return by_trajectories(rows, s.batch_trajectories, s.epochs, s.max_steps, s.seed)
    return by_trajectories(rows, TRAJECTORIES, s.epochs, s.max_steps, s.seed, examples=EXAMPLES)


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
    settings: Settings,
    log: ExampleLog,
    rows: list[Row],
    weighted_rows: list[Row],
    updates: Updates,
    packing: Packing,
    model: PreTrainedModel,
    style: PromptStyle | None,
) -> dict[str, Any]:
    """Return what eexp.json says about a run before it starts.

    Args:
        log: The examples that were read.
        rows: All of them that could be used.
        weighted_rows: Those of them that have a weight; `updates` are indices into these.
    """
    base = resolve_base(settings.base)
    return {
        "eexp": __version__,
        "base": settings.base.removeprefix("hf:"),
        "base_fingerprint": fingerprint_of_directory(base) if os.path.isdir(base) else None,
        "init_fingerprint": fingerprint_of_directory(settings.init) if settings.init else None,
        "prompt_style": style and style.label,
        "style": style and orjson.loads(orjson.dumps(style.as_dict())),  # with lists, as when it is read again
        **_play_settings(weighted_rows),
        "settings": asdict(settings),
        "learning_rate": settings.resolved_learning_rate(),
        "data": {**log.counts(), "weight_0": len(rows) - len(weighted_rows), **_token_counts(weighted_rows)},
        "updates": len(updates),
        "trained": _computation(weighted_rows, updates, packing, settings),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
        "processes": process_count(),
        "device": device_name(),
        "dtype": str(computed_dtype(settings)).removeprefix("torch."),
        "lineage": log.lineages(_MAX_LINEAGES),
    }


def _play_settings(rows: list[Row]) -> dict[str, Any]:
    """Return how the trained model should be played: whether it thinks, and the tokens that each kind needs."""
    acting = [row for row in rows if any(segment.name == ACTION for segment in row.segments)]
    think = ("always" if any(row.thought for row in acting) else "never") if acting else None
    longest: dict[str, int] = {}
    for row in rows:
        longest[row.kind] = max(longest.get(row.kind, 0), row.n_completion)
    return {"think": think, "longest_completion": longest}


def _token_counts(rows: Iterable[Row]) -> dict[str, int]:
    rows = list(rows)
    return {"tokens": sum(len(row.ids) for row in rows), "target_tokens": sum(row.n_targets for row in rows)}


def _computation(rows: list[Row], updates: Updates, packing: Packing, settings: Settings) -> dict[str, Any]:
    """Return counts over the whole run.

    They are: examples; tokens and target tokens with every example by itself; tokens that are computed; passes through
    the model, and the tokens of the largest.
    """
    sizes = [
        packing.size(part)
        for update in updates
        for parts in distribute([rows[i] for i in update], packing, settings.tokens_per_batch, process_count())
        for part in parts
    ]
    return {
        "examples": sum(map(len, updates)),
        **_token_counts(rows[i] for update in updates for i in update),
        "computed_tokens": sum(sizes),
        "passes": len(sizes),
        "largest_pass": max(sizes),
    }
