"""Examples that predict the next state: state, action -> observation (Early Experience, implicit world modelling)."""

from __future__ import annotations

from collections.abc import Iterator

from eexp.callbacks import Count
from eexp.errors import InputError
from eexp.models.base import Model, Sample
from eexp.outcomes import transition_of
from eexp.prompts import PromptStyle
from eexp.prompts.style import Answer, Dialogue, DialogueBase, P
from eexp.records import alternatives_of, example, example_id, seed_of, tools_at
from eexp.stage_settings.world_model_data import WorldModelSettings
from eexp.world_model.targets import Target, improbable_words
from eexp.world_model.transitions import Transition, cap_invalid, cap_repeats, transitions_of

TOO_MANY_INVALID = "invalid transition[s] beyond --max-invalid-fraction left out"


def chosen_transitions(t: dict, style: PromptStyle, settings: WorldModelSettings, count: Count) -> list[Transition]:
    """Return the transitions of a trajectory that become examples.

    Raises:
        InputError: The environment is to say what is unknown, and no outcome holds that; or actions are tool calls, and
            the trajectory has no functions.
    """
    transitions = transitions_of(
        t,
        style,
        expert=settings.expert,
        pool=settings.pool,
        first=settings.first,
        summaries=settings.summaries,
        changes=settings.changes,
        verdict=settings.verdict,
    )
    if settings.predictable == "environment":
        observed = [transition.outcome for transition in transitions if transition.target.kind != "summary"]
        if observed and not any(outcome.get("unknown") is not None for outcome in observed):
            raise InputError(
                f"no outcome says which of its parts are unknown; the environment {t['env']} cannot tell, "
                f"or the record is older: give --predictable model",
                "$.steps",
            )
    style.shown_tools(tools_at(t, 0))
    alternatives = (a for step in t["steps"] for a in alternatives_of(step, settings.pool, settings.first))
    count("alternative[s] without an outcome", sum(not a.get("outcome") and not a.get("refused") for a in alternatives))
    most = None if settings.verdict else settings.max_repeats
    remaining = cap_repeats(transitions, most, seed_of(settings.seed, t["id"], "repeats"))
    count("repeated transition[s] left out", len(transitions) - len(remaining))
    within = cap_invalid(remaining, settings.max_invalid_fraction, seed_of(settings.seed, t["id"]))
    count(TOO_MANY_INVALID, len(remaining) - len(within))
    return within


def id_of(t: dict, transition: Transition) -> str:
    """Return the id of the example that a transition of a trajectory becomes."""
    return example_id(t, _name(transition))


def _name(transition: Transition) -> str:
    return f"{transition.i}/world_model/{transition.name}"


def examples_of(
    t: dict, style: PromptStyle, settings: WorldModelSettings, transitions: list[Transition]
) -> Iterator[dict]:
    """Yield the examples of transitions of a trajectory, in the order of its steps."""
    for transition, prompt, answer, kind in worded(t, Dialogue(style), style, settings, transitions):
        yield example(
            t,
            _name(transition),
            "world_model",
            prompt,
            answer.messages(),
            style.label,
            **style.tools_field(tools_at(t, transition.i)),
            spans=answer.spans,
            transition=kind,
            target=transition.target.kind,
        )


def worded(
    t: dict, dialogue: DialogueBase[P], style: PromptStyle, settings: WorldModelSettings, transitions: list[Transition]
) -> Iterator[tuple[Transition, P, Answer, str]]:
    """Yield the transitions of a trajectory, which are in the order of its steps, with prompt, answer and kind."""
    dialogue.start(t["instruction"])
    at = 0
    weight = settings.unknown_weight if settings.predictable == "environment" else 1.0
    for transition in transitions:
        for step in t["steps"][at : transition.i]:
            dialogue.add(step)
        at = transition.i
        step, target = t["steps"][at], transition.target
        prompt = dialogue.world_model(step["observation"], transition.action, target.kind)
        unknown = [] if settings.predictable == "model" else target.unknown
        answer = style.world_model_answer(target.text, unknown, weight)
        yield transition, prompt, answer, transition_of(step["observation"], transition.outcome)


def judged(
    record: dict, target: Target, sample: Sample, model: Model, style: PromptStyle, settings: WorldModelSettings
) -> dict:
    """Return an example with the words that the model cannot predict as spans of their own."""
    text, start = record["completion"][0]["content"], len(style.predicting.open)
    unknown = improbable_words(text, sample, model, (start, start + len(target.text)), settings.min_probability)
    return {**record, "spans": style.world_model_answer(target.text, unknown, settings.unknown_weight).spans}


def count_example(count: Count, transition: Transition, spans: list[dict]) -> None:
    """Count an example for the summary."""
    count("example[s] of invalid actions" if transition.invalid else "example[s] of valid actions", 1)
    count("example[s] with parts that cannot be known", any(span["name"] == "unknown" for span in spans))
