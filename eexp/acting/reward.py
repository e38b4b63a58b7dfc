"""Rewards for single turns of an agent's episodes, by the environment's expert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from difflib import SequenceMatcher
from typing import Any

from eexp.acting.expert_ways import Visit, WalkedEpisode
from eexp.acting.importing import episode_jobs
from eexp.acting.settings import RewardSettings
from eexp.envs.base import Environment
from eexp.formats.conversations import Conversation
from eexp.records.callbacks import Count, OnError, add_counts, no_count, stop_at_error
from eexp.records.imagination import only_real
from eexp.records.record import canonical
from eexp.workers.jobs import Runner, job_of, results


def reward(
    episodes: Iterator[dict],
    pool: Runner,
    settings: RewardSettings | None = None,
    *,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield episodes in which every turn has a `reward`.

    Args:
        count: Called with the numbers of turns.
        on_error: Called with an episode that does not replay as it was recorded.

    Raises:
        UsageError: The environment has no expert.
    """
    work = job_of(job, settings=asdict(settings or RewardSettings()))
    jobs = episode_jobs(
        ((episode, episode["id"]) for episode in only_real(episodes, "progress", on_error)), work, on_error
    )
    for episode, result in results(pool, jobs, on_error):
        add_counts(count, result["counts"])
        transcript = [{**turn, "reward": one} for turn, one in zip(episode["transcript"], result["rewards"])]
        yield {**episode, "transcript": transcript}


def rewards(
    env: Environment,
    task: dict,
    conversation: Conversation,
    record_id: str,
    settings: RewardSettings | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> tuple[list[float], Counter[str]]:
    """Return the reward of each turn of an episode, and numbers for the summary.

    The arguments and errors are those of `expert_ways.WalkedEpisode`.
    """
    settings = settings or RewardSettings()
    reward_of = progress if settings.by == "progress" else similarity
    walk = WalkedEpisode(env, task, conversation, record_id, admissible=0, on_step=on_step)
    visits = list(walk.visits())
    return [reward_of(visit) for visit in visits], Counter({"turn[s]": len(visits)})


def progress(visit: Visit) -> float:
    """Return by how many actions a turn has brought the expert nearer to the end, no more than one and no less than -1.

    Within these limits that is the advantage of the action over the expert's, plus one, in actions to the end
    (AggreVaTe; Ross and Bagnell 2014, arXiv 1406.5979). It is 0 from one state without a way to the end to another one.
    """
    before, after = visit.way.length, visit.way_after.length
    return 0.0 if before == after else max(-1.0, min(1.0, before - after))


def similarity(visit: Visit) -> float:
    """Return the similarity of an action to the expert's, from 0 to 1; 0 where the expert has none.

    It is the share of characters in common sequences, 2 M / T (difflib), as in supervised reinforcement learning (Deng
    et al. 2025, arXiv 2510.25992).
    """
    if not visit.way.steps:
        return 0.0
    return SequenceMatcher(None, canonical(visit.step["action"]), canonical(visit.way.steps[0]["action"])).ratio()


def job(request: dict, environments: Any, on_step: Callable[[], None]) -> dict:
    """Compute the rewards of one episode in a worker (eexp/workers/worker.py)."""
    of_turns, counts = rewards(
        environments.get(request["env"]),
        request["task"],
        Conversation(**request["conversation"]),
        request["id"],
        RewardSettings(**request["settings"]),
        on_step,
    )
    return {"rewards": of_turns, "counts": counts}
