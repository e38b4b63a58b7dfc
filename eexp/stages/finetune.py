"""`eexp finetune`: LoRA or full fine-tuning on examples."""

from __future__ import annotations

import os
from itertools import chain, islice

import click

from eexp import options


@click.command("finetune")
@click.option(
    "-m",
    "--model",
    "base",
    type=options.PATH,
    metavar="MODEL",
    envvar="EEXP_BASE",
    show_envvar=True,
    help="Base model: a directory, a hub id (with or without hf:), or tiny. GGUF files cannot be trained.  "
    "[default: the built-in tiny model]",
)
@click.option(
    "-o", "--output", type=options.PATH, metavar="DIR", required=True, help="Where the adapter, or the model, is saved."
)
@click.option(
    "--init",
    type=options.PATH,
    metavar="DIR",
    help="Continue this PEFT adapter (world model first, then imitation).  [default: a new one]",
)
@click.option(
    "--keep-optimizer",
    is_flag=True,
    help="Save the averages of gradients that AdamW keeps, too, and begin with those of --init, where it has them: for "
    "training in rounds.",
)
@click.option("--full", is_flag=True, help="Train all weights instead of an adapter.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Type that is computed in, and that frozen weights are held in; what is trained is held in float32. auto is "
    "bfloat16 on a GPU that has it, else float32.",
)
@click.option(
    "--load-in-4bit",
    is_flag=True,
    help="Train the adapter on a base in 4 bits (QLoRA), on a GPU or a CPU; needs bitsandbytes.",
)
@click.option(
    "--epochs",
    type=options.Finite(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="N",
    help="Passes over the examples.",
)
@click.option(
    "--max-steps",
    type=click.IntRange(min=1),
    metavar="UPDATES",
    help="Stop after this many updates, whatever --epochs says.  [default: as --epochs says]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Examples in an update.  [default: whole trajectories, at least 4, with at least 16 examples; 16 "
    "with --shuffle examples]",
)
@click.option(
    "--batch-trajectories",
    type=click.IntRange(min=1),
    metavar="N",
    help="Whole trajectories in an update, with all their examples.  [default: as --batch-size says]",
)
@click.option(
    "--budget-like",
    type=options.PATH,
    metavar="DIR",
    help="Make as many updates, of as many target tokens, as the training run in DIR, whatever --epochs and "
    "--batch-size say; those that made --init count.",
)
@click.option(
    "--action-weight",
    type=options.Finite(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="X",
    help="Multiply the loss of an action that follows a thought in the same completion.",
)
@click.option(
    "--share",
    metavar="KIND=SHARE",
    multiple=True,
    callback=options.kind_shares,
    help="Weigh the examples of a kind so that they are this share of the loss, e.g. world_model=0.05; "
    "can be repeated.  [default: as the weights of the examples say]",
)
@click.option(
    "--objective",
    type=click.Choice(["sft", "dpo"]),
    default="sft",
    show_default=True,
    help="What is learned: the completions of examples (sft), or to prefer the chosen answers of preferences to the "
    "rejected ones (dpo), measured against the model as it is at the start.",
)
@click.option(
    "--beta",
    type=options.Finite(min=0, min_open=True),
    default=0.1,
    show_default=True,
    metavar="X",
    help="For --objective dpo: how much the log-ratio to the model at the start counts; more keeps closer to it.",
)
@click.option(
    "--sft-weight",
    type=options.Finite(min=0),
    default=None,
    metavar="X",
    help="For --objective dpo: add the loss per token of the examples among FILEs, times X; where there are none, that "
    "of the chosen answers.  [default: 1 with examples, else 0]",
)
@click.option(
    "--clip",
    type=options.Finite(min=0, max=1, min_open=True),
    metavar="X",
    help="For examples of `eexp policy-data`: leave a token alone once its probability has changed by this share since "
    "before the first update, in the direction that its weight asks for; 0.2 is usual.",
)
@click.option(
    "--tokens-per-batch",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    metavar="N",
    help="Tokens computed at once; fewer take less memory and give the same result.",
)
@click.option(
    "--packing",
    type=click.Choice(["tree", "none"]),
    default="tree",
    show_default=True,
    help="Compute the tokens that examples share once (tree), or pad examples side by side (none), which more "
    "models support; the result is the same.",
)
@click.option(
    "--shuffle",
    type=click.Choice(["trajectories", "examples"]),
    default="trajectories",
    show_default=True,
    help="What is shuffled every epoch. Examples of one trajectory share most tokens, and make updates less "
    "varied; single examples share fewer, and make them more varied.",
)
@click.option(
    "--lr",
    "learning_rate",
    type=options.Finite(min=0, min_open=True),
    metavar="RATE",
    help="Learning rate.  [default: 1e-4, with --full 1e-5]",
)
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "linear", "constant"]),
    default="cosine",
    show_default=True,
    help="Schedule of the learning rate after the warm-up.",
)
@click.option(
    "--warmup",
    type=options.Finite(0, 1),
    default=0.03,
    show_default=True,
    metavar="SHARE",
    help="Share of the updates in which the learning rate rises from 0.",
)
@click.option(
    "--weight-decay",
    type=options.Finite(min=0),
    default=0.0,
    show_default=True,
    metavar="X",
    help="Weight decay of the AdamW optimiser.",
)
@click.option(
    "--max-grad-norm",
    type=options.Finite(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="X",
    help="Shorten a longer gradient to this length.",
)
@click.option(
    "--rank", type=click.IntRange(min=1), default=16, show_default=True, metavar="N", help="Rank of a new adapter."
)
@click.option(
    "--alpha",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Scale a new adapter by alpha / rank.",
)
@click.option("--rslora", is_flag=True, help="Scale a new adapter by alpha / sqrt(rank) instead.")
@click.option(
    "--max-length",
    type=click.IntRange(min=2),
    metavar="TOKENS",
    help="Most tokens of an example; a longer one is a bad record.  [default: the model's context]",
)
@click.option(
    "--gradient-checkpointing",
    is_flag=True,
    help="Compute activations again in the backward pass: less memory, more time.",
)
@click.option(
    "--validate",
    type=options.PATH,
    metavar="FILE",
    multiple=True,
    help="Examples of other trajectories, whose loss is computed at the start, after every epoch and at the "
    "end; can be repeated.",
)
@click.option(
    "--validate-every",
    type=click.IntRange(min=1),
    metavar="UPDATES",
    help="Compute the loss on --validate this often.  [default: every epoch]",
)
@click.option(
    "--keep",
    type=click.Choice(["last", "best"]),
    default="last",
    show_default=True,
    help="Weights to save: the last, or those with the lowest loss on --validate.",
)
@click.option(
    "--save-every",
    type=click.IntRange(min=1),
    metavar="UPDATES",
    help="Write a checkpoint this often.  [default: every epoch]",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Train nothing; print what would be computed, an estimate of the memory, and a few examples with "
    "their targets in [[ ]].",
)
@click.option(
    "--report-to",
    type=click.Choice(["tensorboard", "wandb"]),
    help="Send the curves to this service, too; its package must be installed.",
)
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint in -o DIR.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What a bad record does: end the run (exit code 3), or be set aside (exit code 4).",
)
@click.option(
    "--rejects",
    type=options.PATH,
    metavar="FILE",
    help="Keep what was set aside here, as JSONL with the reason. Implies --on-error skip.",
)
@click.option("-q", "--quiet", is_flag=True, help="No summary and no progress bar on standard error.")
@options.trust_remote_code
@options.prompt_style("the built-in one that the examples name")
@options.seed
@click.argument("files", nargs=-1, type=options.PATH, metavar="[FILE]...")
def command(base, output, resume, dry_run, on_error, rejects, quiet, files, validate, prompt_style, **training) -> None:
    """Train a LoRA adapter, or all weights, on examples.

    The loss falls on completions alone. Loss and gradient are those of one example at a time; tokens that examples
    share are computed once. Weights, model card, settings (eexp.json) and loss curve (metrics.jsonl) are saved in DIR.
    With --init, an adapter trained on world-model examples continues with imitation.

    Several processes train together under torchrun or accelerate launch, to the same result.

    \b
    Example:
      eexp expert house -n 20 | eexp imitation-data > il.jsonl
      eexp finetune -m tiny -o il --max-steps 5 il.jsonl
    """
    from eexp.errors import UsageError
    from eexp.prompts import get_style
    from eexp.settings import is_given
    from eexp.stream import Stream
    from eexp.terminal import show
    from eexp.training.distributed import process_count, process_rank

    if training["objective"] != "dpo":
        for name in ("beta", "sft_weight"):
            if is_given(name):
                raise UsageError(f"--{name.replace('_', '-')} is for --objective dpo")
    record_types = {"sft": ["example"], "dpo": ["preference", "example"]}[training["objective"]]
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
    if base is None:
        base = "tiny"
        stream.stage = "finetune"
        stream.note("no -m and no EEXP_BASE: training the built-in tiny model, a base model for house only")
    style = get_style(prompt_style) if prompt_style else None
    held_out = None
    if validate:
        held_out = Stream(validate, quiet=quiet, types=record_types).open("finetune")
    elif training["validate_every"]:
        raise UsageError("--validate-every says when to compute the loss on --validate FILE; give one")
    with stream.open("finetune") as io:
        records = io.records()
        first = list(islice(records, 1))
        # These import torch, which takes seconds; a command line or a first record that is wrong is refused before.
        from eexp.training.finetune import finetune, preview
        from eexp.training.job import ExampleSource, Settings

        settings = Settings(base=base.removeprefix("hf:"), **training)
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
