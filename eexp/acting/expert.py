"""Demonstrations of an environment's own expert, D_expert (Early Experience, section 3)."""

from __future__ import annotations

import random
from collections.abc import Iterator

from eexp.acting.settings import ExpertSettings
from eexp.envs.base import Environment
from eexp.envs.differences import Difference, difference_between, instruction_difference, outcome_difference
from eexp.envs.listing import equality_field, offered, trajectory_step
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError, unexpected_error
from eexp.records.callbacks import Count, OnError, no_count, stop_at_error
from eexp.records.equality import form_of
from eexp.records.record import seed_of


def expert(
    env: Environment,
    tasks: Iterator[dict],
    settings: ExpertSettings | None = None,
    *,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield one trajectory a task, played by `env.expert()`.

    A task in which the expert fails is passed on too, with `outcome.success` false. A step with another action than the
    expert's has `noise` true, and the expert goes on from where that action led. Where it has no action there, the
    trajectory ends. Where the environment depends on timing, every trajectory is played twice.

    Args:
        count: Called with what became of corrupted actions.
        on_error: Called with a task that cannot be played, or goes differently when it is played again.

    Raises:
        UsageError: `settings.noise` is not 0, and the environment lists no admissible actions.
    """
    settings = settings or ExpertSettings()
    for task in tasks:
        try:
            trajectory = _play(env, task, settings, count)
            if env.depends_on_timing:
                _play_again(env, trajectory)
            yield trajectory
        except InputError as e:
            on_error(_task_record(env, task), e)
        except (EexpError, MemoryError):
            raise
        except Exception as e:
            on_error(_task_record(env, task), unexpected_error(e))


def _task_record(env: Environment, task: dict) -> dict:
    """Return the record that stands for a task in messages and rejects."""
    return {"type": "task", "id": f"{env.spec}/{task.get('id')}", "task": task}


def _play(env: Environment, task: dict, settings: ExpertSettings, count: Count) -> dict:
    record_id = f"{env.spec}/{task['id']}"
    first = env.reset(task)
    observation, instruction = first.at_beginning(), env.instruction()
    if settings.noise and env.admissible() is None:
        raise UsageError(f"--noise draws from the admissible actions, and {env.spec} lists none")
    steps: list[dict] = []
    while not observation.done and len(steps) < (settings.max_steps or env.max_steps):
        action = env.expert()
        if action is None:
            if not steps:
                raise InputError(f"{env.spec} has no expert for task {task['id']}")
            if any("noise" in step for step in steps):
                count("trajector[y|ies] in which the expert had no action after a corrupted step", 1)
            break
        noise_seed = seed_of(settings.seed, task["id"], len(steps), "expert noise")
        other = _corrupted(env, action, settings.noise, noise_seed, count)
        list_seed = seed_of(settings.seed, record_id, len(steps))
        step = trajectory_step(env, observation, other or action, settings.admissible, list_seed)
        steps.append({**step, "noise": True} if other else step)
        observation = env.step(other or action)
    trajectory = {
        "type": "trajectory",
        "id": record_id,
        "env": env.spec,
        "task": task,
        "instruction": instruction,
        **offered(first),
        "steps": steps,
        "outcome": observation.outcome(),
    }
    return trajectory | equality_field(env, trajectory)


def _play_again(env: Environment, trajectory: dict) -> None:
    """Play a trajectory a second time. Raises EnvironmentFailed, with the place, if it goes differently."""
    steps = trajectory["steps"]
    outcome = env.reset(trajectory["task"]).outcome()
    different = instruction_difference(env.mask, env.instruction(), trajectory["instruction"])
    _refuse(different, "$.instruction")
    for i, step in enumerate(steps):
        _refuse(
            outcome_difference(env.mask, outcome, {"observation": step["observation"]}), f"$.steps[{i}].observation"
        )
        if step.get("admissible") is not None:
            now, before = len(env.admissible() or []), step["admissible_count"]
            _refuse(Difference("number of admissible actions", now, before) if now != before else None, f"$.steps[{i}]")
        outcome = env.step(step["action"]).outcome()
    _refuse(difference_between(env.mask, outcome, trajectory["outcome"]), "$.outcome")


def _refuse(different: Difference | None, where: str) -> None:
    if different:
        raise EnvironmentFailed(f"played again, it goes differently: {different.message}", where, different.evidence)


def _corrupted(env: Environment, action: str, noise: float, seed: int, count: Count) -> str | None:
    """Return another admissible action to take instead of the expert's; None where the expert's is to be taken.

    The seed depends neither on `noise` nor on the name of the environment: a step that is corrupted with a small share
    is also corrupted with a larger one.
    """
    draw = random.Random(seed)
    if draw.random() >= noise:
        return None
    form = form_of(env.action_equality())
    different = {form(one): one for one in env.admissible() or [] if form(one) != form(action)}
    others = list(different.values())
    if not others:
        count("step[s] not corrupted, since no other action was admissible", 1)
        return None
    return draw.choice(others)
