"""`eexp reflect`: state -> reflection + expert action (Early Experience, self-reflection)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import click

from eexp import options
from eexp.errors import InputError
from eexp.models.base import Engine, Model
from eexp.prompts import PromptStyle
from eexp.reflection import guards
from eexp.reflection.drafts import RULES, Count, Writing
from eexp.reflection.verification import verify_drafts
from eexp.reflection.writing import Skip, write_drafts
from eexp.stream import OnError, stop_at_error

_DEFAULT = Writing()


def _nothing(record: dict, error: InputError) -> None:
    """Forget a text that was refused."""


def reflect(
    trajectories: Iterator[dict],
    style: PromptStyle,
    writer: Model | None = None,
    writing: Writing = _DEFAULT,
    scorer: Model | None = None,
    *,
    skip: Skip = lambda record_id: False,
    count: Count = lambda what, n=1: None,
    keep: OnError = _nothing,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield one example for every state that there is something to reason about.

    Args:
        trajectories: Trajectories with outcomes.
        style: The prompt style of the request and of the examples.
        writer: The model that writes; None where reflections are composed by rule.
        writing: How they are written.
        scorer: Verifies them (`verification.verify_drafts`); None leaves that out.
        skip: Tells which example ids an earlier run has written.
        count: Is told what was left out and refused.
        keep: Is given the texts that were refused, where the state is not set aside because of them.
        on_error: Is given the states that are set aside because no text could be used.
    """
    drafts_of_each = write_drafts(trajectories, style, writer, writing, skip, count)
    for drafts in verify_drafts(drafts_of_each, scorer, style) if scorer else drafts_of_each:
        for draft in drafts:
            if not draft.skipped and draft.report(count, keep, on_error):
                yield draft.example(style, writing.kind)


@click.command("reflect")
@options.model(
    "Writes the reflections; `eexp --help` lists what MODEL may be.  [default: none, they are composed by rule]",
    max_tokens=_DEFAULT.max_tokens,
    temperature=_DEFAULT.temperature,
)
@click.option(
    "--rationale",
    type=click.Choice(["model", "outcome", "environment"]),
    help="Who writes: the model; a rule that composes the recorded outcomes; or a rule that starts from what the "
    "environment says is known and still needed.  [default: the model if there is one, else outcome]",
)
@click.option(
    "--weigh",
    type=click.IntRange(min=0),
    default=_DEFAULT.weigh,
    show_default=True,
    metavar="N",
    help="How many contenders a composed reflection weighs at most. With 0, states without one get a reflection, too.",
)
@click.option(
    "--no-outcomes",
    is_flag=True,
    help="The model writes a thought and an action of its own, from the state alone. Needs --keep-matching.",
)
@click.option(
    "--keep-matching",
    is_flag=True,
    help="With --no-outcomes: keep a thought only if the expert's action follows it (STaR). The examples are of kind "
    "rationale.",
)
@click.option(
    "--verify",
    metavar="MODEL",
    shell_complete=options.complete_model,
    help="Keep a reflection only if it makes the expert's action more probable to this model than it is without a "
    "thought, and more probable than every contender. Give the policy that will be trained, or the writer.  "
    "[default: none]",
)
@options.alternatives()
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=_DEFAULT.retries,
    show_default=True,
    metavar="N",
    help="How often a text that a guard refuses is drawn again.",
)
@click.option(
    "--no-guard",
    type=click.Choice([*guards.NAMES, "all"]),
    multiple=True,
    help="A guard to leave out. Can be given several times.",
)
@click.option(
    "--min-words",
    type=click.IntRange(min=0),
    default=_DEFAULT.guards.min_words,
    show_default=True,
    metavar="N",
    help="Shortest text, in words.",
)
@click.option(
    "--max-words",
    type=click.IntRange(min=1),
    default=_DEFAULT.guards.max_words,
    show_default=True,
    metavar="N",
    help="Longest text, in words.",
)
@options.prompt_style()
@options.seed
@options.streams("trajectory", resume=True)
def command(
    model,
    engine,
    rationale,
    no_outcomes,
    keep_matching,
    verify,
    no_guard,
    min_words,
    max_words,
    prompt_style,
    stream,
    **writing_options,
) -> None:
    """Make training examples that reason towards the expert's action.

    Reads trajectories with outcomes, as `eexp rollout` writes them. What an action led to appears in a reflection as an
    expectation only. Alternatives that did as well as the expert's action are never argued against. `reflection_by` in
    each example says who wrote it.

    \b
    Example:
      eexp expert house -n 20 | eexp branch | eexp rollout | eexp reflect > sr.jsonl
    """
    from tqdm import tqdm

    stream.stage = "reflect"
    rationale = _who_writes(rationale, model, no_outcomes, keep_matching, stream.note)
    in_use = guards.Guards.without(no_guard, min_words, max_words)
    writing = Writing(rationale, guards=in_use, **writing_options)
    with ExitStack() as models:
        writer, scorer = _open(models, model if writing.by_model else None, verify, engine, stream.note)
        settings = {"model": writer and writer.fingerprint, "verify": scorer and scorer.fingerprint}
        policy = scorer or (writer if rationale == "own" else None)
        style = options.chosen_style(prompt_style, policy.played.style if policy else None, stream.note)
        settings |= {"prompt_style": style.label, "seed": writing.seed, **writing.settings()}
        with stream.open("reflect", "trajectory", **settings) as io:
            records = io.records(skip_done=False)
            report = {"skip": io.done, "count": io.count, "keep": io.keep, "on_error": io.fail}
            examples = reflect(records, style, writer, writing, scorer, **report)
            for record in tqdm(examples, disable=None, unit="state", leave=False):
                io.write(record)
            for used in {id(used): used for used in (writer, scorer) if used}.values():
                io.counts.update(used.counts)


def _who_writes(
    rationale: str | None, model: str | None, no_outcomes: bool, keep_matching: bool, note: Callable[[str], None]
) -> str:
    """Return `Writing.rationale` for what the command line asks."""
    if no_outcomes != keep_matching:
        raise click.UsageError("--no-outcomes and --keep-matching belong together: give both")
    if no_outcomes and rationale in RULES:
        raise click.UsageError(f"--no-outcomes needs a model that writes, not --rationale {rationale}")
    if (no_outcomes or rationale == "model") and not model:
        raise click.UsageError(
            f"{'--no-outcomes' if no_outcomes else '--rationale model'} needs -m MODEL or EEXP_MODEL"
        )
    if no_outcomes:
        return "own"
    if rationale is None and not model:
        note("no -m and no EEXP_MODEL: reflections are composed by rule from the outcomes (--rationale outcome)")
    return rationale or ("model" if model else "outcome")


def _open(
    models: ExitStack, writer: str | None, scorer: str | None, engine: Engine, note: Callable[[str], None]
) -> tuple[Model | None, Model | None]:
    """Open the model that writes and the one that verifies, once where they are the same."""
    opened = {
        spec: models.enter_context(options.open_writer(spec, engine, note))
        for spec in dict.fromkeys([writer, scorer])
        if spec
    }
    verifier = opened.get(scorer)
    if verifier and not verifier.exact:
        raise click.UsageError(
            f"--verify {scorer}: a server cannot score texts; give a model that runs in this process"
        )
    return opened.get(writer), verifier
