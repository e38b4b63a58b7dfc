"""What a trajectory records of a state, and how many of its admissible actions: there may be thousands."""

from __future__ import annotations

import random

from eexp.envs.base import Environment, Observation
from eexp.records import canonical


def sample_admissible(found: list[str], keep: int | None, action: str, seed: int) -> list[str]:
    """At most `keep` of `found` in their order, `action` among them if it was; None keeps all."""
    if keep is None or len(found) <= keep:
        return found
    chosen = set(random.Random(seed).sample(range(len(found)), keep))
    own = next((i for i, a in enumerate(found) if canonical(a) == canonical(action)), None)
    if own is not None and own not in chosen:
        chosen.remove(max(chosen))
        chosen.add(own)
    return [found[i] for i in sorted(chosen)]


def admissible_fields(env: Environment, keep: int | None, action: str, seed: int) -> dict:
    """What a step says of the admissible actions of the current state; nothing where the environment has no list."""
    found = None if keep == 0 else env.admissible()
    if found is None:
        return {}
    return {"admissible": sample_admissible(found, keep, action, seed), "admissible_count": len(found)}


def trajectory_step(
    env: Environment, seen: Observation, action: str, keep: int | None, seed: int, thought: str | None = None
) -> dict:
    """The step of a trajectory for the current state of `env`, in which `seen` was seen and `action` is taken."""
    step = {"observation": seen.text, "action": action, "admissible": None, "thought": thought}
    return {**step, **admissible_fields(env, keep, action, seed), **seen.unknown_parts()}
