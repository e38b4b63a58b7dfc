"""Steps of trajectories as they are recorded, with a sample of the admissible actions: there may be thousands."""

from __future__ import annotations

import random

from eexp.envs.base import Environment, Observation
from eexp.records.equality import action_equality_field
from eexp.records.record import canonical


def sample_admissible(actions: list[str], keep: int | None, action: str, seed: int) -> list[str]:
    """Return a sample of the admissible actions in their order.

    Args:
        keep: How many to keep at most; None keeps all.
        action: The action that is taken, which is kept if it is one of them.
        seed: Decides the sample.
    """
    if keep is None or len(actions) <= keep:
        return actions
    sample = set(random.Random(seed).sample(range(len(actions)), keep))
    own = actions.index(action) if action in actions else None
    if own is None:
        own = next((i for i, a in enumerate(actions) if canonical(a) == canonical(action)), None)
    if own is not None and own not in sample:
        sample.remove(max(sample))
        sample.add(own)
    return [actions[i] for i in sorted(sample)]


def admissible_fields(env: Environment, keep: int | None, action: str, seed: int) -> dict:
    """Return the keys of a step about the admissible actions of the current state; none if they are not listed.

    The arguments are those of `sample_admissible`; where `keep` is 0 the environment is not asked.
    """
    actions = None if keep == 0 else env.admissible()
    if actions is None:
        return {}
    return {"admissible": sample_admissible(actions, keep, action, seed), "admissible_count": len(actions)}


def offered(first: Observation) -> dict:
    """Return the key of a trajectory for the functions that its first observation brings; none where there are none."""
    return {} if first.tools is None else {"tools": first.tools}


def equality_field(env: Environment, record: dict) -> dict:
    """Return the key of a trajectory for the equality of its actions; none where the rest of the record tells it."""
    return action_equality_field(env.action_equality(), record)


def trajectory_step(
    env: Environment, observation: Observation, action: str, keep: int | None, seed: int, thought: str | None = None
) -> dict:
    """Return the step of a trajectory for the current state of an environment.

    Args:
        env: The environment, in the state in which `action` is to be taken.
        observation: What was observed in that state.
        keep, seed: How many admissible actions to keep at most, and what decides which (`sample_admissible`).
    """
    step = {"observation": observation.text, "action": action, "admissible": None, "thought": thought}
    return {**step, **admissible_fields(env, keep, action, seed), **observation.annotations()}
