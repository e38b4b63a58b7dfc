"""`eexp reflect`: state -> reflection + expert action (Early Experience, self-reflection)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import click

from eexp import options
from eexp.contenders import situations
from eexp.drafts import Count, Draft, Writing, acting_prompt
from eexp.errors import InputError
from eexp.jsonl import OnError, stop_at_error
from eexp.models.base import Draw, Model
from eexp.prompts import PromptStyle, guards
from eexp.prompts.rationale import without_notes
from eexp.records import example

Skip = Callable[[str], bool]

_DEFAULT = Writing()


def _nothing(record: dict, error: InputError) -> None:
    """Forget a text that was refused."""


def reflect(
    trajectories: Iterator[dict],
    style: PromptStyle,
    writer: Model | None = None,
    writing: Writing = _DEFAULT,
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
        skip: Tells which example ids an earlier run has written.
        count: Is told what was left out and refused.
        keep: Is given the texts that were refused where another one was accepted.
        on_error: Is given the states for which no text could be used.
    """
    for drafts in _written(trajectories, style, writer, writing, skip, count):
        for draft in drafts:
            if not draft.skipped and _accepted(draft, writing, count, keep, on_error):
                yield _example(draft, style, writing.kind)


def _accepted(draft: Draft, writing: Writing, count: Count, keep: OnError, on_error: OnError) -> bool:
    """Whether there is a reflection; reports what was refused on the way."""
    situation = draft.situation
    for what, n in draft.counts.items():
        count(what, n)
    where = f"$.steps[{situation.i}]"
    if draft.error and writing.kind == "reflection":
        on_error(situation.trajectory, draft.error.at(where))
    elif draft.error:
        count("states without a matching action", 1)
    if draft.refused and (not draft.error or writing.kind != "reflection"):
        refused = InputError(f"{len(draft.refused)} texts refused or cut", where, {"texts": draft.refused})
        keep({"type": "trajectory", "id": situation.trajectory["id"]}, refused)
    return not draft.error


def _written(
    trajectories: Iterator[dict], style: PromptStyle, writer: Model | None, writing: Writing, skip: Skip, count: Count
) -> Iterator[list[Draft]]:
    """Yield the drafts of each trajectory, written."""
    if writer is None:
        for trajectory in trajectories:
            yield _composed(_drafts(trajectory, writing, skip, count), writing)
        return
    in_flight: deque[list[Draft]] = deque()  # read, and not answered yet

    def groups() -> Iterator[list[Draw]]:
        for trajectory in trajectories:
            drafts = _drafts(trajectory, writing, skip, count)
            if not all(draft.skipped for draft in drafts):
                in_flight.append(drafts)
                # The skipped ones are asked, too: what shares a batch is then the same as before the interruption.
                yield [draft.request(style, writing, writer) for draft in drafts]

    for answers in writer.answer(groups()):
        drafts = in_flight.popleft()
        for draft, answer in zip(drafts, answers):
            draft.settle(answer, writing.kind)
        yield drafts


def _composed(drafts: list[Draft], writing: Writing) -> list[Draft]:
    """Return the drafts with their texts; one with the error where the whole trajectory has no notes."""
    for draft in drafts:
        draft.compose(writing)
        if draft.error:
            return [draft]
    return drafts


def _drafts(trajectory: dict, writing: Writing, skip: Skip, count: Count) -> list[Draft]:
    """Return a draft for every state that gets a reflection; the others are counted."""
    drafts = []
    for situation in situations(trajectory, writing.pool, writing.first, writing.needs_contenders):
        skipped = skip(f"{trajectory['id']}/{situation.i}/{writing.kind}")
        left_out = situation.left_out or (writing.rationale == "environment" and without_notes(situation))
        if not left_out:
            drafts.append(Draft(situation, skipped))
        elif not skipped:
            count(left_out, 1)
        if situation.as_good and not skipped:
            count("alternatives left out that did as well", situation.as_good)
    return drafts


def _example(draft: Draft, style: PromptStyle, kind: str) -> dict:
    situation = draft.situation
    target = style.answer(situation.step["action"], draft.text)
    return example(
        situation.trajectory,
        f"{situation.i}/{kind}",
        kind,
        acting_prompt(style, situation, think=True),
        target.messages(),
        style.label,
        spans=target.spans,
        reflection_by=draft.author,
        **draft.more,
    )


@click.command("reflect")
@options.model(
    "Writes the reflections; `eexp --help` lists what MODEL may be.  [default: none, they are composed by rule]",
    max_tokens=256,
    temperature=0.7,
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
    default=1,
    show_default=True,
    metavar="N",
    help="How many contenders a composed reflection weighs at most. With 0, states without one get a reflection, too.",
)
@options.alternatives
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    default=3,
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
    default=5,
    show_default=True,
    metavar="N",
    help="Shortest text, in words.",
)
@click.option(
    "--max-words",
    type=click.IntRange(min=1),
    default=150,
    show_default=True,
    metavar="N",
    help="Longest text, in words.",
)
@options.prompt_style()
@options.seed
@options.streams("trajectory", resume=True)
def command(model, engine, rationale, no_guard, min_words, max_words, prompt_style, stream, **writing_options) -> None:
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
    if rationale == "model" and not model:
        raise click.UsageError("--rationale model needs -m MODEL or EEXP_MODEL")
    if rationale is None and not model:
        stream.note("no -m and no EEXP_MODEL: reflections are composed by rule from the outcomes (--rationale outcome)")
    rationale = rationale or ("model" if model else "outcome")
    writing = Writing(
        rationale=rationale, guards=guards.Guards.without(no_guard, min_words, max_words), **writing_options
    )
    writer = options.open_writer(model, engine, stream.note) if rationale == "model" else None
    settings = {"model": writer.fingerprint} if writer else {}
    style = options.chosen_style(prompt_style, None)
    with (
        writer or nullcontext(),
        stream.open(
            "reflect", "trajectory", prompt_style=style.label, seed=writing.seed, **settings, **writing.settings()
        ) as io,
    ):
        examples = reflect(
            io.records(skip_done=False),
            style,
            writer,
            writing,
            skip=io.done,
            count=io.count,
            keep=io.keep,
            on_error=io.fail,
        )
        for record in tqdm(examples, disable=None, unit="state", leave=False):
            io.write(record)
        if writer:
            io.counts.update(writer.counts)
