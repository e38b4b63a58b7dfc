"""`eexp rollout`: execute every alternative from the state it belongs to (Early Experience, equation for D_rollout)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from eexp import options
from eexp.branching.audit import FIRST, FIRST_SHARE, Audit
from eexp.callbacks import Count, OnError, no_count, stop_at_error
from eexp.envs.base import FORK_AUTO, FORK_WAYS, Environment
from eexp.errors import InputError
from eexp.outcomes import Shares
from eexp.settings import command_options, option

if TYPE_CHECKING:
    from eexp.stream import Stream
    from eexp.workers.pool import Pool


@dataclass(frozen=True)
class RolloutSettings:
    """Settings of `rollout`."""

    fork: str = option(
        FORK_AUTO,
        type=click.Choice([FORK_AUTO, *FORK_WAYS]),
        help="How to leave the expert's path and come back: by the environment's own copy of its state, a fork of "
        "its process, or walking there again.",
    )
    again: bool = option(False, help="Execute alternatives that have an outcome, too.")
    audit: float = option(
        0.02,
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        help="Share of the alternatives to execute a second time, by a replay from the task's beginning; another "
        f"outcome ends the run (exit code 1). Of the first {FIRST} of a run at least {FIRST_SHARE:g}, and one in every "
        "trajectory. 0 for none.",
    )


def _ignore(record: dict, error: InputError) -> None:
    """Ignore a branch point that is refused."""


def rollout(
    trajectories: Iterator[dict],
    env_of: Callable[[dict], Environment],
    settings: RolloutSettings | None = None,
    *,
    on_refused: OnError = _ignore,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Fill in the outcome of every alternative that has none, in this process.

    A branch point that is not where the record says is refused: its alternatives keep `outcome` null and say why in
    `refused`.

    Args:
        trajectories: Trajectories with alternatives.
        env_of: Returns the environment of a trajectory.
        settings: How to execute, and what.
        on_refused: Called with the trajectory of a branch point that is refused, and the evidence.
        count: Called with what was executed and refused.
        on_error: Called with a trajectory whose own path cannot be walked.

    Raises:
        AuditFailed: An alternative had another outcome the second time (eexp/branching/audit.py).
    """
    from eexp.branching.execution import execute

    settings = settings or RolloutSettings()
    audit = Audit(settings.audit)
    for trajectory in trajectories:
        try:
            chosen = audit.choose(trajectory, settings.again)
            executed = execute(env_of(trajectory), trajectory, settings.fork, again=settings.again, audit=chosen)
        except InputError as e:
            on_error(trajectory, e)
            continue
        for error in executed.refused:
            on_refused(trajectory, error)
        for label, number in executed.counts.items():
            count(label, number)
        yield executed.trajectory


@click.command("rollout")
@options.env_override
@command_options(RolloutSettings)
@options.workers
@options.streams("trajectory", resume=True)
def command(env: str | None, settings: RolloutSettings, open_pool: Callable[..., Pool], stream: Stream) -> None:
    """Execute every alternative from its own state and record what happened.

    Alternatives that have an outcome keep it (see --again), so that a second pool costs only its own execution.

    Before an alternative runs, the observation at its branch point must equal the recorded one, and so must the one
    after it, where the expert's path goes on; otherwise the branch is refused, counted, and kept with the evidence in
    the --rejects file (exit code 4). So must the instruction, and at the end the score, the success and whether the
    episode is over. The environment's answer to an invalid action is an outcome like any other. The environment is the
    one the records name.

    This does not show that a copy of the environment answers as the environment would. So some alternatives are
    executed a second time, by a replay from the task's beginning (--audit). If one has another outcome then, the run
    ends (exit code 1), and the message says whether --fork replay helps.

    Environments live in processes of their own. One that crashes, hangs or grows costs a retry. An alternative on which
    the environment's program ends, or its process is lost three times, is refused with the cause, and all others are
    executed; a trajectory whose own path fails so is a bad record. Order and content of the output do not depend on the
    number of processes.

    The summary tells, by source and pool, what share of the executed alternatives is valid, changes the state (a
    different observation, or the end), leads to the expert's own outcome (the same observation), and finishes the task.

    \b
    Example:
      eexp expert house -n 5 | eexp branch | eexp rollout > rollout.jsonl
    """
    from eexp.branching.execution import job

    # How to fork, and how many workers there are, changes nothing in the output, so neither is in its lineage.
    shares = Shares()
    audit, recorded = Audit(settings.audit), {"again": settings.again or None, "audit": settings.audit}
    with stream.open("rollout", env=env, **recorded) as io, open_pool(env) as pool:
        work = {"do": f"{job.__module__}:{job.__name__}", "fork": settings.fork, "again": settings.again}
        jobs = (
            ((io.where, t), {**work, "trajectory": t, "audit": audit.choose(t, settings.again)}) for t in io.records()
        )
        for trajectory, result in io.results(io.progress(pool.run(jobs), "trajectory")):
            for fields in result["refused"]:
                error = InputError(**fields)
                note = f"{trajectory['id']}: {error}"
                io.reject({"type": "trajectory", "id": trajectory["id"]}, error, note=note)
            io.counts.update(result["counts"])
            io.write(result["trajectory"])
            shares.add(result["trajectory"])
        io.counts.update(pool.counts)
        for line in shares.lines():
            io.note(line)
        if io.counts["in"] and not shares.counts:
            io.note("no state has alternatives: only the paths were compared; `eexp branch` adds alternatives")
