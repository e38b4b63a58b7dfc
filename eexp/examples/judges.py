"""Judges: whether the record shows that an alternative did worse than the expert's action, each in one way.

Each takes a trajectory with outcomes, the number of a step, and one of its executed alternatives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from eexp.examples.settings import JUDGES
from eexp.records.outcomes import shortcoming, takes_longer
from eexp.records.record import expert_outcome

Judge = Callable[[dict, int, dict], bool]


def open_judges(names: Iterable[str]) -> dict[str, Judge]:
    """Return all judges of eexp and, after them, those of other packages that are named.

    Raises:
        UsageError: There is no judge of a name.
        EexpError: One cannot be loaded.
    """
    return {name: JUDGES.load(name) for name in dict.fromkeys([*JUDGES.built_in, *names])}


def first_reason(
    judges: dict[str, Judge], accepted: Collection[str], trajectory: dict, i: int, alternative: dict
) -> str | None:
    """Return the name of the first judge of eexp that finds an alternative worse; None if no judge does.

    Where that is not one of those `accepted`, the first judge of another package that does comes before it.
    """

    def first(names: Iterable[str]) -> str | None:
        return next((name for name in names if judges[name](trajectory, i, alternative)), None)

    reason = first(JUDGES.built_in)
    return reason if reason in accepted else first(name for name in judges if name not in JUDGES.built_in) or reason


def refused(trajectory: dict, i: int, alternative: dict) -> bool:
    """Return whether the environment refused the alternative, and not the expert's action."""
    return _shortcoming(trajectory, i, alternative) == "refused"


def ended(trajectory: dict, i: int, alternative: dict) -> bool:
    """Return whether the alternative ended the episode without success."""
    return _shortcoming(trajectory, i, alternative) == "ended"


def score(trajectory: dict, i: int, alternative: dict) -> bool:
    """Return whether the alternative has a lower score."""
    return _shortcoming(trajectory, i, alternative) == "score"


def unchanged(trajectory: dict, i: int, alternative: dict) -> bool:
    """Return whether the alternative changed nothing, and the expert's action did."""
    return _shortcoming(trajectory, i, alternative) == "unchanged"


def later(trajectory: dict, i: int, alternative: dict) -> bool:
    """Return whether the task was completed later by way of the alternative, or not at all."""
    return takes_longer(trajectory, i, alternative)


def _shortcoming(trajectory: dict, i: int, alternative: dict) -> str | None:
    expert = expert_outcome(trajectory, i) or {}
    return shortcoming(trajectory["steps"][i]["observation"], expert, alternative["outcome"])
