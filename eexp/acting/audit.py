"""Choose alternatives that are executed a second time, by a replay, and report an outcome that is another one then.

The walk along the expert's path shows that a branch starts and leaves the path where the record says. It does not show
that a copy answers as the environment itself would: one that restores only part of its state, or that shares some of
it, can leave every observation of the path as it was and give wrong outcomes all the same. So a share of the
alternatives is executed once more, after a walk from the beginning of the task, after all others of the trajectory and
in reverse order. What differs then proves that outcomes are wrong, of this alternative and of unknown others.

A share says little where there are few alternatives: 2 % of 100 would miss an environment of which a third of the
outcomes are wrong in one run of two. So a larger share is taken of the first ones of a run.

What stays in the memory of a process, such as a cache, makes a replay there agree with the first answer. So half of the
alternatives that are audited are replayed in another process, too.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from eexp.errors import EexpError, short
from eexp.records.record import seed_of

if TYPE_CHECKING:
    from eexp.envs.differences import Difference

Place = tuple[int, int]  # step, and number of the alternative among those to execute there

#: Of an environment's first alternatives in a run, at least FIRST_SHARE is audited, and one in every trajectory.
FIRST = 200
FIRST_SHARE = 0.1


def is_due(alternative: dict, again: bool) -> bool:
    """Return whether to execute an alternative; one whose branch point was refused before is tried again."""
    return again or not alternative.get("outcome")


class Audit:
    """The choice of alternatives to audit in one run.

    Which ones are chosen depends on the trajectory alone, but for the first ones of the run, of which there are more.

    Args:
        share: The share of the alternatives, from 0 to 1; 0 for no audit at all.
    """

    def __init__(self, share: float):
        self.share = share
        self._alternatives: Counter[str] = Counter()  # so far, by environment

    def choose(self, trajectory: dict, again: bool = False) -> list[Place]:
        """Return the places of the alternatives of a trajectory to audit, the last one first."""
        places = [
            (i, k)
            for i, step in enumerate(trajectory["steps"])
            for k in range(sum(is_due(alternative, again) for alternative in step.get("alternatives") or []))
        ]
        if not self.share or not places:
            return []
        draws = {place: _draw(trajectory, place) for place in places}
        chosen = {place for place in places if draws[place] < self.share}
        if self._alternatives[trajectory["env"]] < FIRST:
            chosen |= set(sorted(places, key=draws.__getitem__)[: math.ceil(FIRST_SHARE * len(places))])
        self._alternatives[trajectory["env"]] += len(places)
        return sorted(chosen, reverse=True)


def first_half(trajectory: dict, places: list[Place]) -> list[Place]:
    """Return those of the audited places to replay in another process, too: half of them, at least one if any."""
    ordered = sorted(places, key=lambda place: _draw(trajectory, place))
    return sorted(ordered[: math.ceil(len(places) / 2)], reverse=True)


def _draw(trajectory: dict, place: Place) -> float:
    """Return a number from 0 to 1 that decides whether an alternative is audited."""
    return seed_of("audit", trajectory["id"], *place) / 2**63


class AuditFailed(EexpError):
    """Error raised when an alternative has another outcome in a replay than it had before.

    It ends the run: no outcome of this environment can be trusted, executed in the same way.
    """


def copies_differ(where: str, action: str, spec: str, way: str, difference: Difference) -> AuditFailed:
    """Return the error for an alternative whose outcome in a copy is not that of two replays.

    Args:
        where: The trajectory and the step.
        difference: From the outcome in the copy (`observed`) to that of the replays (`recorded`).
    """
    copied, replayed = difference.excerpts()
    return AuditFailed(
        f"{where}: after {short(action)} {difference.name} is {copied} by --fork {way}, and {replayed} in a replay: "
        f"copies of {spec} are not exact, and what this run has written may be wrong. Run it anew, without --resume, "
        "by --fork replay; `eexp env check` looks for the cause"
    )


def processes_differ(where: str, action: str, spec: str, difference: Difference) -> AuditFailed:
    """Return the error for an alternative whose outcome in a replay in another process is another one.

    Args:
        where: The trajectory and the step.
        difference: From the outcome in one process (`observed`) to that in the other (`recorded`).
    """
    here, elsewhere = difference.excerpts()
    return AuditFailed(
        f"{where}: after {short(action)} {difference.name} is {here} in one process, and {elsewhere} in a replay in "
        f"another one: {spec} does not answer in the same way in every process (a cache, say, or a seed of a process), "
        "and what this run has written may be wrong; `eexp env check` looks for the cause"
    )


def mask_hides_all(where: str, spec: str, n_texts: int) -> AuditFailed:
    """Return the error for an environment whose mask makes all texts of a trajectory equal."""
    return AuditFailed(
        f"{where}: the mask of {spec} leaves nothing in which {n_texts} different observations differ: no comparison "
        "would find a wrong outcome; let it remove only what is random"
    )


def replays_differ(where: str, action: str | None, spec: str, reason: str, replay: str = "a replay") -> AuditFailed:
    """Return the error for an action that does not lead to the same in two replays; None stands for the beginning."""
    after = f"after {short(action)}" if action is not None else "at the beginning"
    return AuditFailed(
        f"{where}: {after}, in {replay}, {reason}: {spec} does not answer in the same way every time, and what this "
        "run has written may be wrong; `eexp env check` looks for the cause, and `mask` is for what is random in a text"
    )
