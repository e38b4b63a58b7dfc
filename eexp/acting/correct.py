"""Corrections of an agent's episodes: where it went wrong, and the expert's way on from there.

The expert plays to the end from one state of the episode after the other. A turn after which it needs as many actions
as before, or more, brought the agent no nearer to the end: the turn failed. What the expert does in that state, and the
agent's own action with what it led to, are an expert's step and its alternative, in a state that the agent itself gets
into. Imitating an expert there is DAgger (Ross et al. 2011, arXiv 1011.0686).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from eexp.acting.expert_ways import Visit, WalkedEpisode
from eexp.acting.importing import episode_jobs, from_episode, identified
from eexp.acting.settings import CorrectSettings
from eexp.envs.base import Environment
from eexp.formats.conversations import Conversation
from eexp.records.callbacks import Count, OnError, Skip, add_counts, no_count, skip_none, stop_at_error
from eexp.records.imagination import only_real
from eexp.records.outcomes import transition_of
from eexp.workers.jobs import Runner, job_of, results

#: How a turn failed, in words, by the kind of its transition (outcomes.TRANSITIONS).
FAILURES = {
    "invalid": "refused",
    "unchanged": "without effect",
    "done": "that ended the episode",
    "changed": "that led away",
}


def correct(
    episodes: Iterator[dict],
    pool: Runner,
    settings: CorrectSettings | None = None,
    *,
    skip: Skip = skip_none,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield the corrections of episodes (`correct_episode`), each with the model that was corrected as its `source`.

    Args:
        count: Called with the numbers of turns that failed, and how.
        on_error: Called with an episode that does not replay as it was recorded.

    Raises:
        UsageError: The environment has no expert.
    """
    settings = settings or CorrectSettings()
    written: set[str] = set()  # ids of corrections that an earlier run has written, of episodes that it did not end

    def due() -> Iterator[tuple[dict, str]]:
        for episode, record_id in identified(only_real(episodes, "a failed turn", on_error)):
            ids = [f"{record_id}/correct/{number}" for number in range(1, settings.turns + 1)]
            done = [name for name in ids if skip(name)]
            if ids[-1] not in done:
                written.update(done)
                yield episode, record_id

    jobs = episode_jobs(due(), job_of(job, settings=asdict(settings)), on_error)
    for episode, result in results(pool, jobs, on_error):
        add_counts(count, result["counts"])
        for trajectory in result["trajectories"]:
            if trajectory["id"] not in written:
                yield from_episode(trajectory, episode)


@dataclass
class Corrected:
    """The corrections of one episode."""

    trajectories: list[dict] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def correct_episode(
    env: Environment,
    task: dict,
    conversation: Conversation,
    record_id: str,
    settings: CorrectSettings | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Corrected:
    """Return the corrections of an episode's first failed turns.

    Each is a trajectory: the agent's turns up to the one that failed, and from there the expert's. At that step the
    agent's action is an alternative with its outcome, and `then` is what the expert does after it. Earlier turns that
    failed, or in whose state the expert knows no way, have `mistake` true; steps that stand in an earlier correction of
    the episode have `repeated` true.

    Args:
        record_id: With "/correct/1" and so on, the ids of the trajectories.
        on_step: Called before every step of the environment.

    Raises:
        UsageError: The environment has no expert.
        InputError: The environment does not observe what the episode recorded.
    """
    settings = settings or CorrectSettings()
    walk = WalkedEpisode(
        env, task, conversation, record_id, admissible=settings.admissible, seed=settings.seed, on_step=on_step
    )
    corrected, history = Corrected(), []
    counts = corrected.counts
    for visit in walk.visits():
        if not history and not visit.way.successful:
            counts["episode[s] left out, since the expert does not complete the task"] += 1
            return corrected
        counts["turn[s] looked at"] += 1
        if not visit.failed:
            # Where the expert knows no way, nothing tells that a turn was right.
            history.append(visit.step if visit.way.successful else {**visit.step, "mistake": True})
            continue
        counts["turn[s] that failed"] += 1
        counts[f"of them {FAILURES[transition_of(visit.before.text, visit.after.outcome())]}"] += 1
        number = len(corrected.trajectories) + 1
        correction = {**walk.trajectory, "id": f"{record_id}/correct/{number}", **_corrected(visit, history, number)}
        # Records of one task stay together wherever records are split or held out.
        corrected.trajectories.append({**correction, "origin": f"{env.spec}/{task.get('id')}"})
        if number == settings.turns:
            break
        history = [*map(_repeated, history), {**visit.step, "mistake": True}]
    counts["episode[s] without a turn that failed"] += not corrected.trajectories
    return corrected


def _repeated(step: dict) -> dict:
    return step if step.get("mistake") else {**step, "repeated": True}


def _corrected(visit: Visit, history: list[dict], number: int) -> dict:
    """Return the steps and the outcome of the trajectory that corrects a turn.

    The expert's way to the end is much the same from one turn to the next: only the first correction teaches it.
    """
    action, way = visit.step["action"], visit.way
    following = way.steps[1:] if number == 1 else map(_repeated, way.steps[1:])
    mistaken = {
        "action": action,
        "source": "policy",
        "logprob": None,
        "outcome": visit.after.outcome(),
        "then": visit.way_after.as_later_steps(),
    }
    alternatives = [mistaken] if action.strip() else []  # an answer without an action is no alternative
    first = {**way.steps[0], "alternatives": alternatives}
    return {"steps": [*history, first, *following], "outcome": way.outcomes[-1]}


def job(request: dict, environments: Any, on_step: Callable[[], None]) -> dict:
    """Correct one episode in a worker (eexp/workers/worker.py)."""
    corrected = correct_episode(
        environments.get(request["env"]),
        request["task"],
        Conversation(**request["conversation"]),
        request["id"],
        CorrectSettings(**request["settings"]),
        on_step,
    )
    return {"trajectories": corrected.trajectories, "counts": corrected.counts}
