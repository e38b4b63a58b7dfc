"""A demonstration that a person has given in a window, checked by a replay."""

from __future__ import annotations

from eexp.acting.expert import expert
from eexp.envs.base import Environment
from eexp.errors import EnvironmentFailed, InputError
from eexp.records.record import succeeded


def replayed_demonstration(env: Environment, task: dict) -> dict:
    """Return the trajectory of the expert of a task, which follows a demonstration that was just recorded.

    Raises:
        EnvironmentFailed: The demonstration cannot be followed to the end, or does not do the task.
    """
    try:
        (trajectory,) = expert(env, iter([task]))
    except EnvironmentFailed:
        raise
    except InputError:  # the expert knows no action
        trajectory = {"steps": [], "outcome": {"done": False}}
    outcome, steps = trajectory["outcome"], trajectory["steps"]
    if not outcome["done"]:
        last = f"after {len(steps)} actions, the last one {steps[-1]['action']!r}" if steps else "at its beginning"
        raise EnvironmentFailed(
            f"the replay stops {last}: the next element is not on the page, or {env.max_steps} actions are too few"
        )
    if not succeeded(outcome):
        raise EnvironmentFailed(f"the replay does not do the task: its score is {outcome['score']}")
    return trajectory
