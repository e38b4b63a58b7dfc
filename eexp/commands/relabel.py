"""`eexp relabel`: hindsight demonstrations of the tasks that executed actions solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from eexp.acting.settings import RelabelSettings
from eexp.console import options
from eexp.console.parameters import command_options
from eexp.errors import InputError
from eexp.records.outcomes import with_outcomes_asked_for

if TYPE_CHECKING:
    from eexp.console.stream import Stream
    from eexp.workers.pool import Pool


@click.command("relabel")
@options.env_override
@command_options(RelabelSettings)
@options.workers
@options.streams("trajectory")
def command(env: str | None, settings: RelabelSettings, open_pool: Callable[..., Pool], stream: Stream) -> None:
    """Make hindsight demonstrations of the tasks that executed actions solve.

    Reads trajectories with outcomes, as `eexp rollout` writes them, with what `eexp follow` adds, and failed episodes
    (`eexp import episodes`). An alternative that does not solve the task at hand may solve another one: where the
    task is to put the apple on the bed, one that puts it on the desk demonstrates "Put the apple on the desk.". The
    environment says which task a path of actions solves. Only tasks of a form that it has are written.

    Every path is executed in the task that it is said to solve. It is written if its last action solves the task, and
    no action before. The --rejects file keeps the others with the evidence. Of several paths to one task, the shortest
    is written, and none to a task that is demonstrated already. The output is like that of `eexp expert`, and every
    stage reads it.

    \b
    Example:
      eexp expert house -n 20 | eexp branch -k 20 --from admissible | eexp rollout > rollout.jsonl
      eexp relabel rollout.jsonl | eexp imitation-data > hindsight.jsonl
    """
    from eexp.acting.relabel import relabel
    from eexp.records.jsonl import read

    panel = [] if settings.apart_from is None else list(read([settings.apart_from], "task"))
    if settings.apart_from:
        stream.also_read.append(settings.apart_from)
    with stream.open("relabel", env=env, **settings.lineage()) as io, open_pool(env) as pool:

        def refuse(trajectory: dict, error: InputError) -> None:
            io.keep({"type": "trajectory", "id": trajectory["id"]}, error)

        read_records = with_outcomes_asked_for(io.records(), io.note)
        written = relabel(
            read_records, pool, settings, panel=panel, count=io.count, on_refused=refuse, on_error=io.fail
        )
        for trajectory in written:
            io.write(trajectory)
