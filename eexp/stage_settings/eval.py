"""Settings of `eexp eval`."""

from __future__ import annotations

from dataclasses import dataclass

import click

from eexp import options
from eexp.settings import option


@dataclass(frozen=True)
class EvalSettings:
    """Settings of `evaluate`. Temperature 0 is greedy."""

    temperature: float = options.temperature(0.0).field()
    max_steps: int | None = options.max_steps.field()
    only_admissible: bool = option(False, help="Let the policy write nothing but an admissible action.")
    look_ahead: int | None = option(
        None,
        type=click.IntRange(min=2),
        metavar="K",
        help="Try each action in a fork of the environment first, or ask --look-ahead-with. Where it is refused, "
        "changes nothing or ends the episode without success, draw another one at temperature 1, up to K in all, and "
        "take the first one that does better.",
    )
    recall: str | None = options.recall.field()
    recall_count: int = options.recall_count.field()
    seed: int = options.seed.field()
