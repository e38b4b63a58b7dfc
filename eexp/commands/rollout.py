"""`eexp rollout`: execute every alternative from the state it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from eexp.acting.settings import RolloutSettings
from eexp.console import options
from eexp.console.parameters import command_options
from eexp.errors import InputError
from eexp.records.outcomes import Shares

if TYPE_CHECKING:
    from eexp.console.stream import Stream
    from eexp.workers.pool import Pool


@click.command("rollout")
@options.env_override
@command_options(RolloutSettings)
@options.workers
@options.streams("trajectory", resume=True, shards=True)
def command(env: str | None, settings: RolloutSettings, open_pool: Callable[..., Pool], stream: Stream) -> None:
    """Execute every alternative from its own state and record what happened.

    Alternatives that have an outcome keep it, unless --again is given. So a second pool costs only its own execution.

    Every branch is verified. The observation in the state, and the next one on the expert's path, must equal the
    record. So must the instruction. At the end of the path, the score, the success, and whether the episode is over
    must equal the record, too. Otherwise the branch is refused and counted, and the --rejects file keeps it with the
    evidence (exit code 4). The environment's answer to an invalid action is an outcome like any other.

    A copy of an environment's state may still behave differently from the environment. So some alternatives are
    executed a second time, by a replay from the task's beginning (--audit). If the second outcome differs, the run ends
    (exit code 1), and the message says whether --fork replay helps.

    Environments live in separate processes. If one crashes, hangs or takes too much memory, its trajectory is tried
    again. There are three attempts. If all three end on the same alternative, this alternative is refused, with the
    cause. An alternative that ends the environment's program is refused, too. All others are executed. A trajectory
    whose own path fails in this way is a bad record. The number of processes changes neither the order nor the content
    of the output.

    The summary counts the executed alternatives by source and pool. It gives four shares: those that are valid, that
    change the state (another observation, or the end), that lead to the expert's outcome (the same observation), and
    that finish the task.

    \b
    Example:
      eexp expert house -n 5 | eexp branch | eexp rollout > rollout.jsonl
    """
    from eexp.acting.rollout import rollout

    # How to fork, and how many workers there are, changes nothing in the output, so neither is in its lineage.
    recorded = {"again": settings.again or None, "audit": settings.audit}
    shares = Shares()
    with stream.open("rollout", env=env, **recorded) as io, open_pool(env) as pool:

        def refuse(trajectory: dict, error: InputError) -> None:
            note = f"{trajectory['id']}: {error}"
            io.reject({"type": "trajectory", "id": trajectory["id"]}, error, note=note)

        watched = io.watch(pool, "trajectory")
        executed = rollout(io.records(), watched, settings, on_refused=refuse, count=io.count, on_error=io.fail)
        for trajectory in executed:
            io.write(trajectory)
            shares.add(trajectory)
        for line in shares.lines():
            io.note(line)
        if io.counts["in"] and not shares.counts:
            io.note("no state has alternatives: only the paths were compared; `eexp branch` adds alternatives")
