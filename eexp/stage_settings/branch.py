"""Settings of `eexp branch`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from eexp import options
from eexp.records import canonical
from eexp.settings import option, recorded

if TYPE_CHECKING:
    from eexp.models.policy import Policy

SOURCES = ["policy", "admissible", "mixed", "scored"]

#: The default of --min-p where texts are drawn without replacement.
MIN_P = 0.05


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
