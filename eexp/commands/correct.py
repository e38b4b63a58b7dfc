"""`eexp correct`: the turns at which an agent went wrong, and the expert's way on from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from eexp.acting.settings import CorrectSettings
from eexp.console import options
from eexp.console.parameters import command_options

if TYPE_CHECKING:
    from eexp.console.stream import Stream
    from eexp.workers.pool import Pool


@click.command("correct")
@options.env_override
@command_options(CorrectSettings)
@options.workers
@options.streams("episode", resume=True, shards=True)
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
    from eexp.acting.correct import correct

    with stream.open("correct", env=env, **settings.lineage()) as io, open_pool(env) as pool:
        episodes, watched = io.records(skip_done=False), io.watch(pool, "episode")
        for trajectory in correct(episodes, watched, settings, skip=io.done, count=io.count, on_error=io.fail):
            io.write(trajectory)
