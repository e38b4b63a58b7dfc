"""`eexp finetune`: LoRA or full fine-tuning on examples."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import click

from eexp.console.parameters import PATH, command_options, is_given, option, parameter
from eexp.errors import UsageError
from eexp.settings import FILE, REQUIRED, Word, prompt_style
from eexp.training.settings import OBJECTIVES, Settings, built_in_options, kind_of, own_options

_OUTPUT = option(REQUIRED, "-o", "--output", type=FILE, metavar="DIR").help(
    "Directory to save the adapter, or the model, in."
)
_VALIDATE = option(None, "--validate", type=FILE, multiple=True).help(
    "Examples of other trajectories, whose loss is computed at the start, after every epoch and at the "
    "end; can be repeated."
)
_DRY_RUN = option(False, "--dry-run").help(
    "Train nothing; print what would be computed, an estimate of the memory, and a few examples with "
    "their targets in [[ ]]."
)
_RESUME = option(False, "--resume").help("Continue from the last checkpoint in -o DIR.")
_ON_ERROR = option("stop", "--on-error", type=Word(["stop", "skip"])).help(
    "What to do with a bad record: end the run (exit code 3), or set it aside (exit code 4)."
)
_REJECTS = option(None, "--rejects", type=FILE).help(
    "Keep the records that are set aside here, as JSONL with the reason. Implies --on-error skip."
)
_QUIET = option(False, "-q", "--quiet").help("No summary and no progress bar on standard error.")
_PROMPT_STYLE = parameter(prompt_style("the built-in one that the examples name"))


class ObjectiveCommand(click.Command):
    """A command with `--objective`; one of another package brings its own options, once it is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for i, arg in enumerate(args):
            name, _, value = arg.partition("=")
            if name == "--objective":
                ctx.meta[name] = value or "".join(args[i + 1 : i + 2])
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        objective = ctx.meta.get("--objective")
        if objective in (None, *OBJECTIVES.built_in) or not OBJECTIVES.find(objective):
            return super().get_params(ctx)
        more = click.Command(None)
        for name, (_, own) in own_options(objective).items():
            parameter(own, name)(more)
        return [*super().get_params(ctx), *more.params]


@click.command("finetune", cls=ObjectiveCommand)
@command_options(
    Settings,
    after={
        "base": [_OUTPUT],
        "objective": [parameter(own, name) for name, (_, own) in built_in_options().items()],
        "gradient_checkpointing": [_VALIDATE],
        "save_every": [_DRY_RUN],
        "report_to": [_RESUME, _ON_ERROR, _REJECTS, _QUIET],
        "trust_remote_code": [_PROMPT_STYLE],
    },
)
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE]...")
def command(
    settings: Settings,
    output: str,
    validate: tuple[str, ...],
    dry_run: bool,
    resume: bool,
    on_error: str,
    rejects: str | None,
    quiet: bool,
    prompt_style: str | None,
    files: tuple[str, ...],
    **own: Any,
) -> None:
    """Train a LoRA adapter, or all weights, on examples.

    Supervised fine-tuning: the loss is the cross-entropy of completions only. Prefixes that examples share are computed
    once. Loss and gradient equal those of training on each example separately. DIR gets the weights, a model card, the
    settings (eexp.json) and the loss curve (metrics.jsonl). With --init, an adapter that was trained on world-model
    examples continues with imitation.

    With torchrun or accelerate launch, several processes train together (DDP or FSDP2). The result is the same, up to
    rounding.

    \b
    Example:
      eexp expert house -n 20 | eexp imitation-data > il.jsonl
      eexp finetune -m tiny -o il --max-steps 5 il.jsonl
    """
    from eexp.console.stream import Stream
    from eexp.prompts import get_style
    from eexp.records.runs import RUN_FILE, refuse_finished, refuse_missing
    from eexp.system.late import large_imports
    from eexp.system.terminal import show
    from eexp.training.distributed import process_count, process_rank
    from eexp.training.example_style import style_of_examples

    settings = replace(settings, own=_own_settings(settings.objective, own))
    if not resume and not dry_run:
        refuse_finished(output)  # PyTorch takes seconds to load
    record_types = kind_of(settings.objective).record_types
    is_first = process_rank() == 0  # of several processes; it alone writes messages
    if process_count() > 1 and (not files or "-" in files):
        raise UsageError("several processes cannot share standard input; give files")
    if not is_first:
        on_error, rejects, quiet = "skip" if rejects else on_error, None, True
    stream = Stream(
        files,
        None,
        on_error,
        rejects,
        quiet=quiet,
        types=record_types,
        reports_rejects=is_first,
        keep_rejects=resume and os.path.isdir(output),
    )
    stream.also_read, stream.resumable = list(validate), True
    if not is_given("base"):
        stream.stage = "finetune"
        stream.note("no -m and no EEXP_BASE: training the built-in tiny model, a base model for house only")
    style = get_style(prompt_style) if prompt_style else None
    held_out = None
    if validate:
        held_out = Stream(validate, quiet=quiet, types=record_types).open("finetune")
    elif settings.validate_every:
        raise UsageError("--validate-every says when to compute the loss on --validate FILE; give one")
    with stream.open("finetune") as io:
        records = io.records()
        first = list(islice(records, 1))
        if first:
            style_of_examples(first[0].get("prompt_style"), style)
        if not os.path.isfile(os.path.join(output, RUN_FILE)):  # a finished run needs no base
            refuse_missing(settings.base)
        # These import torch, which takes seconds; a command line or a first record that is wrong is refused before.
        with large_imports():
            from eexp.training.finetune import finetune, preview
            from eexp.training.job import ExampleSource

        settings = replace(settings, base=settings.base.removeprefix("hf:"))
        validation = ExampleSource(held_out.records(), held_out.fail) if held_out else None
        if dry_run:
            description = preview(chain(first, records), settings, io.fail, validation, style)
            if is_first:
                show(description)
            return
        run = finetune(
            chain(first, records),
            output,
            settings,
            resume=resume,
            progress=not quiet,
            note=io.note,
            on_error=io.fail,
            validation=validation,
            style=style,
        )
        io.counts.pop("out", None)
        summary = (
            f"{output}: {run['updates']} update{'s'[: run['updates'] > 1]}, "
            f"{run['trainable_parameters']:,} parameters, "
            f"{run['trained']['target_tokens']:,} target tokens, loss {run['final_loss']:.4f} on average"
        )
        if losses := run["final_validation"]:
            summary += f", validation loss {losses['loss']:.4f} after update {run['kept_step']}"
        io.note(summary)


def _own_settings(objective: str, values: dict[str, Any]) -> Any:
    """Return the own settings of an objective; raise UsageError if an option of another one is given."""
    own = own_options(objective)
    for taker in OBJECTIVES.built_in:
        for name in own_options(taker):
            if taker != objective and is_given(name):
                takers = f"--objective {taker}" if taker != "sft" else f"examples, not for --objective {objective}"
                raise UsageError(f"--{name.replace('_', '-')} is for {takers}")
    return kind_of(objective).settings(**{field: values[name] for name, (field, _) in own.items()})
