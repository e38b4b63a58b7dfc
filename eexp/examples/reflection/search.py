"""Thoughts that look ahead: what the actions here lead to, and then those after them, until the task's end is found.

The outcomes are those that were executed anywhere in the input: the experts' own and their alternatives', of all
trajectories together. So a thought may go on from a state that another demonstration has visited. This needs a world
whose observation says all that decides what follows. A state where it does not, since the same action led to two
different observations, is left out, and nothing is claimed about it.
"""

from __future__ import annotations

from collections.abc import Iterable

from eexp.examples.reflection.base import Rule
from eexp.examples.reflection.rationale import as_verb, gist
from eexp.examples.reflection.situations import Situation, complete_list
from eexp.records.callbacks import Count
from eexp.records.equality import action_form
from eexp.records.imagination import imagined_by
from eexp.records.record import alternatives_of, expert_outcome, succeeded

NO_WAY = "state[s] from which the executed outcomes do not lead to the end"
ANOTHER_WAY = "state[s] from which another action leads to the end as soon"
FOUND_BEFORE = "contender[s] that the search does not come to, since it finds the end before"


class ExecutedOutcomes:
    """What every action led to that was executed in a state, by the state's observation.

    Args:
        trajectories: All trajectories of the input.
        pool, first: The alternatives that count, as in `records.alternatives_of`.

    Attributes:
        ambiguous: The number of states that are left out, since their observation does not say what follows.
    """

    def __init__(self, trajectories: Iterable[dict], pool: str | None = None, first: int | None = None):
        self._outcomes: dict[str, dict[str, dict]] = {}
        self._order: dict[str, list[str]] = {}
        ambiguous: set[str] = set()
        for trajectory in trajectories:
            if imagined_by(trajectory) is not None:  # no evidence for thoughts about the real environment
                continue
            form = action_form(trajectory)
            for i, step in enumerate(trajectory["steps"]):
                executed = [(step["action"], expert_outcome(trajectory, i))]
                executed += [(a["action"], a.get("outcome")) for a in alternatives_of(step, pool, first, form)]
                here = self._outcomes.setdefault(step["observation"], {})
                for action, outcome in executed:
                    if outcome is None:
                        continue
                    known = here.setdefault(action, outcome)
                    if known["observation"] != outcome["observation"]:
                        ambiguous.add(step["observation"])
                if listed := complete_list(step):
                    self._order[step["observation"]] = listed
        for observation in ambiguous:
            del self._outcomes[observation]
        self.ambiguous = len(ambiguous)

    def of(self, observation: str) -> list[tuple[str, dict]]:
        """Return the executed actions of a state with their outcomes, in the order in which the state lists them."""
        known = self._outcomes.get(observation, {})
        order = {action: n for n, action in enumerate(self._order.get(observation, sorted(known)))}
        return sorted(known.items(), key=lambda pair: (order.get(pair[0], len(order)), pair[0]))

    def thought(self, situation: Situation, ahead: int, contenders_alone: bool = False) -> tuple[str, str]:
        """Return a thought that ends in the expert's action, or "" and the reason why there is none.

        Args:
            situation: The state, in a trajectory that ends in success.
            ahead: How many actions it looks ahead at most.
            contenders_alone: Whether it begins with the expert's action and the contenders of the situation alone,
                each of which it has to come to, rather than with everything that was executed in the state.
        """
        contenders = {alternative["action"] for alternative in situation.contenders}
        trajectory = situation.trajectory
        goal = (trajectory.get("outcome") or {}).get("observation")
        if goal is None or not succeeded(trajectory["outcome"]):
            return "", NO_WAY
        sentences: list[str] = []
        looked_at: set[str] = set()  # actions of this state
        # States to look at: their observation, and the first action of the way to them.
        frontier: list[tuple[str, str | None]] = [(situation.step["observation"], None)]
        seen = {situation.step["observation"]}
        for _ in range(ahead):
            following: list[tuple[str, str | None]] = []
            for observation, first in frontier:
                after = f"After {as_verb(first)}, " if first else ""
                for action, outcome in self.of(observation):
                    if contenders_alone and not first and action not in {situation.step["action"], *contenders}:
                        continue
                    found = outcome["observation"] == goal
                    sentences.append(f"{after}{action}: {gist(outcome)}{', as asked' if found else ''}.")
                    begin, after = first or action, ""
                    looked_at.add(begin)
                    if found:
                        if begin != situation.step["action"]:
                            return "", ANOTHER_WAY
                        if contenders_alone and not contenders <= looked_at:
                            return "", FOUND_BEFORE
                        return " ".join([*sentences, f"So I {as_verb(begin)}."]), ""
                    # An end counts for its own task only: what ended another task may be on the way of this one.
                    refused = outcome.get("valid") is False or outcome.get("changed") is False
                    if not refused and outcome["observation"] not in seen:
                        seen.add(outcome["observation"])
                        following.append((outcome["observation"], begin))
            frontier = following
        return "", NO_WAY


class BySearch(Rule):
    """Thoughts that look ahead over all executed outcomes (--rationale search)."""

    def read(self, trajectories: Iterable[dict], count: Count) -> list[dict]:
        all_trajectories = list(trajectories)  # a thought may need what was executed in any of them
        self.outcomes = ExecutedOutcomes(all_trajectories, self.settings.pool, self.settings.first)
        if self.outcomes.ambiguous:
            count("state[s] whose observation does not say what follows", self.outcomes.ambiguous)
        return all_trajectories

    def compose(self, situation: Situation) -> tuple[str, str]:
        alone = self.settings.per_alternative
        text, reason = self.outcomes.thought(situation, self.settings.ahead, alone)
        # The reason is the state's, and the number that of reflections.
        return text, reason.replace("state[s]", "contender[s] in a state") if alone else reason
