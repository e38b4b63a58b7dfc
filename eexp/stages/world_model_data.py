"""`eexp world-model-data`: (state, action) -> next state (Early Experience, implicit world modelling)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import repeat

import click
import orjson
from click.core import ParameterSource

from eexp import options
from eexp.errors import InputError
from eexp.jsonl import Lines, line_template
from eexp.models.base import Model, Sample
from eexp.outcomes import transition_of
from eexp.prompts import PromptStyle
from eexp.prompts.style import Answer, Dialogue, EncodedDialogue, Prompt
from eexp.records import example, example_id, seed_of, with_lineage
from eexp.scoring import request_of
from eexp.stream import OnError, stop_at_error
from eexp.world_model.targets import Target, improbable_words
from eexp.world_model.transitions import Transition, cap_invalid, cap_repeats, transitions_of

Count = Callable[[str, int], None]


@dataclass(frozen=True)
class Choices:
    """Which transitions become examples, and what their targets are.

    expert: whether the expert's own do. pool, first: which alternatives do, as in `records.alternatives_of`.
    max_invalid_fraction: largest share of a trajectory's examples that tell of an action the environment refused.
    max_repeats: how often the same target may come in a trajectory; None for any number.
    summaries, changes: as in `targets.target_of`. predictable: who says what cannot be predicted, "environment" or
    "model". unknown_weight: what such parts weigh. min_probability: words that the model finds less probable are such.
    """

    expert: bool = True
    pool: str | None = None
    first: int | None = None
    max_invalid_fraction: float = 0.3
    max_repeats: int | None = 2
    summaries: bool = True
    changes: bool = False
    predictable: str | None = None
    unknown_weight: float = 0.0
    min_probability: float = 0.05

    def settings(self) -> dict:
        """What of it decides the output, for the lineage."""
        chosen = asdict(self)
        for name, usual in (("expert", True), ("summaries", True), ("changes", False)):
            chosen[name] = None if chosen[name] == usual else "no" if usual else "yes"
        if not self.predictable:
            chosen["unknown_weight"] = None
        if self.predictable != "model":
            chosen["min_probability"] = None
        return chosen | {"max_invalid_fraction": None if self.max_invalid_fraction == 1 else self.max_invalid_fraction}


def world_model_data(
    trajectories: Iterator[dict],
    style: PromptStyle,
    choices: Choices | None = None,
    *,
    model: Model | None = None,
    seed: int = 0,
    skip: Callable[[str], bool] = lambda record_id: False,
    count: Count = lambda what, n=1: None,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Make one example for every executed alternative and for the expert's own action, but those left out.

    Args:
        model: judges what can be predicted, where `choices.predictable` is "model": one that was trained on world-model
            examples of other trajectories.
        skip: says which examples are not to be made, by their ids.
    """
    choices = choices or Choices()
    asked: deque[tuple[dict, Iterable[tuple[Transition, dict, bool]]]] = deque()  # read, and not answered yet

    def groups() -> Iterator[list]:
        for t in trajectories:
            try:
                transitions = _chosen(t, style, choices, seed, count)
                done = [skip(example_id(t, _name(transition))) for transition in transitions]
                if all(done):
                    continue
                examples: Iterable[dict] = _examples(t, style, choices, transitions)
                requests = []
                if model:
                    examples = list(examples)
                    # Those done before are asked, too: what shares a batch is then the same as without a break.
                    requests = [request_of(example, model) for example in examples]
            except InputError as e:
                on_error(t, e)
                continue
            asked.append((t, zip(transitions, examples, done)))
            yield requests

    answers = model.answer(groups()) if model else ([] for _ in groups())
    for scored in answers:
        t, entries = asked.popleft()
        for (transition, record, done), answer in zip(entries, scored or repeat(None)):
            if done:
                continue
            if isinstance(answer, InputError):
                on_error(t, answer.at(f"$.steps[{transition.i}]"))
                continue
            if answer and model:
                record = _judged(record, transition.target, answer[0], model, style, choices)
            _count(count, transition, record["spans"])
            yield record


