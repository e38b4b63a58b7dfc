"""`eexp correct`: the turns at which an agent went wrong, and the expert's way on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eexp import options
from eexp.callbacks import Count, OnError, no_count, stop_at_error
from eexp.errors import InputError
from eexp.settings import command_options
from eexp.stage_settings.correct import CorrectSettings

if TYPE_CHECKING:
    from eexp.envs.base import Environment
    from eexp.stream import Stream
    from eexp.workers.pool import Pool


def correct(
    episodes: Iterator[dict],
    env_of: Callable[[dict], Environment],
    settings: CorrectSettings | None = None,
    *,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield the corrections of episodes (`correcting.correct`), in this process.

    Args:
        episodes: The episodes.
        env_of: Returns the environment of an episode.
        settings: How many turns to correct.
        count: Called with the numbers of turns that failed, and how.
        on_error: Called with an episode that does not replay as it was recorded.
    """
    from eexp.correcting import correct as correct_episode
    from eexp.formats.episodes import conversation_of
    from eexp.importing import identified

    for episode, record_id in identified(episodes):
        try:
            conversation = conversation_of(episode)
            corrected = correct_episode(env_of(episode), episode["task"], conversation, record_id, settings)
        except InputError as e:
            on_error(episode, e)
            continue
        for label, number in corrected.counts.items():
            count(label, number)
        for trajectory in corrected.trajectories:
            yield _with_source(trajectory, episode)


def _with_source(trajectory: dict, episode: dict) -> dict:
    """Return a correction with the model that was corrected, and the stages that made its episode."""
    from eexp.formats.episodes import source_of

    return {**trajectory, "source": source_of(episode), "lineage": episode.get("lineage", [])}


@click.command("correct")
@options.env_override
@command_options(CorrectSettings)
@options.workers
@options.streams("episode", resume=True)
def command(env: str | None, settings: CorrectSettings, open_pool: Callable[..., Pool], stream: Stream) -> None:
    """Find where an agent went wrong, and let the expert go on from there.

    Reads episodes, as `eexp eval` writes them; play tasks of the training split for it. The expert plays to the end
    from one state after the other, up to the last one that is corrected. A turn after which it needs as many actions as
    before, or more, failed: it was refused, had no effect, led away, or ended the episode. The first such turn of each
    episode, or the first N, is corrected.

    A correction is a trajectory: the agent's turns up to the one that failed, and then the expert's to the end. The
    action that failed is an alternative there, with its outcome and with what the expert does after it. So
    `eexp imitation-data` makes examples in states that the agent itself gets into, `eexp reflect` writes what is wrong
    with its action and what to do instead, and `eexp preference-data --worse later` prefers the one to the other.
    Turns that failed before the corrected one are history, and never imitated.

    What the episode recorded is compared with the replay; an episode that goes differently is a bad record.

    \b
    Example:
      eexp eval house -m random --split train -n 4 > episodes.jsonl
      eexp correct episodes.jsonl | eexp reflect > critiques.jsonl
    """
    from eexp.correcting import job
    from eexp.importing import episode_requests, identified

    work = {"do": f"{job.__module__}:{job.__name__}", "settings": asdict(settings)}
    with stream.open("correct", env=env, **settings.lineage()) as io, open_pool(env) as pool:
        written: set[str] = set()  # ids of corrections that an earlier run has written, of episodes that it did not end

        def due() -> Iterator[tuple[dict, str]]:
            for episode, record_id in identified(io.records(skip_done=False)):
                ids = [f"{record_id}/correct/{number}" for number in range(1, settings.turns + 1)]
                done = [name for name in ids if io.done(name)]
                if ids[-1] not in done:
                    written.update(done)
                    yield episode, record_id

        jobs = ((place, {**work, **request}) for place, request in episode_requests(io, due()))
        for episode, result in io.results(io.progress(pool.run(jobs), "episode")):
            io.counts.update(result["counts"])
            for trajectory in result["trajectories"]:
                if trajectory["id"] not in written:
                    io.write(_with_source(trajectory, episode))
        io.counts.update(pool.counts)
