"""The spans of a completion, and the tokens that belong to each.

An example may name the parts of its last completion message (`spans` in records.py): the thought and the action of an
acting example, the observation of a world-model example. `eexp finetune` weights losses by span and `eexp score` sums
them by span; this module assigns the tokens to the spans for both.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import cache
from os.path import commonprefix
from typing import NamedTuple

from eexp.errors import InputError

THOUGHT, ACTION, OBSERVATION = "thought", "action", "observation"
ANSWERS = ("chosen", "rejected")  # the only span of each answer of a preference

#: The place for thinking that some chat templates write before an answer.
_EMPTY_THINKING = re.compile(r"\s*(<think>\s*)?</think>")

#: The name of the only span of an example that names none, by its kind; other kinds give it their own name.
_WHOLE = {"imitation": ACTION, "reflection": ACTION, "world_model": OBSERVATION}


class CompletionSpan(NamedTuple):
    """Characters [start, end) of the last completion message, and the weight of their loss."""

    name: str
    start: int
    end: int
    weight: float = 1.0


def named_span(name: str, start: int, end: int, weight: float = 1.0) -> dict[str, str | int | float]:
    """Return a span as a record holds it: the part of a completion from `start` to `end`, in characters."""
    return {"name": name, "start": start, "end": end, "weight": float(weight)}


def spans_of(example: dict) -> list[CompletionSpan]:
    """Return the spans of an example, in order; an example without any has its whole completion as one.

    Raises:
        InputError: A span ends before it begins, begins before the last one ends, or ends after the text.
    """
    length = len(example["completion"][-1]["content"])
    spans = [
        CompletionSpan(s["name"], s["start"], s["end"], float(s.get("weight", 1.0))) for s in example.get("spans") or ()
    ]
    before = 0
    for i, span in enumerate(spans):
        if not before <= span.start <= span.end <= length:
            raise InputError(
                f"characters {span.start} to {span.end}, after a span that ends at {before}, in a text of {length}",
                f"$.spans[{i}]",
            )
        before = span.end
    kind: str = example["kind"]
    return spans or [CompletionSpan(_WHOLE.get(kind, kind), 0, length)]


def has_thought(spans: Sequence[CompletionSpan]) -> bool:
    """Return whether there is a thought; an empty span named "thought" is none."""
    return any(span.name == THOUGHT and span.start < span.end for span in spans)


def span_of_tokens(
    ids: Sequence[int],
    text: str,
    spans: Sequence[CompletionSpan],
    decode: Callable[[Sequence[int]], str],
    before_call: bool = False,
) -> list[int]:
    """Return, for each token of a completion, the index of its span.

    A token belongs to the span that holds its first character; outside of all spans, to the span before it (to the
    first one where there is none before). So the stop token belongs to the last span.

    Args:
        ids: Tokens of the completion, its stop token included; there may be others before and after those of `text`.
        text: The content of the last completion message, which the offsets of `spans` refer to.
        spans: At least one, as `spans_of` returns them.
        decode: Returns the text of tokens. It may leave out special tokens and change blanks.
        before_call: Whether a call follows the text, in a form that only the chat template knows.
    """
    if len(spans) == 1:
        return [0] * len(ids)
    whole = decode(ids)

    @cache
    def place(n: int) -> int:
        """Return the place in `whole` of the first character of token `n`: the end of the text of the tokens before.

        The bytes of a character may be spread over several tokens. Those before the last decode to U+FFFD, which
        `whole` does not have there, so each of these tokens begins where the character does.
        """
        spelled = decode(ids[:n])
        return len(spelled) if whole.startswith(spelled) else len(commonprefix([spelled, whole]))

    owners = [0] * len(ids)
    first = 0
    starts = [span.start for span in spans[1:]]
    for index, border in enumerate(_borders(text, whole, starts, before_call), 1):
        first = bisect_left(range(len(ids)), border, first, key=place)
        owners[first:] = [index] * (len(ids) - first)
    return owners


def _borders(text: str, whole: str, borders: list[int], before_call: bool) -> list[int]:
    """Return the places of characters of `text` in the text of its tokens, `whole`."""
    bare = text.strip()
    indent = len(text) - len(text.lstrip())
    if whole.lstrip().startswith(bare):
        at = len(whole) - len(whole.lstrip())
    elif before_call:  # whose arguments may repeat the text
        at = whole.find(bare, len(empty[0]) if (empty := _EMPTY_THINKING.match(whole)) else 0)
    else:
        at = whole.rfind(bare)
    if at >= 0:
        return [min(max(0, border - indent + at), len(whole)) for border in borders]
    # A chat template has changed blanks within it, or special tokens are left out.
    blocks = SequenceMatcher(None, text, whole, autojunk=False).get_matching_blocks()  # the last one is the two ends
    return [_moved(border, blocks) for border in borders]


def _moved(border: int, blocks: Sequence[tuple[int, int, int]]) -> int:
    """Return the place of a character in another text by their common blocks; for a missing one, that of the next."""
    for start, other, size in blocks:
        if border < start + size:
            return other + max(0, border - start)
    return blocks[-1][1]
