"""Alternatives to the expert's action in the states that it visited (Early Experience, section 4.1)."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator

from eexp.acting.allocation import allocate
from eexp.acting.settings import BranchSettings
from eexp.errors import InputError
from eexp.models.in_order import answer_in_order
from eexp.models.policy import ActionDraw, ActionScore, Policy, Proposal, State
from eexp.records.callbacks import Count, OnError, Skip, no_count, skip_none, stop_at_error
from eexp.records.equality import ActionForm, action_form
from eexp.records.record import canonical, seed_of, tools_at

NO_LOGPROBS = "state[s] without log-probabilities"
EQUAL_IN_WORDS = "draw[s] dropped that differ[s|] from another action in case, blanks or outer punctuation alone"


def branch(
    trajectories: Iterator[dict],
    policy: Policy | None,
    settings: BranchSettings | None = None,
    *,
    skip: Skip = skip_none,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Add up to `settings.k` different alternatives to every step, never the expert's own action.

    The environment says when two actions are the same (`equality.action_form`). With `settings.add`, all trajectories
    are read first, and only some steps get alternatives.

    Args:
        trajectories: Trajectories without mistakes put in by `recover`.
        policy: Proposes actions; None where they come from the admissible actions.
        count: Called with what was drawn and why it was dropped.
        on_error: Called with a trajectory to which none can be added.
    """
    settings = (settings or BranchSettings()).resolved(policy)
    possible = _without_mistakes(trajectories, on_error)
    if settings.add is None:
        numbered = ((t, [settings.k] * len(t["steps"])) for t in possible if not skip(t["id"]))
        yield from _branched(numbered, policy, settings, count, on_error)
        return
    for trajectory in _added(list(possible), settings.add, policy, settings, count, on_error):
        if not skip(trajectory["id"]):
            yield trajectory


def _branched(
    numbered: Iterator[tuple[dict, list[int]]],
    policy: Policy | None,
    settings: BranchSettings,
    count: Count,
    on_error: OnError,
) -> Iterator[dict]:
    """Yield each trajectory with as many more alternatives at each of its steps as the number beside it says."""
    exact = policy is not None and policy.exact
    asks = settings.source != "admissible"

    def requests() -> Iterator[tuple[tuple[dict, dict[int, StateAlternatives]], list[ActionDraw | ActionScore]]]:
        for trajectory, numbers in numbered:
            states = {
                i: StateAlternatives(trajectory, i, settings, exact, count, number)
                for i, number in enumerate(numbers)
                if number
            }
            yield (trajectory, states), [state.request() for state in states.values()] if asks else []

    for (trajectory, states), answer in answer_in_order(requests(), policy):
        try:
            for i, error in zip(states, answer):
                if isinstance(error, InputError):
                    raise error.at(f"$.steps[{i}]")
            proposals = answer or [[]] * len(states)
            sets = {i: state.alternatives(those) for (i, state), those in zip(states.items(), proposals)}
        except InputError as e:
            on_error(trajectory, e)
            continue
        steps = [{**step, "alternatives": sets[i]} if i in sets else step for i, step in enumerate(trajectory["steps"])]
        yield {**trajectory, "steps": steps}


def _added(
    trajectories: list[dict],
    total: int,
    policy: Policy | None,
    settings: BranchSettings,
    count: Count,
    on_error: OnError,
) -> list[dict]:
    """Return the trajectories with `total` more alternatives, or as many as there are.

    Alternatives that are not found in one state are added in others, until no state has any left.
    """
    left = [[settings.k] * len(t["steps"]) for t in trajectories]  # how many each step may get yet
    failed: list[dict] = []

    def fail(trajectory: dict, error: InputError) -> None:
        failed.append(trajectory)
        on_error(trajectory, error)

    while total:
        rooms = [
            [room_of(step, settings, most, action_form(t)) for step, most in zip(t["steps"], own)]
            for t, own in zip(trajectories, left)
        ]
        numbers = allocate(trajectories, total, rooms, settings.pool, settings.seed)
        if not any(map(any, numbers)):
            break
        after = list(_branched(zip(trajectories, numbers), policy, settings, count, fail))
        before = [row for row in zip(trajectories, numbers, left) if not any(row[0] is one for one in failed)]
        for trajectory, (old, wanted, own) in zip(after, before):
            for i, number in enumerate(wanted):
                gained = _number_at(trajectory, i) - _number_at(old, i)
                total -= gained
                own[i] = own[i] - gained if gained == number else 0
        trajectories, left = after, [own for _, _, own in before]
    count("alternative[s] not added, since no state has any left", total)
    return trajectories


