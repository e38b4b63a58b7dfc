"""Compare what an environment answers with what a record holds, and two answers with each other.

One rule for all stages that replay records. What a record does not hold is not compared, nor are annotations such as
`unknown`, which stages take anew from the environment. Texts are equal where they are equal after `Environment.mask`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from eexp.errors import short
from eexp.records.record import succeeded

#: Scores are equal up to this: an environment may add up its parts in another order, or write fewer digits.
SCORE_TOLERANCE = 1e-6
#: So many different texts that a mask makes equal are a mask that hides everything. Fewer may be random as a whole.
FEWEST_ALIKE = 3

Mask = Callable[[str], str]


@dataclass(frozen=True)
class Difference:
    """A field of an answer, by its name in records, whose value now is not what was recorded."""

    key: str
    observed: Any
    recorded: Any

    @property
    def message(self) -> str:
        """The difference in words, such as "the score is 1.0, and 0.25 was recorded"."""
        observed, recorded = self.excerpts()
        return f"{self.name} is {observed}, and {recorded} was recorded"

    @property
    def name(self) -> str:
        """The name of the field in a sentence."""
        return self.key if self.key in ("done", "valid", "changed") else f"the {self.key}"

    @property
    def evidence(self) -> dict:
        """Both values whole, for the rejects file."""
        return {"observed": self.observed, "recorded": self.recorded}

    def excerpts(self) -> tuple[str, str]:
        """Return both values as messages quote them; of long texts, the parts in which they differ."""
        return excerpts(self.observed, self.recorded)


def excerpts(one: Any, other: Any) -> tuple[str, str]:
    """Return two different values as messages quote them; of long ones, the parts in which they differ."""
    quoted = short(one), short(other)
    if quoted[0] != quoted[1]:
        return quoted
    texts = [value if isinstance(value, str) else repr(value) for value in (one, other)]
    start = max(0, len(commonprefix(texts)) - 20)
    first, second = (f"{'...' * (start > 0)}{text[start : start + 57]}" for text in texts)
    return (repr(first), repr(second)) if isinstance(one, str) and isinstance(other, str) else (first, second)


def hidden_texts(mask: Mask, texts: Iterable[str]) -> int:
    """Return how many different texts there are if a mask makes all of them equal, else 0.

    No comparison of such texts can find a difference. Fewer than FEWEST_ALIKE texts show nothing.
    """
    different = dict.fromkeys(texts)
    if len(different) < FEWEST_ALIKE:
        return 0
    first, *others = different
    masked = mask(first)
    return 0 if any(mask(text) != masked for text in others) else len(different)


def text_difference(mask: Mask, key: str, observed: str, recorded: str | None) -> Difference | None:
    """Return the difference of a text from the recorded one; None where they are equal or none was recorded.

    Args:
        mask: Hides what may differ (`Environment.mask`).
        key: The name of the field in records.
    """
    if recorded is None or mask(observed) == mask(recorded):
        return None
    return Difference(key, observed, recorded)


def instruction_difference(mask: Mask, observed: str, recorded: str | None) -> Difference | None:
    """Return the difference of the instruction from the recorded one, where both say something."""
    return text_difference(mask, "instruction", observed, recorded) if observed and recorded else None


def standing_difference(observed: Mapping[str, Any], recorded: Mapping[str, Any]) -> Difference | None:
    """Return the first difference in how an episode stands: `done`, `valid`, `success`, `score`, `changed`.

    Args:
        observed: The outcome now.
        recorded: The outcome, or any part of one, in the record. Where it holds a score and no `success`, both must
            count as a success, or neither (`records.succeeded`).
    """
    pairs = [(key, observed.get(key), recorded[key]) for key in ("done", "valid") if recorded.get(key) is not None]
    if recorded.get("success") is not None or recorded.get("score") is not None:
        pairs.append(("success", succeeded(dict(observed)), succeeded(dict(recorded))))
    if recorded.get("changed") is not None:
        pairs.append(("changed", bool(observed.get("changed")), recorded["changed"]))
    for key, now, before in pairs:
        if now != before:
            return Difference(key, now, before)
    score = recorded.get("score")
    if score is not None and not close(observed.get("score"), score):
        return Difference("score", observed.get("score"), score)
    return None


def outcome_difference(
    mask: Mask, observed: Mapping[str, Any], recorded: Mapping[str, Any] | None
) -> Difference | None:
    """Return the first difference of an outcome from the recorded one, in its text or in how the episode stands."""
    if recorded is None:
        return None
    text = text_difference(mask, "observation", observed["observation"], recorded.get("observation"))
    return text or standing_difference(observed, recorded)


def difference_between(mask: Mask, outcome: Mapping[str, Any], other: Mapping[str, Any]) -> Difference | None:
    """Return the first difference of two outcomes of one action in one state, as (observed, recorded).

    Everything that the environment said must be the same, but for the names of pictures. The parts that are unknown are
    compared where the texts are the same without `mask`, since they are places in the text.
    """
    text = text_difference(mask, "observation", outcome["observation"], other["observation"])
    if text:
        return text
    keys = ["done", "valid", "success", "score", "changed", "tools"]
    keys += ["unknown"] if outcome["observation"] == other["observation"] else []
    for key in keys:
        values = outcome.get(key), other.get(key)
        if values[0] != values[1] and not (key == "score" and close(*values)):
            return Difference(key, *values)
    return None


def close(score: float | None, other: float | None) -> bool:
    """Return whether two scores are equal up to SCORE_TOLERANCE."""
    if score is None or other is None:
        return score is other
    return math.isclose(score, other, rel_tol=0.0, abs_tol=SCORE_TOLERANCE)
