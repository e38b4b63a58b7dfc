"""Settings of `eexp reflect`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import click

from eexp import options
from eexp.settings import option

#: The author in `reflection_by`, by rationale, of reflections that no model writes.
RULES = {"outcome": "rule: outcome", "environment": "rule: environment", "search": "rule: search"}

#: The names of all guards (eexp/reflection/guards.py), as `--no-guard` takes them.
GUARDS = ("cut-off", "repeated", "length", "setup", "hindsight", "other-action", "invented")


@dataclass(frozen=True)
class GuardSettings:
    """The guards in use.

    Attributes:
        names: Their names.
        min_words, max_words: The numbers of words that the guard "length" accepts.
    """

    names: frozenset[str] = frozenset(GUARDS)
    min_words: int = 5
    max_words: int = 150

    @classmethod
    def without(cls, names: Iterable[str], min_words: int = 5, max_words: int = 150) -> GuardSettings:
        """Return all guards but those named; "all" names every one."""
        left_out = set(GUARDS) if "all" in names else set(names)
        return cls(frozenset(GUARDS) - left_out, min_words, max_words)


@dataclass(frozen=True)
class ReflectSettings:
    """Settings of `reflect`.

    Attributes:
        rationale: "model", "outcome", "search" or "environment" (`eexp reflect --rationale`), or "own": the model
            writes a thought and an action from the state alone, which are kept if the action is the expert's (STaR).
        guards: Which texts of a model are refused.
        pool, first: The alternatives that are weighed, as in `records.alternatives_of`.
    """

    rationale: str = "model"
    guards: GuardSettings = field(default_factory=GuardSettings)
    weigh: int = option(
        1,
        type=click.IntRange(min=0),
        metavar="N",
        help="How many contenders (executed alternatives that did worse) a composed reflection weighs at most. With 0, "
        "states without one get a reflection, too.",
    )
    ahead: int = option(
        2,
        type=click.IntRange(min=1),
        metavar="N",
        help="With --rationale search: how many actions a thought looks ahead at most.",
    )
    pool: str | None = options.pool.field()
    first: int | None = options.first(1).field()
    temperature: float = options.temperature(0.7).field()
    max_tokens: int = options.max_tokens(256).field()
    retries: int = option(
        3,
        type=click.IntRange(min=0),
        metavar="N",
        help="How often a text that a guard refuses is drawn again.",
    )
    seed: int = options.seed.field()

    @property
    def kind(self) -> str:
        """The kind of the examples."""
        return "rationale" if self.rationale == "own" else "reflection"

    @property
    def by_model(self) -> bool:
        """Whether a model writes."""
        return self.rationale not in RULES

    @property
    def needs_contenders(self) -> bool:
        """Whether a state without a contender gets no reflection."""
        return self.rationale == "model" or (self.rationale in ("outcome", "environment") and self.weigh > 0)

    def lineage(self) -> dict[str, Any]:
        """Return the settings that decide the output, but for the seed, by the names of their options."""
        entries: dict[str, Any] = {"rationale": self.rationale, "pool": self.pool, "first": self.first}
        if self.rationale == "search":
            return {**entries, "ahead": self.ahead}
        if not self.by_model:
            return {**entries, "weigh": self.weigh}
        unused = set(GUARDS) - self.guards.names
        return {
            **entries,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "retries": self.retries,
            "no_guard": ",".join(sorted(unused)) or None,
            "min_words": self.guards.min_words,
            "max_words": self.guards.max_words,
        }
