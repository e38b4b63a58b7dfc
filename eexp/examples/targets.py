"""The targets of world-model examples: the text of an outcome, and its parts that nothing before determines.

A world model is to learn the effects of actions. It can only guess what lies in a room that was never entered: the loss
on such parts of a target teaches nothing. The environment names them, or a model that predicts the target finds them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from eexp.errors import InputError
from eexp.examples.settings import WorldModelSettings
from eexp.models.base import Model, Sample
from eexp.models.scoring import logprobs_of
from eexp.prompts import PromptStyle
from eexp.records.outcomes import transition_of
from eexp.records.spans import OBSERVATION, CompletionSpan

Range = tuple[int, int]
_WORD = re.compile(r"\s*\S+")


class Target(Struct, frozen=True):
    """The text to predict for an outcome."""

    text: str  # the text
    unknown: list[Range]  # the parts that are unknown beforehand, as [start, end) in characters of the text, in order
    #: "observation", "summary", "changes" where the text holds only the lines that are new, or "verdict" where its last
    #: line is the kind of the transition (outcomes.TRANSITIONS).
    kind: str = "observation"


def target_of(outcome: dict, before: str, style: PromptStyle, settings: WorldModelSettings) -> Target:
    """Return the text that a world model is to predict for an outcome.

    A summary that replaces the observation has no unknown parts.

    Args:
        outcome: The outcome of an action.
        before: The observation of the state in which the action was taken.
        style: The prompt style, for the text that stands for an unchanged observation.
        settings: `summaries`, `changes` and `verdict` decide what the target is.

    Raises:
        InputError: `outcome.unknown` holds ranges that do not fit its observation.
    """
    if settings.verdict == "alone":
        return Target(transition_of(before, outcome), [], "verdict")
    if settings.summaries and not settings.verdict and outcome.get("summary"):
        return Target(outcome["summary"], [], "summary")
    text = outcome["observation"]
    unknown = _ordered(outcome.get("unknown") or [], len(text))
    if settings.verdict == "after":
        return Target(f"{text}\n{transition_of(before, outcome)}", unknown, "verdict")
    if not settings.changes:
        return Target(text, unknown)
    if text == before:
        return Target(style.predicting.unchanged, [], "changes")
    places = new_lines(before, text)
    return Target("\n".join(text[start:end] for start, end in places), _moved(unknown, places), "changes")


def new_lines(before: str, after: str) -> list[Range]:
    """Return the places of the lines of `after` that `before` does not have, as [start, end) in characters of `after`.

    A line that occurs more often than before is new as often; blank lines are neither new nor old. Where no line is
    old, and where no line is new although the texts differ (lines are gone, or in another order), the place of the
    whole text is returned.
    """
    old_lines = Counter(line for line in before.split("\n") if line.strip())
    places, repeated, start = [], 0, 0
    for line in after.split("\n"):
        end = start + len(line)
        if old_lines[line]:
            old_lines[line] -= 1
            repeated += 1
        elif line.strip():
            places.append((start, end))
        start = end + 1
    if before == after:
        return []
    return places if places and repeated else [(0, len(after))]


def _ordered(ranges: Sequence[Sequence[int]], length: int) -> list[Range]:
    """Return ranges in order, merged where they touch; raise InputError for one that does not fit the text's length."""
    merged: list[Range] = []
    if not ranges:
        return merged
    for start, end in sorted(tuple(pair) for pair in ranges):
        if not 0 <= start <= end <= length:
            raise InputError(f"unknown: characters {start} to {end} of a text of {length}")
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        elif start < end:
            merged.append((start, end))
    return merged


def _moved(ranges: list[Range], lines: list[Range]) -> list[Range]:
    """Return the places of the parts `ranges` of a text after all but its lines `lines` are removed."""
    moved, offset = [], 0
    for first, last in lines:
        for start, end in ranges:
            if max(start, first) < min(end, last):
                moved.append((max(start, first) - first + offset, min(end, last) - first + offset))
        offset += last - first + 1
    return moved


def improbable_words(text: str, sample: Sample, model: Model, inside: Range, least: float) -> list[Range]:
    """Return the words of a completion that are less probable than `least` under a model, merged where they touch.

    Args:
        text: The completion.
        sample: The model's answer to the request for its score.
        model: The model.
        inside: The part of the completion in which words are judged; the returned ranges count from its start.
        least: The probability from which on a word is left out of the result.
    """
    start, end = inside
    words = [CompletionSpan(OBSERVATION, 0, start)] if start else []
    judged = [(start + m.start(), start + m.end()) for m in _WORD.finditer(text[start:end])]
    words += [CompletionSpan(OBSERVATION, *word) for word in judged]
    words.append(CompletionSpan(OBSERVATION, judged[-1][1] if judged else start, len(text)))
    logprobs = logprobs_of({"role": "assistant", "content": text}, words, sample, model)
    low = [
        word
        for word, of_word in zip(judged, logprobs[len(words) - 1 - len(judged) :])
        if of_word and math.fsum(of_word) < math.log(least)
    ]
    return _ordered([(a - start, b - start) for a, b in low], end - start)
