"""Settings of `eexp correct`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import click

from eexp import options
from eexp.settings import option


@dataclass(frozen=True)
class CorrectSettings:
    """Settings of `correct`."""

    turns: int = option(
        1, type=click.IntRange(min=1), metavar="N", help="Correct up to N turns of an episode, from the first one on."
    )
    admissible: int | None = options.admissible.field()
    seed: int = options.seed.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        return {**asdict(self), "admissible": "all" if self.admissible is None else self.admissible}
