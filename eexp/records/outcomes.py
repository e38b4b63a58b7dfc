"""Kinds of outcomes (refused, without effect, a change, the end), and the share of alternatives that had each.

Outcomes are judged by the record alone: by `changed`, where the environment said so, and else by observations. Then an
action that changes the state without showing it counts as "unchanged", and one that only shows the same state in other
words counts as "changed".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from eexp.records.record import canonical, expert_outcome, is_judged, succeeded

TRANSITIONS = ("invalid", "unchanged", "done", "changed")  # the kinds of transition, as `Example.transition` names them

#: The shares that are reported, in this order, in words.
SHARES = {
    "valid": "valid",
    "changing": "change the state",
    "as the expert": "lead to the expert's outcome",
    "finishing": "finish the task",
}

#: What became of an alternative, as it is shown: its mark, and the words for it.
OUTCOMES = {
    "invalid": "refused",
    "unchanged": "unchanged",
    "changed": "changed",
    "done": "ended",
    "finished": "finished the task",
    "same": "same as the expert's",
    "untrusted": "branch not trusted",
    "missing": "not executed",
}


def finishes(outcome: dict) -> bool:
    """Return whether an outcome completes the task.

    That is a success (`records.succeeded`); where neither `success` nor a score says anything, the end of the episode,
    unless a world model has imagined it.
    """
    if not is_judged(outcome):
        return bool(outcome.get("done")) and not outcome.get("imagined")
    return succeeded(outcome)


def success_of(outcome: dict) -> bool | None:
    """Return whether an outcome completes the task (`finishes`); None where a world model has imagined it."""
    return None if outcome.get("imagined") else finishes(outcome)


def transition_of(observation_before: str, outcome: dict) -> str:
    """Return the kind of a transition.

    Args:
        observation_before: The observation of the state in which the action was taken.

    Returns:
        "invalid" if the environment refused the action; else "done" if the episode ended; else "changed" or "unchanged"
        as the environment says (`changed` of the outcome); where it does not, "unchanged" if the observation is the one
        before.
    """
    if outcome.get("valid") is False:
        return "invalid"
    if outcome.get("done"):
        return "done"
    changed = outcome.get("changed")
    if changed is None:
        changed = outcome["observation"] != observation_before
    return "changed" if changed else "unchanged"


def shortcoming(observation_before: str, expert: dict, outcome: dict) -> str | None:
    """Return in which way an action did worse than the expert's, as far as the record shows it.

    Args:
        observation_before: The observation of the state in which both were taken.
        expert: The outcome of the expert's action.
        outcome: The outcome of the other action.

    Returns:
        "refused" if the environment refused it, and not the expert's; "ended" if it ended the episode without success;
        "score" if its score is lower; "unchanged" if it changed nothing, and the expert's did. None where nothing of
        this is known, or it completed the task.
    """
    if finishes(outcome):
        return None
    transition = transition_of(observation_before, outcome)
    expert_transition = transition_of(observation_before, expert)
    score, expert_score = outcome.get("score"), expert.get("score")
    if transition == "invalid" and expert_transition != "invalid":
        return "refused"
    if transition == "done" and (expert_transition != "done" or finishes(expert)):
        return "ended"
    if score is not None and expert_score is not None and score < expert_score:
        return "score"
    if transition == "unchanged" and expert_transition in ("changed", "done"):
        return "unchanged"
    return None


def actions_to_the_end(trajectory: dict, i: int, alternative: dict) -> tuple[int | None, int | None]:
    """Return how many actions completed the task from step `i`, by way of an alternative and on the expert's path.

    Returns:
        For the alternative, which counts as one, None if the task was not completed after it, as far as it was
        followed (`eexp follow`). For the expert's path None if it did not succeed; mistakes on it are not counted.
    """
    outcomes = [alternative["outcome"], *(alternative.get("then") or [])]
    own = next((number for number, outcome in enumerate(outcomes, 1) if finishes(outcome)), None)
    steps = trajectory["steps"][i:]
    successful = finishes(trajectory.get("outcome") or {})
    return own, sum(not step.get("mistake") for step in steps) if successful else None


def takes_longer(trajectory: dict, i: int, alternative: dict) -> bool:
    """Return whether an alternative that was followed completed the task later than the expert's path, or not at all.

    One that was not followed as far as the expert's path goes, and to no end, may still be as good.
    """
    then = alternative.get("then")
    own, expert = actions_to_the_end(trajectory, i, alternative)
    if then is None or expert is None:
        return False
    if own is not None:
        return own > expert
    return [alternative["outcome"], *then][-1].get("done", False) or 1 + len(then) >= expert


def same_as_expert(step: dict, outcome: dict | None, alternative: dict, form: Callable[[str], str] = canonical) -> bool:
    """Return whether an alternative had the effect of the expert's action.

    Args:
        outcome: The outcome of the expert's action (`records.expert_outcome`); None where it is not known.
        alternative: One of the step's alternatives, executed or not.
        form: The form in which equal actions of the trajectory are equal (`equality.action_form`).

    Returns:
        True if it is the expert's action in other words, or if it is valid and led to the expert's observation.
    """
    if form(alternative["action"]) == form(step["action"]):
        return True
    own_outcome = alternative.get("outcome")
    if not own_outcome or not outcome or own_outcome.get("valid") is False:
        return False
    return own_outcome["observation"] == outcome["observation"]


def outcome_kinds(trajectory: dict, i: int, alternative: dict) -> list[str]:
    """Return those of `SHARES` to which an executed alternative of step `i` belongs."""
    from eexp.records.equality import action_form

    step, outcome = trajectory["steps"][i], alternative["outcome"]
    transition = transition_of(step["observation"], outcome)
    belongs_to = {
        "valid": transition != "invalid",
        "changing": transition in ("changed", "done"),
        "as the expert": same_as_expert(step, expert_outcome(trajectory, i), alternative, action_form(trajectory)),
        "finishing": finishes(outcome),
    }
    return [name for name, belongs in belongs_to.items() if belongs]


def marks_of(trajectory: dict) -> list[list[str]]:
    """Return what became of each alternative, by step: a key of OUTCOMES each."""
    from eexp.records.equality import action_form

    steps, form = trajectory["steps"], action_form(trajectory)
    return [
        [_mark(step, expert_outcome(trajectory, i), one, form) for one in step.get("alternatives") or []]
        for i, step in enumerate(steps)
    ]


def _mark(step: dict, expert: dict | None, alternative: dict, form: Callable[[str], str]) -> str:
    outcome = alternative.get("outcome")
    if alternative.get("refused"):
        return "untrusted"
    if not outcome:
        return "missing"
    if finishes(outcome):
        return "finished"
    transition = transition_of(step["observation"], outcome)
    return "same" if transition == "changed" and same_as_expert(step, expert, alternative, form) else transition


def with_failures_counted(trajectories: Iterator[dict], count: Callable[[str, int], None]) -> Iterator[dict]:
    """Yield trajectories and count those of which it is recorded that they did not succeed.

    Those that hold neither a success nor a score, such as imports without a replay, are not counted.
    """
    for trajectory in trajectories:
        outcome = trajectory.get("outcome") or {}
        count("trajector[y|ies] that did not succeed", int(is_judged(outcome) and not succeeded(outcome)))
        yield trajectory


def with_outcomes_asked_for(
    trajectories: Iterator[dict], note: Callable[[str], None], needed: bool = True
) -> Iterator[dict]:
    """Yield trajectories, and say so in the end if not one alternative was executed.

    Args:
        needed: Whether the stage can do nothing without alternatives.
    """
    number = executed = 0
    any_read = False
    for trajectory in trajectories:
        any_read = True
        alternatives = [a for step in trajectory["steps"] for a in step.get("alternatives") or []]
        number += len(alternatives)
        executed += sum(bool(a.get("outcome") or a.get("refused")) for a in alternatives)
        yield trajectory
    if number and not executed:
        note(f"{number} alternatives, and none was executed: `eexp rollout` does that, before this stage")
    elif any_read and needed and not number:
        note("no alternatives: `eexp branch` adds them and `eexp rollout` executes them, before this stage")


Origin = tuple[str, str]  # source and pool of alternatives; "" without a pool


class Shares:
    """Counts of alternatives and of their outcomes, by source and pool."""

    def __init__(self) -> None:
        self.counts: dict[Origin, Counter[str]] = {}

    def add(self, trajectory: dict) -> None:
        """Count the alternatives of one trajectory."""
        for i, step in enumerate(trajectory["steps"]):
            for alternative in step.get("alternatives") or []:
                origin = alternative.get("source") or "", alternative.get("pool") or ""
                counts = self.counts.setdefault(origin, Counter())
                counts["alternatives"] += 1
                if alternative.get("outcome"):
                    counts["executed"] += 1
                    counts.update(outcome_kinds(trajectory, i, alternative))
                elif alternative.get("refused"):
                    counts["refused"] += 1

    def lines(self) -> list[str]:
        """Return one line of text for each source and pool, in alphabetical order."""
        return [_in_words(origin, counts) for origin, counts in sorted(self.counts.items())]


def _in_words(origin: Origin, counts: Mapping[str, int]) -> str:
    """Return the counts of one source and pool as one line of text."""
    (source, pool), number = origin, counts["alternatives"]
    parts = [
        f"from {source}" + (f", pool {pool}" if pool else "") + f": {number} alternative{'' if number == 1 else 's'}"
    ]
    executed = counts.get("executed", 0)
    if executed < counts["alternatives"]:
        parts.append(f"{executed} executed")
    if counts.get("refused"):
        parts.append(f"{counts['refused']} refused")
    if executed:
        parts += [f"{_percent(counts.get(name, 0), executed)} {words}" for name, words in SHARES.items()]
    return ", ".join(parts)


def _percent(part: int, whole: int) -> str:
    """Return a share in percent, with a decimal below 10 %, so that a small share is not shown as none."""
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 10 or not part else f"{percent:.1f} %"
