"""Hindsight demonstrations: executed actions as demonstrations of the tasks that they solve.

An alternative that does not solve the task of its trajectory may solve another one. The environment says which
(`Environment.achieved`): it returns a task of its own, and the actions that lead there from its beginning. These are
executed in that task, and only a path whose last action solves it is written. So what is written is what the
environment answered, as for an expert's demonstration, and it teaches in the same way (`eexp imitation-data`).

Relabelling with the goals that were reached comes from Hindsight Experience Replay (Andrychowicz et al. 2017, arXiv
1707.01495). Here it is done with the executed alternatives of demonstrations.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from eexp.acting.settings import RelabelSettings
from eexp.envs.base import Environment
from eexp.envs.listing import equality_field, offered, trajectory_step
from eexp.errors import EnvironmentFailed, InputError, UsageError, short
from eexp.records.callbacks import Count, OnError, ignore_error, no_count, stop_at_error
from eexp.records.equality import action_form
from eexp.records.record import alternatives_of, expert_outcome, seed_of, succeeded
from eexp.workers.jobs import Runner, job_of, results

#: The beginning of a task, as an agent reads it: the spec of the environment, the first observation, the instruction.
Beginning = tuple[str, str, str]
#: What was executed in states with the same observation: pairs of an action and what was observed after it.
Continuations = dict[str, dict[str, str]]


class Path(NamedTuple):
    """Actions from the beginning of a task, all of which were executed and accepted.

    Attributes:
        actions: The actions.
        observations: What was observed before the first of them and after each.
    """

    actions: tuple[str, ...]
    observations: tuple[str, ...]

    def extended(self, action: str, observation: str) -> Path:
        """Return the path with one more action."""
        return Path((*self.actions, action), (*self.observations, observation))


@dataclass
class Candidate:
    """A task that a path of a trajectory solves, as the environment says.

    Attributes:
        source: The trajectory.
        task: The task.
        actions: The actions from the beginning of the task.
    """

    source: dict
    task: dict
    actions: list[str]
    rank: tuple[int, int] = field(default=(0, 0))  # where the path comes among all: the trajectory and the path


def relabel(
    trajectories: Iterable[dict],
    pool: Runner,
    settings: RelabelSettings | None = None,
    *,
    panel: Iterable[dict] = (),
    count: Count = no_count,
    on_refused: OnError = ignore_error,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield demonstrations of the tasks that executed actions solve, other than the tasks that were demonstrated.

    All trajectories are read first. A path is a beginning of a trajectory, or one with an executed alternative at its
    end and what `follow` did after it. Of several paths that solve one task, the shortest is taken. A demonstration's
    `origin` is the trajectory that its path comes from.

    Args:
        trajectories: Trajectories with outcomes, successful or not.
        pool: Executes the paths.
        panel: Tasks, as `eexp panel` writes them; no demonstration of theirs is written.
        count: Called with what was found, and why it was left out.
        on_refused: Called with a trajectory, and why one of its paths is not written.
        on_error: Called with a trajectory that cannot be used.

    Raises:
        UsageError: An environment cannot say what actions achieve.
    """
    settings = settings or RelabelSettings()
    usable = list(_without_mistakes(trajectories, on_error))
    candidates = _shortest(_candidates(usable, pool, settings, count, on_error))
    count("task[s] that executed actions solve", len(candidates))
    taken = _beginnings_of(usable)
    asked = set(_panel_beginnings(panel, pool, on_error))
    demonstrations: list[tuple[Candidate, dict]] = []
    for candidate, trajectory in _executed(candidates, pool, settings, count, on_refused, on_error):
        beginning = _beginning(trajectory)
        if beginning in asked:
            count("left out, since the panel asks for it", 1)
        elif beginning in taken:
            count("left out, since it is demonstrated", 1)
        else:
            taken.add(beginning)
            demonstrations.append((candidate, trajectory))
    yield from _capped(demonstrations, settings, count)


def _without_mistakes(trajectories: Iterable[dict], on_error: OnError) -> Iterator[dict]:
    for trajectory in trajectories:
        if any(step.get("mistake") for step in trajectory["steps"]):
            on_error(trajectory, InputError("holds mistakes put in by `eexp recover`; relabel before that", "$.steps"))
        else:
            yield trajectory


# -- paths -------------------------------------------------------------------------------------------------------------


def paths_of(trajectory: dict, pool: str | None = None, first: int | None = None) -> Iterator[Path]:
    """Yield the executed paths of a trajectory that hold no refused action, shorter beginnings first.

    Args:
        pool, first: The alternatives to take, as in `alternatives_of`.
    """
    steps = trajectory["steps"]
    if not steps:
        return
    path, form = Path((), (steps[0]["observation"],)), action_form(trajectory)
    for i, step in enumerate(steps):
        for alternative in alternatives_of(step, pool, first, form):
            following = [alternative, *(alternative.get("then") or [])]
            outcomes = [alternative.get("outcome"), *following[1:]]
            extended = path
            for one, outcome in zip(following, outcomes):
                if not outcome or not outcome.get("valid", True):
                    break
                extended = extended.extended(one["action"], outcome["observation"])
                yield extended
        outcome = expert_outcome(trajectory, i)
        if not outcome or not outcome.get("valid", True):
            return
        path = path.extended(step["action"], outcome["observation"])
        yield path


