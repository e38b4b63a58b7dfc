"""Execute every alternative from the state it belongs to (Early Experience, equation for D_rollout)."""

from __future__ import annotations

from collections.abc import Iterator

from eexp.acting.audit import Audit, first_half
from eexp.acting.execution import job
from eexp.acting.settings import RolloutSettings
from eexp.errors import NoRoom
from eexp.records.callbacks import Count, OnError, add_counts, ignore_error, no_count, stop_at_error
from eexp.workers.jobs import ELSEWHERE, Runner, error_from_answer, job_of, results


def rollout(
    trajectories: Iterator[dict],
    pool: Runner,
    settings: RolloutSettings | None = None,
    *,
    on_refused: OnError = ignore_error,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Fill in the outcome of every alternative that has none.

    A branch point that is not where the record says is refused: its alternatives keep `outcome` null and say why in
    `refused`.

    Args:
        trajectories: Trajectories with alternatives.
        on_refused: Called with the trajectory of a branch point that is refused, and the evidence.
        count: Called with what was executed and refused.
        on_error: Called with a trajectory whose own path cannot be walked.

    Raises:
        EexpError: An alternative had another outcome the second time (`AuditFailed`, eexp/acting/audit.py), or no
            environment can be opened.
    """
    settings = settings or RolloutSettings()
    audit = Audit(settings.audit)
    work = job_of(job, fork=settings.fork, again=settings.again)
    alone = False  # whether the environment cannot be opened in a second process

    def jobs() -> Iterator[tuple[dict, dict]]:
        for t in trajectories:
            places = audit.choose(t, settings.again)
            elsewhere = [] if alone else first_half(t, places)
            yield t, {**work, "trajectory": t, "audit": places, "elsewhere": elsewhere}

    for trajectory, result in results(pool, jobs(), on_error):
        for answer in result["refused"]:
            on_refused(trajectory, error_from_answer(answer))
        add_counts(count, result["counts"])
        audited = result.get(ELSEWHERE)
        if isinstance(audited, NoRoom):
            if not alone:
                reason = str(audited).replace("[", "(").replace("]", ")")  # square brackets mark plurals
                count(f"audit[s] in another process not made, and no more tried: {reason}", 1)
            alone = True
        elif audited:
            add_counts(count, audited)
        yield result["trajectory"]