def _number_at(trajectory: dict, i: int) -> int:
    return len(trajectory["steps"][i].get("alternatives") or [])


def _without_mistakes(trajectories: Iterator[dict], on_error: OnError) -> Iterator[dict]:
    for trajectory in trajectories:
        if any(step.get("mistake") for step in trajectory["steps"]):
            on_error(trajectory, InputError("holds mistakes put in by `eexp recover`; branch before that", "$.steps"))
        else:
            yield trajectory


def begins_with(action: str, prefix: str) -> bool:
    """Return whether an action begins with the words of `prefix`, both in their `canonical` form."""
    whole, beginning = canonical(action), canonical(prefix)
    return whole.startswith(beginning) and not re.match(r"[\w-]", whole[len(beginning) :])


def room_of(step: dict, settings: BranchSettings, most: int, form: ActionForm) -> int:
    """Return how many of `most` more alternatives there are for a step, as far as the list of its actions tells.

    Args:
        form: The form in which equal actions are equal.
    """
    if settings.source in ("policy", "mixed") and not (settings.only_admissible and _complete_list(step) is not None):
        return most
    taken = {form(a["action"]) for a in (step, *(step.get("alternatives") or []))}
    listed = step.get("admissible") or []
    allowed = {form(a) for a in listed if not any(begins_with(a, prefix) for prefix in settings.ban)}
    return min(most, len(allowed - taken))


def _complete_list(step: dict) -> list[str] | None:
    """Return the admissible actions of a step if the record holds all of them; else None."""
    listed = step.get("admissible")
    return listed if listed is not None and step.get("admissible_count") in (None, len(listed)) else None


