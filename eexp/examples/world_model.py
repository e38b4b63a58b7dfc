"""Examples that predict the next state: state, action -> observation (Early Experience, implicit world modelling)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat

from eexp.errors import InputError
from eexp.examples.settings import WorldModelSettings
from eexp.examples.targets import Target, improbable_words
from eexp.examples.transitions import Transition, cap_invalid, cap_repeats, transitions_of
from eexp.models.base import Model, Sample, Score
from eexp.models.in_order import answer_in_order
from eexp.models.scoring import score_request
from eexp.prompts import PromptStyle
from eexp.prompts.style import Dialogue
from eexp.records.callbacks import Count, OnError, Skip, no_count, skip_none, stop_at_error
from eexp.records.equality import action_form
from eexp.records.imagination import imagined_by
from eexp.records.outcomes import transition_of
from eexp.records.record import alternatives_of, example, example_id, seed_of, tools_at

TOO_MANY_INVALID = "invalid transition[s] beyond --max-invalid-fraction left out"


def world_model_data(
    trajectories: Iterator[dict],
    style: PromptStyle,
    settings: WorldModelSettings | None = None,
    *,
    model: Model | None = None,
    skip: Skip = skip_none,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield one example for every executed alternative and for the expert's own action, but those left out.

    Args:
        trajectories: Trajectories with outcomes.
        model: Judges what can be predicted, where `settings.predictable` is "model": one that was trained on
            world-model examples of other trajectories.
        count: Called with the numbers of examples and of transitions that are left out.
        on_error: Called with a trajectory that cannot be used.
    """
    settings = settings or WorldModelSettings()

    def requests() -> Iterator[tuple[tuple[dict, Iterable[tuple[Transition, dict, bool]]], list[Score]]]:
        for t in trajectories:
            try:
                transitions = _chosen_transitions(t, style, settings, count)
                skipped = [skip(example_id(t, _name(transition))) for transition in transitions]
                if all(skipped):
                    continue
                examples: Iterable[dict] = _examples_of(t, style, settings, transitions)
                group = []
                if model:
                    examples = list(examples)
                    # The skipped ones are in it, too, so that batches are the same as without an interruption.
                    group = [score_request(example, model) for example in examples]
            except InputError as e:
                on_error(t, e)
                continue
            yield (t, zip(transitions, examples, skipped)), group

    for (t, entries), scores in answer_in_order(requests(), model):
        for (transition, record, skipped), score in zip(entries, scores or repeat(None)):
            if skipped:
                continue
            if isinstance(score, InputError):
                on_error(t, score.at(f"$.steps[{transition.i}]"))
                continue
            if score and model:
                record = _judged(record, transition.target, score[0], model, style, settings)
            _count_example(count, transition, record["spans"])
            yield record


def _chosen_transitions(t: dict, style: PromptStyle, settings: WorldModelSettings, count: Count) -> list[Transition]:
    """Return the transitions of a trajectory that become examples.

    Raises:
        InputError: The environment is to say what is unknown, and no outcome holds that; or actions are tool calls, and
            the trajectory has no functions.
    """
    transitions = transitions_of(t, style, settings)
    if settings.predictable == "environment":
        observed = [transition.outcome for transition in transitions if transition.target.kind != "summary"]
        if observed and not any(outcome.get("unknown") is not None for outcome in observed):
            raise InputError(
                f"no outcome says which of its parts are unknown; the environment {t['env']} cannot tell, "
                f"or the record is older: give --predictable model",
                "$.steps",
            )
    style.shown_tools(tools_at(t, 0))
    selection = (settings.pool, settings.first, action_form(t))
    alternatives = (a for step in t["steps"] for a in alternatives_of(step, *selection))
    count("alternative[s] without an outcome", sum(not a.get("outcome") and not a.get("refused") for a in alternatives))
    most = None if settings.verdict else settings.max_repeats
    remaining = cap_repeats(transitions, most, seed_of(settings.seed, t["id"], "repeats"))
    count("repeated transition[s] left out", len(transitions) - len(remaining))
    within = cap_invalid(remaining, settings.max_invalid_fraction, seed_of(settings.seed, t["id"]))
    count(TOO_MANY_INVALID, len(remaining) - len(within))
    return within


def _name(transition: Transition) -> str:
    return f"{transition.i}/world_model/{transition.name}"


def _examples_of(
    t: dict, style: PromptStyle, settings: WorldModelSettings, transitions: list[Transition]
) -> Iterator[dict]:
    """Yield the examples of transitions of a trajectory, which are in the order of its steps."""
    dialogue, label = Dialogue(style).start(t["instruction"]), style.label
    at = 0
    imagined = imagined_by(t)
    weight = settings.unknown_weight if settings.predictable == "environment" else 1.0
    for transition in transitions:
        for step in t["steps"][at : transition.i]:
            dialogue.add(step)
        at = transition.i
        step, target = t["steps"][at], transition.target
        prompt = dialogue.world_model(step["observation"], transition.action, target.kind)
        unknown = [] if settings.predictable == "model" else target.unknown
        answer = style.world_model_answer(target.text, unknown, weight)
        yield example(
            t,
            _name(transition),
            "world_model",
            prompt,
            answer.messages(),
            label,
            **style.tools_field(tools_at(t, at)),
            spans=answer.spans,
            transition=transition_of(step["observation"], transition.outcome),
            target=target.kind,
            imagined=imagined,
        )


def _judged(
    record: dict, target: Target, sample: Sample, model: Model, style: PromptStyle, settings: WorldModelSettings
) -> dict:
    """Return an example with the words that the model cannot predict as spans of their own."""
    text, start = record["completion"][0]["content"], len(style.predicting.open)
    unknown = improbable_words(text, sample, model, (start, start + len(target.text)), settings.min_probability)
    return {**record, "spans": style.world_model_answer(target.text, unknown, settings.unknown_weight).spans}


def _count_example(count: Count, transition: Transition, spans: list[dict]) -> None:
    """Count an example for the summary."""
    count("example[s] of invalid actions" if transition.invalid else "example[s] of valid actions", 1)
    count("example[s] with parts that cannot be known", any(span["name"] == "unknown" for span in spans))
