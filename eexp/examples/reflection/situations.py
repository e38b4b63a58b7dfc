"""Choose the states that get a reflection, and the alternatives that it weighs.

A reflection never argues against an alternative that did as well as the expert's action. A state gets no reflection
where there is nothing to reason about: the task was done before, or the expert's action changed nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from eexp.records.equality import action_form
from eexp.records.outcomes import finishes, same_as_expert, transition_of
from eexp.records.record import alternatives_of, expert_outcome, is_only_shown, succeeded, tools_at

NOT_EXECUTED = "state[s] without executed alternatives"
NO_OUTCOME = "state[s] whose outcome is not known"
AFTER_THE_END = "state[s] after the end of the task"
NO_EFFECT = "state[s] whose action has no effect"
MISTAKE = "mistake[s] on the path, of which no example is made"
REPEATED = "step[s] that stand in another correction of the episode, too"
NO_CONTENDER = "state[s] without a contender, an alternative that did worse"
NOTHING_KNOWN = "state[s] of which the record says nothing that speaks for the action"
NOT_WEIGHED = "contender[s] that a reflection by rule does not weigh"


@dataclass(frozen=True)
class Situation:
    """A state of a trajectory, with the outcomes of its actions."""

    trajectory: dict
    i: int
    outcome: dict | None  # the outcome of the expert's action, or None
    #: The executed alternatives that did worse, in the order of the record.
    contenders: list[dict] = field(default_factory=list)
    as_good: int = 0  # the number of executed alternatives that did as well
    left_out: str = ""  # the reason why no reflection is written, or ""

    @property
    def step(self) -> dict:
        """The step of the state."""
        return self.trajectory["steps"][self.i]

    @property
    def history(self) -> list[dict]:
        """The steps before the state."""
        return self.trajectory["steps"][: self.i]

    @property
    def tools(self) -> list[dict] | None:
        """The functions that the environment offers."""
        return tools_at(self.trajectory, self.i)

    def with_one_contender(self) -> list[tuple[int, Situation]]:
        """Return this situation with each of its contenders alone, by the number of the alternative."""
        numbers = {id(alternative): n for n, alternative in enumerate(self.step.get("alternatives") or [])}
        return [(numbers[id(contender)], replace(self, contenders=[contender])) for contender in self.contenders]

    @property
    def real_contenders(self) -> list[dict]:
        """The contenders that the environment accepts and that change the state."""
        before = self.step["observation"]
        return [a for a in self.contenders if transition_of(before, a["outcome"]) in ("changed", "done")]


def first_state_after_the_end(trajectory: dict) -> int:
    """Return the number of the first state in which the task was done already; the number of steps if there is none.

    The record shows it in two ways: an action is refused in a state that counts as success all the same, or an
    alternative that completes the task leads to the expert's own next observation, in the state before.
    """
    for i, step in enumerate(trajectory["steps"]):
        outcomes = [a["outcome"] for a in step.get("alternatives") or [] if a.get("outcome")]
        if any(succeeded(outcome) and outcome.get("valid") is False for outcome in outcomes):
            return i
        following = expert_outcome(trajectory, i) or {}
        if any(succeeded(o) and o["observation"] == following.get("observation") for o in outcomes):
            return i + 1
    return len(trajectory["steps"])


def has_effect(trajectory: dict, i: int) -> bool:
    """Return whether the expert's action at step `i` was accepted and changed something.

    It changed nothing if the observations before and after it are equal, character by character, the environment does
    not say that it changed something (`changed` of the record), and the admissible actions are equal, too, where both
    steps hold the complete list. An action whose outcome is not known counts as one with
    an effect.
    """
    outcome = expert_outcome(trajectory, i)
    if outcome is None:
        return True
    transition = transition_of(trajectory["steps"][i]["observation"], outcome)
    if transition == "unchanged" and i + 1 < len(trajectory["steps"]):
        before, after = (complete_list(step) for step in trajectory["steps"][i : i + 2])
        return before is not None and after is not None and before != after
    return transition not in ("invalid", "unchanged")


def complete_list(step: dict) -> list[str] | None:
    """Return the admissible actions of a step; None where it does not hold all of them."""
    actions = step.get("admissible")
    if actions is None or step.get("admissible_count", len(actions)) != len(actions):
        return None
    return actions


def situations(
    trajectory: dict, pool: str | None = None, first: int | None = None, needed: bool = True
) -> list[Situation]:
    """Return all states of a trajectory, each with its contenders or with the reason why it is left out.

    Args:
        pool, first: The alternatives that are considered, as in `records.alternatives_of`.
        needed: Whether a state without a contender is left out.
    """
    end = first_state_after_the_end(trajectory)
    return [_situation(trajectory, i, pool, first, needed, i >= end) for i in range(len(trajectory["steps"]))]


def _situation(trajectory: dict, i: int, pool: str | None, first: int | None, needed: bool, over: bool) -> Situation:
    step, outcome, form = trajectory["steps"][i], expert_outcome(trajectory, i), action_form(trajectory)
    executed = [a for a in alternatives_of(step, pool, first, form) if a.get("outcome")]
    contenders = [a for a in executed if not finishes(a["outcome"]) and not same_as_expert(step, outcome, a, form)]
    as_good = len(executed) - len(contenders)
    left_out = ""
    if step.get("mistake"):
        left_out = MISTAKE
    elif is_only_shown(step):
        left_out = REPEATED
    elif over:
        left_out = AFTER_THE_END
    elif needed and not executed:
        left_out = NOT_EXECUTED
    elif needed and outcome is None:
        left_out = NO_OUTCOME
    elif not has_effect(trajectory, i):
        left_out = NO_EFFECT
    elif needed and not contenders:
        left_out = NO_CONTENDER
    return Situation(trajectory, i, outcome, contenders, as_good, left_out)
