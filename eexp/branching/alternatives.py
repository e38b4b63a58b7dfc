"""Alternatives to the expert's action in the states that it visited (Early Experience, section 4.1)."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass, replace
from typing import Any

import click

from eexp import options
from eexp.callbacks import Count
from eexp.models.policy import ActionDraw, ActionScore, Policy, Proposal, State
from eexp.records import canonical, seed_of, tools_at
from eexp.settings import option, recorded

SOURCES = ["policy", "admissible", "mixed", "scored"]

#: The default of --min-p where texts are drawn without replacement.
MIN_P = 0.05
NO_LOGPROBS = "state[s] without log-probabilities"


class _Prefix(click.ParamType):
    """The first words of an action."""

    name = "prefix"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not canonical(value):
            self.fail(f"{value!r} has no words", param, ctx)
        return value


def _pool_name(ctx: click.Context, param: click.Parameter, name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise click.BadParameter(f"{name!r} is no name: use letters, digits, '.', '_' and '-'")
    return name


@dataclass(frozen=True)
class BranchSettings:
    """Settings of `branch`.

    Texts of the policy are drawn without replacement or, with `replacement`, each on its own; either way another one is
    drawn where an action is empty, is the expert's, is dropped or is there already.

    Attributes:
        source: "policy" takes what the policy writes and fills up from the admissible actions; "admissible" draws
            uniformly from those; "mixed" takes half of each; "scored" draws from the admissible actions by the
            policy's probability of each.
        min_p: The floor: alternatives that are less than this times as probable as the most probable one are dropped.
            Where texts are drawn without replacement, that is the most probable alternative there is, and `rounds` is
            not used up on texts below the floor; else it is the most probable one drawn. 0 sets no floor; None is the
            default of `resolved`.
        rounds: How many texts of the policy are looked at, as a multiple of `k`.
        ban: Beginnings of actions that are no alternatives, whole words each.
        pool: The alternatives are added under this name to those of other pools, instead of replacing all.
        add: How many are added in all states together (`allocation.allocate`), beside those that are there; None adds
            `k` to every state.
    """

    k: int = option(
        4, "-k", type=click.IntRange(min=1), metavar="N", help="Number of alternatives to add to every state."
    )
    add: int | None = option(
        None,
        type=click.IntRange(min=1),
        metavar="N",
        help="Keep the alternatives that are there, and add N in all, where one more is most likely to lead to "
        "something new; -k is then the most for one state.",
    )
    source: str = option(
        "policy",
        "--from",
        type=click.Choice(SOURCES),
        help="Where alternatives come from: what the policy writes; the admissible actions; half from each; or the "
        "admissible actions drawn by the policy's probability of each.",
    )
    temperature: float = options.temperature(1.0).field()
    replacement: bool = option(
        False, help="Draw every text on its own and drop actions drawn before, rather than drawing without replacement."
    )
    top_p: float | None = option(
        None,
        type=click.FloatRange(0, 1, min_open=True),
        metavar="P",
        help="At every token, draw from the most probable ones only, as few as have this share of the "
        "probability.  [default: from all]",
    )
    min_p: float | None = option(
        None,
        type=click.FloatRange(0, 1),
        metavar="P",
        help="Drop alternatives that are less than P times as probable as the most probable one in the same "
        f"state; 0 drops none.  [default: {MIN_P:g} where texts are drawn without replacement, else 0]",
    )
    rounds: int = option(
        10,
        type=click.IntRange(min=1),
        metavar="N",
        help="Look at no more than N times k texts of the policy; then fill up from the admissible actions.",
    )
    only_admissible: bool = option(
        True, help="Drop the policy's draws that are not admissible, where the whole list is known."
    )
    ban: tuple[str, ...] = option(
        (),
        type=_Prefix(),
        multiple=True,
        metavar="PREFIX",
        help="Actions that begin with these words are no alternatives: neither drawn nor filled up with. May be "
        "repeated.",
    )
    pool: str | None = option(
        None,
        metavar="NAME",
        callback=_pool_name,
        help="Add the alternatives under this name and keep those of other pools.  [default: replace all]",
    )
    seed: int = options.seed.field()

    @property
    def without_replacement(self) -> bool:
        """Whether texts are drawn without replacement, where the policy can."""
        return self.source in ("policy", "mixed") and self.temperature > 0 and not self.replacement

    def resolved(self, policy: Policy | None) -> BranchSettings:
        """Return the settings with the floor of a policy: MIN_P where it draws without replacement, else none."""
        if self.min_p is not None:
            return self
        return replace(self, min_p=MIN_P if policy and policy.exact and self.without_replacement else 0.0)

    def lineage(self, policy: Policy | None, max_tokens: int | None) -> dict[str, Any]:
        """Return the settings that decide the output, by the names of their options."""
        entries = recorded(self, "k", "add", "source", "seed")
        if policy:
            entries |= {"model": policy.fingerprint, "prompt_style": policy.style_label}
            entries |= {"temperature": self.temperature, "min_p": self.min_p or None}
            if self.source != "scored":
                entries |= {"rounds": self.rounds, "max_tokens": max_tokens}
                entries |= {**recorded(self, "top_p", "only_admissible"), "replacement": self.replacement or None}
        return entries | {"ban": ",".join(self.ban) or None, "pool": self.pool}


def begins_with(action: str, prefix: str) -> bool:
    """Return whether an action begins with the words of `prefix`, both in their `canonical` form."""
    whole, beginning = canonical(action), canonical(prefix)
    return whole.startswith(beginning) and not re.match(r"[\w-]", whole[len(beginning) :])


def room_of(step: dict, settings: BranchSettings, most: int) -> int:
    """Return how many of `most` more alternatives there are for a step, as far as the list of its actions tells."""
    if settings.source in ("policy", "mixed") and not (settings.only_admissible and _complete_list(step) is not None):
        return most
    taken = {canonical(a["action"]) for a in (step, *(step.get("alternatives") or []))}
    listed = step.get("admissible") or []
    allowed = {canonical(a) for a in listed if not any(begins_with(a, prefix) for prefix in settings.ban)}
    return min(most, len(allowed - taken))


def _complete_list(step: dict) -> list[str] | None:
    """Return the admissible actions of a step if the record holds all of them; else None."""
    listed = step.get("admissible")
    return listed if listed is not None and step.get("admissible_count") in (None, len(listed)) else None


class StateAlternatives:
    """The alternatives of one state while they are collected.

    Args:
        trajectory: The trajectory of the state.
        i: The number of its step.
        settings: Those that `BranchSettings.resolved` returns.
        exact: Whether the policy is exact (`Policy.exact`), so that the model itself keeps to the floor.
        count: Called with what was drawn and why it was dropped.
        number: How many to add; None for `settings.k`.
    """

    def __init__(
        self,
        trajectory: dict,
        i: int,
        settings: BranchSettings,
        exact: bool,
        count: Count,
        number: int | None = None,
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
        self.expert = canonical(self.step["action"])
        self.taken = {self.expert}
        #: The alternatives beside which others are added; the first draws give these again.
        self.kept: list[dict] = [] if settings.add is None else self.step.get("alternatives") or []
        self.taken |= {canonical(a["action"]) for a in self.kept}
        listed = self.step.get("admissible")
        complete_list = _complete_list(self.step)
        self.allowed = (
            {canonical(a) for a in complete_list} if settings.only_admissible and complete_list is not None else None
        )
        if settings.only_admissible and complete_list is None and settings.source in ("policy", "mixed"):
            self.count("state[s] whose admissible actions are not all known", 1)
        banned = [action for action in listed or [] if self._is_banned(action) and canonical(action) != self.expert]
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
        action = canonical(proposal.action)
        if not action:
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
        action = canonical(proposal.action)
        fault = self._fault(proposal) or ("duplicate draw[s] dropped" if action in self.taken else None)
        if fault:
            self.count(fault, 1)
        else:
            self.taken.add(action)
        return not fault

    def alternatives(self, proposals: list[Proposal]) -> list[dict]:
        """Return the step's alternatives: the proposals of the policy, filled up to k from the admissible actions."""
        settings = self.settings
        proposals = self._above_floor(proposals)
        if settings.source == "scored":
            proposals = self._ranked(proposals)
            self.taken |= {canonical(p.action) for p in proposals}
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
        self.taken -= {canonical(p.action) for p in proposals if p not in remaining}
        self.count("draw[s] less probable than --min-p allows", len(proposals) - len(remaining))
        return remaining

    def _others(self) -> dict[str, str]:
        """Return the admissible actions that are neither taken nor banned, by their canonical form."""
        rest: dict[str, str] = {}
        for action in self.step.get("admissible") or []:
            if canonical(action) not in self.taken and not self._is_banned(action):
                rest.setdefault(canonical(action), action)
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