def continuations_of(paths: Iterable[Path]) -> Continuations:
    """Return what was executed after each observation, and what it led to."""
    continuations: Continuations = defaultdict(dict)
    for path in paths:
        continuations[path.observations[-2]].setdefault(path.actions[-1], path.observations[-1])
    return continuations


def stitched(path: Path, continuations: Continuations, more: int) -> Iterator[Path]:
    """Yield a path, and its extensions by up to `more` actions."""
    yield path
    if more:
        for action, observation in continuations.get(path.observations[-1], {}).items():
            yield from stitched(path.extended(action, observation), continuations, more - 1)


# -- tasks -------------------------------------------------------------------------------------------------------------


def _candidates(
    trajectories: list[dict], pool: Runner, settings: RelabelSettings, count: Count, on_error: OnError
) -> Iterator[Candidate]:
    """Yield what the environment says that the paths of each trajectory solve."""
    own = [list(paths_of(trajectory, settings.pool, settings.first)) for trajectory in trajectories]
    by_env: dict[str, list[Path]] = defaultdict(list)
    for trajectory, paths in zip(trajectories, own):
        by_env[trajectory["env"]] += paths
    continuations = {env: continuations_of(paths) for env, paths in by_env.items()} if settings.stitch else {}

    def jobs() -> Iterator[tuple[dict, dict]]:
        for trajectory, paths in zip(trajectories, own):
            further = continuations.get(trajectory["env"], {})
            actions = dict.fromkeys(p.actions for path in paths for p in stitched(path, further, settings.stitch))
            count("path[s] looked at", len(actions))
            work = job_of(achieved_job, env=trajectory["env"], task=trajectory["task"], paths=list(actions))
            yield trajectory, work

    for number, (trajectory, solved) in enumerate(results(pool, jobs(), on_error)):
        for k, (task, actions) in enumerate(solved):
            yield Candidate(trajectory, task, actions, (number, k))


def achieved_job(request: dict, environments: Any, on_step: Callable[..., None]) -> list:
    """Return the tasks that the paths of one trajectory solve, each with its actions (eexp/workers/worker.py).

    Raises:
        UsageError: The environment cannot say.
    """
    env: Environment = environments.get(request["env"])
    if not env.has("achieved"):
        raise UsageError(f"{env.spec} does not say what actions achieve (its class has no method `achieved`)")
    solved = []
    for actions in request["paths"]:
        on_step()
        solved += [(task, actions[since:]) for since, task in env.achieved(request["task"], actions)]
    return solved


