"""Settings of a report."""

from __future__ import annotations

from dataclasses import dataclass

from eexp.settings import COMMON, CONFIDENCE, SEED, Checked, Finite, Whole, option


@dataclass(frozen=True)
class ReportSettings(Checked):
    """Settings of `report`."""

    title: str | None = option(None, metavar="TEXT").help(
        "Title of the page.  [default: the names of the directories and files]"
    )
    confidence: float = CONFIDENCE.field()
    common: bool = COMMON.field()
    tasks: int = option(100, type=Whole(1)).help(
        "Most tasks whose episodes are in the page, of all arms and runs; drawn at random."
    )
    megabytes: float = option(4.0, type=Finite(0), metavar="SIZE").help(
        "Most that these episodes may take; further tasks are left out."
    )
    seed: int = SEED.field()  # of the draw of the tasks whose episodes are in the page
