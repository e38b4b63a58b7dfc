"""Settings of `eexp world-model-data`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from eexp import options
from eexp.settings import option, recorded


@dataclass(frozen=True)
class WorldModelSettings:
    """Settings of `world_model_data`: which transitions become examples, and what their targets are.

    Attributes:
        pool, first: The alternatives that become examples, as in `records.alternatives_of`.
        max_repeats: How often the same target may come in a trajectory; None for any number.
        summaries, changes, verdict: As in `world_model.targets.target_of`.
        predictable: Who says which parts of a target cannot be predicted, "environment" or "model"; None marks none.
    """

    expert: bool = option(True, help="Whether the expert's own transitions are examples, too.")
    pool: str | None = options.pool.field()
    first: int | None = options.first(0).field()
    max_invalid_fraction: float = option(
        0.3,
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        help="Largest share of a trajectory's examples that may be answers to invalid actions; 1 keeps all.",
    )
    max_repeats: int | None = option(
        2,
        type=options.NumberOrWord(1, {"all": None}),
        metavar="N|all",
        help="How often the same target may come in a trajectory; the expert's own always stay.",
    )
    summaries: bool = option(
        True,
        help="Whether the summary of an observation is the target, where there is one (`eexp summarise`).",
    )
    changes: bool = option(
        False, help="Make only the lines the target that the observation before the action did not have."
    )
    verdict: str | None = option(
        None,
        type=click.Choice(["alone", "after"]),
        help="Make one word the target, or add it after the observation: invalid, unchanged, changed or done, for "
        "`eexp eval --look-ahead-with`. --max-repeats has no effect.",
    )
    predictable: str | None = option(
        None,
        type=click.Choice(["environment", "model"]),
        help="Who says which parts of a target the state does not determine, to leave them out of the loss: the "
        "environment, or the model (-m).",
    )
    unknown_weight: float = option(
        0.0, type=click.FloatRange(min=0), metavar="WEIGHT", help="Weight of those parts in the loss."
    )
    min_probability: float = option(
        0.05,
        type=click.FloatRange(0, 1, min_open=True),
        metavar="P",
        help="With --predictable model: words that it finds less probable are such parts.",
    )
    seed: int = options.seed.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings that decide the output, but for the seed, by the names of their options."""
        return {
            "expert": None if self.expert else "no",
            **recorded(self, "pool", "first"),
            "max_invalid_fraction": None if self.max_invalid_fraction == 1 else self.max_invalid_fraction,
            "max_repeats": self.max_repeats,
            "summaries": None if self.summaries else "no",
            "changes": "yes" if self.changes else None,
            "verdict": self.verdict,
            "predictable": self.predictable,
            "unknown_weight": self.unknown_weight if self.predictable else None,
            "min_probability": self.min_probability if self.predictable == "model" else None,
        }