def world_model_lines(
    trajectories: Iterator[dict],
    style: PromptStyle,
    choices: Choices,
    entry: str,
    *,
    seed: int,
    skip: Callable[[str], bool],
    count: Count,
    on_error: OnError,
) -> Iterator[Lines]:
    """Yield the same examples, judged by no model, as the lines that are written of them, in a fraction of the time.

    entry: this stage's line of lineage.
    """
    dialogue, label = EncodedDialogue(style), style.label
    for t in trajectories:
        try:
            transitions = _chosen(t, style, choices, seed, count)
        except InputError as e:
            on_error(t, e)
            continue
        common = with_lineage(example(t, "", "world_model", [], [], label), entry)
        parts = line_template(common, "id", "prompt", "completion", "spans", "transition", "target")
        for transition, prompt, answer, kind in _worded(t, dialogue, style, choices, transitions):
            own_id = example_id(t, _name(transition))
            if skip(own_id):
                continue
            _count(count, transition, answer.spans)
            values = own_id, answer.messages(), answer.spans, kind, transition.target.kind
            encoded_id, *others = map(orjson.dumps, values)
            encoded = (encoded_id, prompt, *others, b"")
            yield 1, b"".join([piece for pair in zip(parts, encoded) for piece in pair])


def _count(count: Count, transition: Transition, spans: list[dict]) -> None:
    count("of invalid actions" if transition.invalid else "of valid actions", 1)
    count("with unknown parts", any(span["name"] == "unknown" for span in spans))


def _chosen(t: dict, style: PromptStyle, choices: Choices, seed: int, count: Count) -> list[Transition]:
    """Return the transitions of a trajectory that become examples."""
    known = transitions_of(
        t,
        style,
        expert=choices.expert,
        pool=choices.pool,
        first=choices.first,
        summaries=choices.summaries,
        changes=choices.changes,
    )
    if choices.predictable == "environment":
        observed = [transition.outcome for transition in known if transition.target.kind != "summary"]
        if observed and not any(outcome.get("unknown") is not None for outcome in observed):
            raise InputError(
                f"no outcome says which of its parts are unknown; the environment {t['env']} cannot tell, "
                f"or the record is older: give --predictable model",
                "$.steps",
            )
    kept = cap_repeats(known, choices.max_repeats, seed_of(seed, t["id"], "repeats"))
    count("repeats left out", len(known) - len(kept))
    within = cap_invalid(kept, choices.max_invalid_fraction, seed_of(seed, t["id"]))
    count("invalid ones left out", len(kept) - len(within))
    return within


def _examples(t: dict, style: PromptStyle, choices: Choices, transitions: list[Transition]) -> Iterator[dict]:
    for transition, prompt, answer, kind in _worded(t, Dialogue(style), style, choices, transitions):
        yield example(
            t,
            _name(transition),
            "world_model",
            prompt,
            answer.messages(),
            style.label,
            spans=answer.spans,
            transition=kind,
            target=transition.target.kind,
        )


def _worded(
    t: dict, dialogue: Dialogue, style: PromptStyle, choices: Choices, transitions: list[Transition]
) -> Iterator[tuple[Transition, Prompt, Answer, str]]:
    """Yield the transitions of a trajectory, which are in the order of its steps, with prompt, answer and kind."""
    dialogue.start(t["instruction"])
    at = 0
    weight = choices.unknown_weight if choices.predictable == "environment" else 1.0
    for transition in transitions:
        for step in t["steps"][at : transition.i]:
            dialogue.add(step)
        at = transition.i
        step, target = t["steps"][at], transition.target
        prompt = dialogue.world_model(step["observation"], transition.action, target.kind == "changes")
        answer = style.world_model_answer(target.text, [] if choices.predictable == "model" else target.unknown, weight)
        yield transition, prompt, answer, transition_of(step["observation"], transition.outcome)


def _name(transition: Transition) -> str:
    return f"{transition.i}/world_model/{transition.name}"


def _judged(record: dict, target: Target, sample: Sample, model: Model, style: PromptStyle, choices: Choices) -> dict:
    """The example, with the words that the model cannot predict as spans of their own."""
    text, start = record["completion"][0]["content"], len(style.predicting.open)
    unknown = improbable_words(text, sample, model, (start, start + len(target.text)), choices.min_probability)
    return {**record, "spans": style.world_model_answer(target.text, unknown, choices.unknown_weight).spans}


