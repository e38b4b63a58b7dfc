"""Settings of `eexp reward`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import click

from eexp.settings import option


@dataclass(frozen=True)
class RewardSettings:
    """Settings of `reward`."""

    by: str = option(
        "progress",
        type=click.Choice(["progress", "similarity"]),
        help="Reward by how many actions, at most one, the expert got nearer to the end (progress), or by how much the "
        "action is like the expert's in the same state, from 0 to 1 (similarity).",
    )

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        return asdict(self)