def _shortest(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return a shortest path for each task, in the order of the trajectories."""
    best: dict[tuple[str, bytes], Candidate] = {}
    for candidate in candidates:
        key = candidate.source["env"], orjson.dumps(candidate.task, option=orjson.OPT_SORT_KEYS)
        if key not in best or len(candidate.actions) < len(best[key].actions):
            best[key] = candidate
    return sorted(best.values(), key=lambda candidate: candidate.rank)


def _beginning(trajectory: dict) -> Beginning:
    return trajectory["env"], trajectory["steps"][0]["observation"], trajectory["instruction"]


def _beginnings_of(trajectories: Iterable[dict]) -> set[Beginning]:
    """Return the beginnings of the tasks that are demonstrated."""
    return {_beginning(t) for t in trajectories if t["steps"] and succeeded(t.get("outcome"))}


def _panel_beginnings(panel: Iterable[dict], pool: Runner, on_error: OnError) -> Iterator[Beginning]:
    """Yield the beginnings of the tasks of a panel."""
    jobs = ((record, job_of(beginning_job, env=record["env"], task=record["task"])) for record in panel)
    for record, (observation, instruction) in results(pool, jobs, on_error):
        yield record["env"], observation, instruction


def beginning_job(request: dict, environments: Any, on_step: Callable[..., None]) -> tuple[str, str]:
    """Return the first observation and the instruction of a task (eexp/workers/worker.py)."""
    env: Environment = environments.get(request["env"])
    on_step()
    return env.reset(request["task"]).text, env.instruction()


# -- demonstrations ----------------------------------------------------------------------------------------------------


def _executed(
    candidates: list[Candidate],
    pool: Runner,
    settings: RelabelSettings,
    count: Count,
    on_refused: OnError,
    on_error: OnError,
) -> Iterator[tuple[Candidate, dict]]:
    """Execute the path of each candidate in its task; yield the trajectories of those that solve it."""
    fields = {"admissible": settings.admissible, "seed": settings.seed, "prune": settings.prune}

    def jobs() -> Iterator[tuple[Any, dict]]:
        for candidate in candidates:
            source = candidate.source
            work = job_of(execute_job, env=source["env"], task=candidate.task, actions=candidate.actions, **fields)
            yield candidate, work

    for candidate, result in results(pool, jobs(), lambda failed, error: on_error(failed.source, error)):
        source = candidate.source
        if refused := result["refused"]:
            count("path[s] refused", 1)
            evidence = {"task": candidate.task, "actions": candidate.actions, **refused["evidence"]}
            on_refused(source, InputError(refused["reason"], evidence=evidence))
            continue
        count("action[s] pruned", result["pruned"])
        origin = source.get("origin") or source["id"]
        lineage = {"lineage": source["lineage"]} if "lineage" in source else {}
        yield candidate, {**result["trajectory"], "origin": origin, **lineage}


def execute_job(request: dict, environments: Any, on_step: Callable[..., None]) -> dict:
    """Execute a path in the task that it is said to solve (eexp/workers/worker.py).

    Returns:
        `trajectory`, or in `refused` the reason why the path does not demonstrate the task; and how many actions were
        pruned.
    """
    env: Environment = environments.get(request["env"])
    task, actions = request["task"], request["actions"]
    record_id = f"{env.spec}/{task['id']}/relabelled"

    def execute(actions: list[str]) -> dict:
        on_step()
        try:
            observation = first = env.reset(task)
        except InputError as e:
            if isinstance(e, EnvironmentFailed):
                raise
            raise _NotSolved(f"the environment has no such task: {e.message}", evidence=e.evidence) from None
        instruction, steps = env.instruction(), []
        for i, action in enumerate(actions):
            if observation.done or succeeded(observation.outcome()):
                raise _NotSolved(f"the task is over before {short(action)}", evidence=observation.outcome())
            seed = seed_of(request["seed"], record_id, i)
            shown = observation if i else observation.at_beginning()
            steps.append(trajectory_step(env, shown, action, request["admissible"], seed))
            on_step()
            observation = env.step(action)
            if not observation.valid:
                raise _NotSolved(f"{short(action)} is refused in this task", evidence=observation.outcome())
        if not succeeded(observation.outcome()):
            raise _NotSolved("its last action does not solve the task", evidence=observation.outcome())
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

    try:
        trajectory = execute(actions)
    except _NotSolved as e:
        return {"trajectory": None, "refused": {"reason": e.message, "evidence": {"outcome": e.evidence}}, "pruned": 0}
    if request["prune"]:
        trajectory = _pruned(trajectory, execute)
    return {"trajectory": trajectory, "refused": None, "pruned": len(actions) - len(trajectory["steps"])}


class _NotSolved(InputError):
    """Error for a path that does not solve its task; the evidence is the last outcome."""


def _pruned(trajectory: dict, execute: Callable[[list[str]], dict]) -> dict:
    """Return a demonstration without the actions that its task does not need, as far as one or two at a time tell.

    The last action stays, and so do actions whose observation tells what nothing before it determines: an agent that
    leaves them out would act on what it cannot know.
    """
    i = len(trajectory["steps"]) - 2
    while i >= 0:
        steps = trajectory["steps"]
        for length in (1, 2):
            after = steps[i + 1 : i + length + 1]  # the steps that begin with what was observed after these actions
            if i + length >= len(steps) or any(step.get("unknown") for step in after):
                break
            actions = [step["action"] for step in steps]
            try:
                trajectory = execute(actions[:i] + actions[i + length :])
                break
            except _NotSolved:
                pass
        i = min(i - 1, len(trajectory["steps"]) - 2)
    return trajectory


def _capped(demonstrations: list[tuple[Candidate, dict]], settings: RelabelSettings, count: Count) -> Iterator[dict]:
    """Yield the demonstrations within the limits, in their order."""
    kept = {trajectory["id"] for _, trajectory in demonstrations}
    if settings.per_trajectory is not None:
        kept = _within(
            demonstrations,
            lambda candidate, trajectory: candidate.source["id"],
            lambda candidate, trajectory: (-len(trajectory["steps"]), candidate.rank),
            settings.per_trajectory,
        )
    if settings.per_goal is not None:
        kept = _within(
            [one for one in demonstrations if one[1]["id"] in kept],
            lambda candidate, trajectory: trajectory["instruction"],
            lambda candidate, trajectory: seed_of(settings.seed, trajectory["id"], "relabel"),
            settings.per_goal,
        )
    count("left out by --per-goal or --per-trajectory", len(demonstrations) - len(kept))
    lengths: Counter[int] = Counter()
    for _, trajectory in demonstrations:
        if trajectory["id"] in kept:
            lengths[len(trajectory["steps"])] += 1
            yield trajectory
    for length, n in sorted(lengths.items()):
        count(f"of {length} action[s]".replace("[s]", "" if length == 1 else "s"), n)


def _within(
    demonstrations: list[tuple[Candidate, dict]],
    group_of: Callable[[Candidate, dict], str],
    order: Callable[[Candidate, dict], Any],
    limit: int,
) -> set[str]:
    """Return the ids of the first `limit` demonstrations of every group, by `order`."""
    groups: dict[str, list[tuple[Candidate, dict]]] = defaultdict(list)
    for one in demonstrations:
        groups[group_of(*one)].append(one)
    return {t["id"] for group in groups.values() for _, t in sorted(group, key=lambda one: order(*one))[:limit]}