class StateAlternatives:
    """The alternatives of one state while they are collected.

    Args:
        settings: Those that `BranchSettings.resolved` returns.
        exact: Whether the policy is exact (`Policy.exact`), so that the model itself keeps to the floor.
        number: How many to add; None for `settings.k`.
    """

    def __init__(
        self, trajectory: dict, i: int, settings: BranchSettings, exact: bool, count: Count, number: int | None = None
    ):
        self.number = settings.k if number is None else number
        self.step = trajectory["steps"][i]
        self.state = State(
            trajectory["instruction"],
            trajectory["steps"][:i],
            self.step["observation"],
            self.step.get("admissible"),
            tools=tools_at(trajectory, i),
        )
        self.settings, self.count = settings, count
        self.floor_is_kept = exact and settings.without_replacement
        pool = () if settings.pool is None else (settings.pool,)
        self.seed = seed_of(settings.seed, trajectory["id"], i, *pool)
        self.form = action_form(trajectory)
        self.expert = self.form(self.step["action"])
        #: The actions that are no new alternatives, by the form in which equal ones are equal.
        self.taken = {self.expert: self.step["action"]}
        #: The alternatives beside which others are added; the first draws give these again.
        self.kept: list[dict] = [] if settings.add is None else self.step.get("alternatives") or []
        self.taken |= {self.form(a["action"]): a["action"] for a in self.kept}
        listed = self.step.get("admissible")
        complete_list = _complete_list(self.step)
        self.allowed = (
            {self.form(a) for a in complete_list} if settings.only_admissible and complete_list is not None else None
        )
        if settings.only_admissible and complete_list is None and settings.source in ("policy", "mixed"):
            self.count("state[s] whose admissible actions are not all known", 1)
        banned = [action for action in listed or [] if self._is_banned(action) and self.form(action) != self.expert]
        self.count("admissible action[s] banned", len(banned))

    def request(self) -> ActionDraw | ActionScore:
        """Return what the policy is asked."""
        settings = self.settings
        if settings.source == "scored":
            return ActionScore(self.state, list(self._others().values()))
        number = self.number if settings.source == "policy" else (self.number + 1) // 2
        return ActionDraw(
            self.state,
            n=number,
            temperature=settings.temperature,
            seed=self.seed,
            accept=self._accept,
            most=settings.rounds * (number + len(self.kept)),
            distinct=not settings.replacement,
            top_p=settings.top_p,
            min_p=settings.min_p or None,
            contends=lambda proposal: not self._fault(proposal),
        )

    def _fault(self, proposal: Proposal) -> str | None:
        """Return why a text of the policy is no alternative in this state, in words; None if it is one."""
        action = self.form(proposal.action)
        if not canonical(proposal.action):
            return "draw[s] without an action"
        if action == self.expert:
            return "draw[s] of the expert's own action"
        if self._is_banned(proposal.action):
            return "banned draw[s] dropped"
        if self.allowed is not None and action not in self.allowed:
            return "inadmissible draw[s] dropped"
        return None

    def _is_banned(self, action: str) -> bool:
        return any(begins_with(action, prefix) for prefix in self.settings.ban)

    def _accept(self, proposal: Proposal) -> bool:
        action = self.form(proposal.action)
        fault = self._fault(proposal) or ("duplicate draw[s] dropped" if action in self.taken else None)
        if fault:
            self.count(fault, 1)
            same = self.taken.get(action)
            if same is not None and same.strip() != proposal.action.strip():
                self.count(EQUAL_IN_WORDS, 1)
        else:
            self.taken[action] = proposal.action
        return not fault

    def alternatives(self, proposals: list[Proposal]) -> list[dict]:
        """Return the step's alternatives: the proposals of the policy, filled up to k from the admissible actions."""
        settings = self.settings
        proposals = self._above_floor(proposals)
        if settings.source == "scored":
            proposals = self._ranked(proposals)
            self.taken |= {self.form(p.action): p.action for p in proposals}
        origin = "admissible" if settings.source == "scored" else "policy"
        alternatives = [self._alternative(p.action, origin, p.logprob) for p in proposals]
        origin_in_words = "drawn by [its|their] probability" if settings.source == "scored" else "from the policy"
        self.count(f"alternative[s] {origin_in_words}", len(alternatives))
        rest = list(self._others().values())
        missing = self.number - len(alternatives)
        actions = random.Random(seed_of(self.seed, "admissible")).sample(rest, min(missing, len(rest)))
        alternatives += [self._alternative(action, "admissible", None) for action in actions]
        verb = "filled up" if settings.source == "policy" else "taken"
        self.count(f"alternative[s] {verb} from the admissible actions", len(actions))
        if len(actions) < missing and settings.add is None:
            self.count("state[s] with fewer than k alternatives", 1)
        if settings.add is not None:
            return [*self.kept, *alternatives]
        if settings.pool is None:
            return alternatives
        return [a for a in self.step.get("alternatives", []) if a.get("pool") != settings.pool] + alternatives

    def _alternative(self, action: str, source: str, logprob: float | None) -> dict:
        pool = {} if self.settings.pool is None else {"pool": self.settings.pool}
        return {"action": action, "source": source, "logprob": logprob, "outcome": None, **pool}

    def _above_floor(self, proposals: list[Proposal]) -> list[Proposal]:
        """Return the proposals that are not too improbable beside the most probable of them."""
        if self.floor_is_kept or not self.settings.min_p or not proposals:
            return proposals
        logprobs = [p.logprob for p in proposals if p.logprob is not None]
        if len(logprobs) < len(proposals):
            self.count(NO_LOGPROBS, 1)
            return proposals
        floor = max(logprobs) + math.log(self.settings.min_p)
        remaining = [p for p, logprob in zip(proposals, logprobs) if logprob >= floor]
        for proposal in proposals:
            if proposal not in remaining:
                self.taken.pop(self.form(proposal.action), None)
        self.count("draw[s] less probable than --min-p allows", len(proposals) - len(remaining))
        return remaining

    def _others(self) -> dict[str, str]:
        """Return the admissible actions that are neither taken nor banned, by the form in which they are compared."""
        rest: dict[str, str] = {}
        for action in self.step.get("admissible") or []:
            if self.form(action) not in self.taken and not self._is_banned(action):
                rest.setdefault(self.form(action), action)
        return rest

    def _ranked(self, proposals: list[Proposal]) -> list[Proposal]:
        """Return the k best at temperature 0; else k drawn without replacement by probability (Gumbel top-k)."""
        noise = random.Random(seed_of(self.seed, "scored"))

        def key(p: Proposal) -> float:
            assert p.logprob is not None
            if self.settings.temperature == 0:
                return p.logprob
            return p.logprob / self.settings.temperature - math.log(noise.expovariate(1.0))

        return [p for _, p in sorted(((key(p), p) for p in proposals), key=lambda pair: -pair[0])[: self.number]]
