"""Settings of `eexp follow`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from eexp import options
from eexp.settings import option, recorded


@dataclass(frozen=True)
class FollowSettings:
    """Settings of `follow`."""

    steps: int = option(
        10, type=click.IntRange(min=1), metavar="N", help="Longest continuation, in actions after the alternative."
    )
    pool: str | None = options.pool.field()
    first: int | None = options.first(1).field()
    again: bool = option(False, help="Follow alternatives that were followed before, too.")
    temperature: float = options.temperature(0.0).field()
    seed: int = options.seed.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        again = {"again": self.again or None}
        return {"steps": self.steps, **recorded(self, "pool", "first"), "temperature": self.temperature, **again}