def _number_of_repeats(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    if value == "all":
        return None
    if value.isdecimal() and int(value):
        return int(value)
    raise click.BadParameter(f"{value!r} is not a number from 1, or 'all'")


@click.command("world-model-data")
@click.option(
    "--expert/--no-expert",
    default=Choices.expert,
    show_default=True,
    help="Whether the expert's own transitions are examples, too.",
)
@options.alternatives(fewest=0)
@click.option(
    "--max-invalid-fraction",
    type=click.FloatRange(0, 1),
    default=Choices.max_invalid_fraction,
    show_default=True,
    metavar="SHARE",
    help="Largest share of a trajectory's examples that may be answers to invalid actions; 1 keeps all.",
)
@click.option(
    "--max-repeats",
    metavar="N|all",
    default=str(Choices.max_repeats),
    show_default=True,
    callback=_number_of_repeats,
    help="How often the same target may come in a trajectory; the expert's own always stay.",
)
@click.option(
    "--summaries/--no-summaries",
    default=Choices.summaries,
    show_default=True,
    help="Whether the summary of an observation is the target, where there is one (`eexp summarise`).",
)
@click.option(
    "--changes",
    is_flag=True,
    help="Make only the lines the target that the observation before the action did not have.",
)
@click.option(
    "--predictable",
    type=click.Choice(["environment", "model"]),
    help="Who says which parts of a target the state does not determine, to leave them out of the loss: the "
    "environment, or the model (-m).",
)
@click.option(
    "--unknown-weight",
    type=click.FloatRange(min=0),
    default=Choices.unknown_weight,
    show_default=True,
    metavar="WEIGHT",
    help="Weight of those parts in the loss.",
)
@click.option(
    "--min-probability",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="P",
    default=Choices.min_probability,
    show_default=True,
    help="With --predictable model: words that it finds less probable are such parts.",
)
@options.model(
    "For --predictable model: a model that was trained on world-model examples of other trajectories.  [default: none]"
)
@options.prompt_style()
@options.seed
@options.streams("trajectory", resume=True)
def command(model, engine, prompt_style, seed, stream, **choices) -> None:
    """Make training examples that predict the next state.

    Reads trajectories with outcomes, as `eexp rollout` writes them. The target is delimited and has a request of its
    own, so that a policy trained on it does not take observations for actions. `transition` in each example says what
    happened: invalid, unchanged, changed or done. Parts of a target that the environment calls unknown beforehand are
    spans of their own, with full weight unless --predictable environment is given.

    \b
    Example:
      eexp expert house -n 20 | eexp branch | eexp rollout | eexp world-model-data > iwm.jsonl
    """
    from tqdm import tqdm

    stream.stage = "world-model-data"
    chosen = Choices(**choices)
    given = click.get_current_context().get_parameter_source
    for name, wanted in (("unknown_weight", chosen.predictable), ("min_probability", chosen.predictable == "model")):
        if not wanted and given(name) is not ParameterSource.DEFAULT:
            needs = "--predictable" if name == "unknown_weight" else "--predictable model"
            raise click.UsageError(f"--{name.replace('_', '-')} needs {needs}")
    if chosen.predictable == "model" and not model:
        raise click.UsageError("--predictable model needs -m MODEL, one that was trained on world-model examples")
    judge, settings = None, chosen.settings()
    if chosen.predictable == "model":
        judge = options.open_writer(model, engine, stream.note)
        settings["model"] = judge.fingerprint
    style = options.chosen_style(prompt_style, judge.played.style if judge else None)
    settings |= {"prompt_style": style.label, "seed": seed}
    with judge or nullcontext(), stream.open("world-model-data", "trajectory", **settings) as io:
        common = {"seed": seed, "skip": io.done, "count": io.count, "on_error": io.fail}
        if judge:
            examples = world_model_data(io.records(skip_done=False), style, chosen, model=judge, **common)
            for record in tqdm(examples, disable=None, unit="example", leave=False):
                io.write(record)
            io.counts.update(judge.counts)
        else:
            io.write_lines(partial(world_model_lines, style=style, choices=chosen, entry=io.entry, **common))
