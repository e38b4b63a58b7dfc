"""`eexp reward`: a reward for every turn of an agent's episodes, by the environment's expert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eexp import options
from eexp.callbacks import Count, OnError, no_count, stop_at_error
from eexp.errors import InputError
from eexp.settings import command_options
from eexp.stage_settings.reward import RewardSettings

if TYPE_CHECKING:
    from eexp.envs.base import Environment
    from eexp.stream import Stream
    from eexp.workers.pool import Pool


def reward(
    episodes: Iterator[dict],
    env_of: Callable[[dict], Environment],
    settings: RewardSettings | None = None,
    *,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield episodes in which every turn has a `reward`, computed in this process.

    Args:
        episodes: The episodes.
        env_of: Returns the environment of an episode.
        settings: What the reward is.
        count: Called with the numbers of turns.
        on_error: Called with an episode that does not replay as it was recorded.
    """
    from eexp.formats.episodes import conversation_of
    from eexp.rewarding import rewards

    for episode in episodes:
        try:
            conversation = conversation_of(episode)
            of_turns, counts = rewards(env_of(episode), episode["task"], conversation, episode["id"], settings)
        except InputError as e:
            on_error(episode, e)
            continue
        for label, number in counts.items():
            count(label, number)
        yield _rewarded(episode, of_turns)


def _rewarded(episode: dict, of_turns: list[float]) -> dict:
    transcript = [{**turn, "reward": one} for turn, one in zip(episode["transcript"], of_turns)]
    return {**episode, "transcript": transcript}


@click.command("reward")
@options.env_override
@command_options(RewardSettings)
@options.workers
@options.streams("episode", resume=True)
def command(env: str | None, settings: RewardSettings, open_pool: Callable[..., Pool], stream: Stream) -> None:
    """Give every turn of an agent's episodes a reward, by the environment's expert.

    Success says at the end of an episode whether it was good; these rewards say it at every turn. By progress, the
    expert plays to the end from every state that the agent visited, and a turn's reward is by how many actions it got
    nearer: 1 for an action as good as the expert's, 0 for one that was refused or changed nothing, -1 for one that led
    away. By similarity, the action is compared with the expert's in the same state. `eexp policy-data --turn-rewards`
    adds them to what an episode earned.

    What the episode recorded is compared with the replay; an episode that goes differently is a bad record.

    \b
    Example:
      eexp eval house -m random -n 4 > episodes.jsonl
      eexp reward episodes.jsonl > rewarded.jsonl
    """
    from eexp.importing import episode_requests
    from eexp.rewarding import job

    work = {"do": f"{job.__module__}:{job.__name__}", "settings": asdict(settings)}
    with stream.open("reward", env=env, **settings.lineage()) as io, open_pool(env) as pool:
        requests = episode_requests(io, ((episode, episode["id"]) for episode in io.records()))
        jobs = ((place, {**work, **request}) for place, request in requests)
        total = 0.0
        for episode, result in io.results(io.progress(pool.run(jobs), "episode")):
            io.counts.update(result["counts"])
            total += sum(result["rewards"])
            io.write(_rewarded(episode, result["rewards"]))
        io.counts.update(pool.counts)
        if turns := io.counts["turn[s]"]:
            io.note(f"mean reward of a turn: {total / turns:.2f}")
