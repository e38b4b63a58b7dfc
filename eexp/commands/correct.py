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

    This is DAgger: expert labels for states that the agent itself visits. Reads episodes, as `eexp eval` writes them;
    play tasks of the training split. The expert plays to the end from one state of the episode after the other. A turn
    fails if the expert needs as many actions after it as before, or more: the action was refused, had no effect, led
    away, or ended the episode. The first turn that fails is corrected, or the first N (--turns).

    A correction is a trajectory: the agent's turns up to the one that failed, and then the expert's to the end. The
    action that failed is an alternative there, with its outcome and with what the expert does after it. `eexp
    imitation-data` makes examples of it. `eexp reflect` writes what is wrong with the agent's action and what to do
    instead. `eexp preference-data --worse later` prefers the expert's action. Earlier turns that failed are part of the
    history and are never imitated.

    The episode is replayed. If the replay differs from the record, it is a bad record.

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
