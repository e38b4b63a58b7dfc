"""`eexp world-model-data`: make examples of state, action -> next state (implicit world modelling)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

import click

from eexp import options
from eexp.callbacks import Count, OnError, no_count, stop_at_error
from eexp.errors import InputError
from eexp.options import ModelOptions
from eexp.outcomes import with_outcomes_asked_for
from eexp.records import example, with_lineage
from eexp.settings import command_options, is_given
from eexp.stage_settings.world_model_data import WorldModelSettings

if TYPE_CHECKING:
    from eexp.jsonl import Lines
    from eexp.models.base import Model
    from eexp.prompts import PromptStyle
    from eexp.stream import Stream
    from eexp.world_model.transitions import Transition


def world_model_data(
    trajectories: Iterator[dict],
    style: PromptStyle,
    settings: WorldModelSettings | None = None,
    *,
    model: Model | None = None,
    skip: Callable[[str], bool] = lambda record_id: False,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield one example for every executed alternative and for the expert's own action, but those left out.

    Args:
        trajectories: Trajectories with outcomes.
        style: The prompt style of the examples.
        settings: Which transitions become examples.
        model: Judges what can be predicted, where `settings.predictable` is "model": one that was trained on
            world-model examples of other trajectories.
        skip: Returns whether to leave the example with an id out.
        count: Called with the numbers of examples and of transitions that are left out.
        on_error: Called with a trajectory that cannot be used.
    """
    from eexp.scoring import score_request
    from eexp.world_model.examples import chosen_transitions, count_example, examples_of, id_of, judged

    settings = settings or WorldModelSettings()
    pending: deque[tuple[dict, Iterable[tuple[Transition, dict, bool]]]] = deque()  # read, and not answered yet

    def requests() -> Iterator[list]:
        for t in trajectories:
            try:
                transitions = chosen_transitions(t, style, settings, count)
                skipped = [skip(id_of(t, transition)) for transition in transitions]
                if all(skipped):
                    continue
                examples: Iterable[dict] = examples_of(t, style, settings, transitions)
                group = []
                if model:
                    examples = list(examples)
                    # The skipped ones are in it, too, so that batches are the same as without an interruption.
                    group = [score_request(example, model) for example in examples]
            except InputError as e:
                on_error(t, e)
                continue
            pending.append((t, zip(transitions, examples, skipped)))
            yield group

    answers = model.answer(requests()) if model else ([] for _ in requests())
    for scores in answers:
        t, entries = pending.popleft()
        for (transition, record, skipped), score in zip(entries, scores or repeat(None)):
            if skipped:
                continue
            if isinstance(score, InputError):
                on_error(t, score.at(f"$.steps[{transition.i}]"))
                continue
            if score and model:
                record = judged(record, transition.target, score[0], model, style, settings)
            count_example(count, transition, record["spans"])
            yield record


def world_model_lines(
    trajectories: Iterator[dict],
    style: PromptStyle,
    settings: WorldModelSettings,
    entry: str,
    *,
    skip: Callable[[str], bool],
    count: Count,
    on_error: OnError,
) -> Iterator[Lines]:
    """Yield the examples of `world_model_data`, judged by no model, as lines of JSON, in a fraction of the time.

    The arguments are those of `world_model_data`; `entry` is this stage's line of lineage.
    """
    import orjson

    from eexp.jsonl import dumps, line_template
    from eexp.prompts.style import EncodedDialogue
    from eexp.world_model.examples import chosen_transitions, count_example, id_of, worded

    if style.action.calls:  # whose messages have more than a text
        for record in world_model_data(trajectories, style, settings, skip=skip, count=count, on_error=on_error):
            yield 1, dumps(with_lineage(record, entry))
        return
    dialogue, label = EncodedDialogue(style), style.label
    for t in trajectories:
        try:
            transitions = chosen_transitions(t, style, settings, count)
        except InputError as e:
            on_error(t, e)
            continue
        common = with_lineage(example(t, "", "world_model", [], [], label), entry)
        parts = line_template(common, "id", "prompt", "completion", "spans", "transition", "target")
        for transition, prompt, answer, kind in worded(t, dialogue, style, settings, transitions):
            own_id = id_of(t, transition)
            if skip(own_id):
                continue
            count_example(count, transition, answer.spans)
            values = own_id, answer.messages(), answer.spans, kind, transition.target.kind
            encoded_id, *others = map(orjson.dumps, values)
            encoded = (encoded_id, prompt, *others, b"")
            yield 1, b"".join([piece for pair in zip(parts, encoded) for piece in pair])


@click.command("world-model-data")
@command_options(WorldModelSettings)
@options.model(
    "For --predictable model: a model that was trained on world-model examples of other trajectories.  [default: none]"
)
@options.prompt_style()
@options.streams("trajectory", resume=True)
def command(settings: WorldModelSettings, model: ModelOptions, prompt_style: str | None, stream: Stream) -> None:
    """Make training examples that predict the next state.

    Reads trajectories with outcomes, as `eexp rollout` writes them. The target is delimited and has a request of its
    own, so that a policy trained on it does not take observations for actions. `transition` in each example says what
    happened: invalid, unchanged, changed or done. Parts of a target that the environment calls unknown beforehand are
    spans of their own, with full weight unless --predictable environment is given.

    \b
    Example:
      eexp expert house -n 5 | eexp branch | eexp rollout | eexp world-model-data > iwm.jsonl
    """
    by_model = settings.predictable == "model"
    if is_given("unknown_weight") and not settings.predictable:
        raise click.UsageError("--unknown-weight needs --predictable")
    if is_given("min_probability") and not by_model:
        raise click.UsageError("--min-probability needs --predictable model")
    if settings.verdict and settings.changes:
        raise click.UsageError("--verdict and --changes ask for different answers; give one")
    if settings.verdict == "alone" and settings.predictable:
        raise click.UsageError("--predictable is about the words of an observation, and --verdict alone has none")
    if by_model and not model.spec:
        raise click.UsageError("--predictable model needs -m MODEL, one that was trained on world-model examples")
    judge = model.open(stream.note) if by_model else None
    style = options.chosen_style(prompt_style, judge.play_settings.style if judge else None)
    identity: dict[str, Any] = {"model": judge.fingerprint} if judge else {}
    identity |= {"prompt_style": style.label, "seed": settings.seed}
    with judge or nullcontext(), stream.open("world-model-data", **settings.lineage(), **identity) as io:
        if judge:
            records = with_outcomes_asked_for(io.records(skip_done=False), io.note, needed=False)
            examples = world_model_data(
                records, style, settings, model=judge, skip=io.done, count=io.count, on_error=io.fail
            )
            for record in io.progress(examples, "example"):
                io.write(record)
            io.counts.update(judge.counts)
        else:
            make = partial(
                world_model_lines,
                style=style,
                settings=settings,
                entry=io.entry,
                skip=io.done,
                count=io.count,
                on_error=io.fail,
            )
            io.write_lines(lambda records: make(with_outcomes_asked_for(records, io.note, needed=False)))
