"""The transitions of a trajectory from which a world model learns."""

from __future__ import annotations

import random
from typing import NamedTuple

from eexp.errors import InputError
from eexp.examples.settings import WorldModelSettings
from eexp.examples.targets import Target, target_of
from eexp.prompts import PromptStyle
from eexp.records.equality import action_form
from eexp.records.record import alternatives_of, expert_outcome, is_only_shown


class Transition(NamedTuple):
    """A known effect of an action."""

    i: int  # the number of the step
    name: str  # "expert", or the number of the alternative
    action: str  # the action
    outcome: dict  # its outcome
    target: Target  # the text to predict for it

    @property
    def invalid(self) -> bool:
        """Whether the environment refused the action."""
        return self.outcome.get("valid") is False


def transitions_of(trajectory: dict, style: PromptStyle, settings: WorldModelSettings) -> list[Transition]:
    """Return the transitions of a trajectory, step by step, each with its target.

    Raises:
        InputError: An outcome's unknown parts do not fit its observation.
    """
    transitions, form = [], action_form(trajectory)
    for i, step in enumerate(trajectory["steps"]):
        # A mistake's outcome is that of the alternative that was put in.
        own_outcome = None if is_only_shown(step) else expert_outcome(trajectory, i)
        effects = [("expert", step["action"], own_outcome)] if settings.expert and own_outcome is not None else []
        selected = {id(alternative) for alternative in alternatives_of(step, settings.pool, settings.first, form)}
        for j, alternative in enumerate(step.get("alternatives") or []):
            if id(alternative) in selected and alternative.get("outcome"):
                effects.append((str(j), alternative["action"], alternative["outcome"]))
        for name, action, outcome in effects:
            try:
                target = target_of(outcome, step["observation"], style, settings)
            except InputError as e:
                place = f"$.steps[{i}]"
                raise e.at(place if name == "expert" else f"{place}.alternatives[{name}]") from None
            transitions.append(Transition(i, name, action, outcome, target))
    return transitions


def cap_repeats(transitions: list[Transition], most: int | None, seed: int) -> list[Transition]:
    """Drop, at random, all but `most` of the transitions with the same target, and never one of the expert's."""
    if most is None:
        return transitions
    by_target: dict[str, list[int]] = {}
    for n, transition in enumerate(transitions):
        by_target.setdefault(transition.target.text, []).append(n)
    generator, dropped = random.Random(seed), set()
    for same in by_target.values():
        others = [n for n in same if transitions[n].name != "expert"]
        room = max(0, most - (len(same) - len(others)))
        if len(others) > room:
            dropped.update(generator.sample(others, len(others) - room))
    return [transition for n, transition in enumerate(transitions) if n not in dropped]


def cap_invalid(transitions: list[Transition], fraction: float, seed: int) -> list[Transition]:
    """Drop, at random, just enough invalid transitions that they are at most `fraction` of those that are left."""
    invalid = [n for n, transition in enumerate(transitions) if transition.invalid]
    valid = len(transitions) - len(invalid)
    if fraction >= 1:
        return transitions
    room = int(fraction * valid / (1 - fraction) * (1 + 1e-12))
    if len(invalid) <= room:
        return transitions
    dropped = set(random.Random(seed).sample(invalid, len(invalid) - room))
    return [transition for n, transition in enumerate(transitions) if n not in dropped]
