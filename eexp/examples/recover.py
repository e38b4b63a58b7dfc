"""Mistakes put into the expert's path, so that a policy learns to go on after one.

An expert makes no mistakes, so an imitator has never seen the answer to one: once an action of its own is refused, it
is in a state like none that it was trained on, and tends to repeat the action. The executed alternatives hold such
answers. Where an action was refused and the state is as it was, the expert's action is still the right one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from eexp.examples.reflection.situations import NOT_EXECUTED
from eexp.examples.settings import RecoverSettings
from eexp.records.callbacks import Count, OnError, no_count, stop_at_error
from eexp.records.equality import action_form
from eexp.records.imagination import only_real
from eexp.records.record import alternatives_of, is_only_shown, seed_of

INSERTED = "mistake[s] put in"  # the counter of inserted mistakes
IMPROBABLE = "refused action[s] below --min-probability"


def recover(
    trajectories: Iterator[dict],
    settings: RecoverSettings | None = None,
    *,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Insert refused alternatives into trajectories, each followed by its answer and the state's own step.

    An inserted step has `mistake` true: later stages show it as history, and learn nothing from its action.

    Args:
        trajectories: Trajectories with outcomes.
        count: Called with the numbers of states and mistakes.
        on_error: Called with a trajectory of an imagined environment.
    """
    settings = settings or RecoverSettings()
    for trajectory in only_real(trajectories, "a refusal", on_error):
        steps: list[dict] = []
        for i, step in enumerate(trajectory["steps"]):
            alternatives = alternatives_of(step, settings.pool, form=action_form(trajectory))
            refused = [] if is_only_shown(step) else [a for a in alternatives if _is_refused(a.get("outcome"))]
            probable = [a for a in refused if _probability(a) >= settings.min_probability]
            mistakes = _drawn(trajectory["id"], i, probable, settings)
            count("state[s]", 1)
            count(IMPROBABLE, len(refused) - len(probable))
            count(NOT_EXECUTED, not any(a.get("outcome") for a in alternatives))
            count(INSERTED, len(mistakes))
            observation = step["observation"]
            for mistake in mistakes:
                state = {key: value for key, value in _at(step, observation).items() if key != "noise"}
                steps.append(
                    {**state, "action": mistake["action"], "mistake": True, "thought": None, "alternatives": []}
                )
                observation = mistake["outcome"]["observation"]
            steps.append(_at(step, observation) if mistakes else step)
        # Its origin keeps it with the trajectory it was made of, wherever records are split or held out.
        origin = trajectory.get("origin") or trajectory["id"]
        yield {**trajectory, "id": f"{trajectory['id']}/recover", "origin": origin, "steps": steps}


def _drawn(trajectory_id: str, i: int, refused: list[dict], settings: RecoverSettings) -> list[dict]:
    """Draw those of the refused alternatives of step `i` that are inserted before it, from the step alone."""
    rng = random.Random(seed_of(settings.seed, trajectory_id, i, "recover"))
    if not refused or rng.random() >= settings.share:
        return []
    number = 1
    while number < min(settings.most, len(refused)) and rng.random() < 0.5:
        number += 1
    return rng.sample(refused, number)


def _probability(alternative: dict) -> float:
    """Return the probability of an alternative under the policy; 0 where it has no log-probability."""
    logprob = alternative.get("logprob")
    return 0.0 if logprob is None else math.exp(logprob)


def _is_refused(outcome: dict | None) -> bool:
    return outcome is not None and outcome.get("valid") is False and not outcome.get("done")


def _at(step: dict, observation: str) -> dict:
    """Return a step with `observation`; no part of that was unknown, unless it is the step's own."""
    if observation == step["observation"]:
        return step
    kept = {key: value for key, value in step.items() if key != "changed"}
    return {**kept, "observation": observation, "unknown": [], "summary": None}
