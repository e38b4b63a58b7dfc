"""Texts put together from pieces of another text, with the parts of it that are unknown (`Observation.unknown`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

Part = tuple[int, int]  # (start, end) in a text, in characters


class Piece(NamedTuple):
    """The part of a text from `start` to `end`, and the words that stand in its place, if it does not stay as it is."""

    start: int
    end: int
    words: str | None = None


def put_together(text: str, pieces: Iterable[Piece]) -> str:
    """Return the text of the pieces, in their order."""
    return "".join(text[piece.start : piece.end] if piece.words is None else piece.words for piece in pieces)


def moved(parts: list[Part] | None, pieces: Iterable[Piece]) -> list[Part] | None:
    """Return where parts of a text are in the text of its pieces, in order, without the parts of which nothing is left.

    A piece with other words counts as a whole. Parts that touch there become one.
    """
    if parts is None:
        return None
    result: list[Part] = []
    position = 0
    for start, end, words in pieces:
        inside = [(max(start, a), min(end, b)) for a, b in parts if max(start, a) < min(end, b)]
        length = end - start if words is None else len(words)
        if words is not None:
            inside = [(start, start + length)] if inside and length else []
        for a, b in sorted(inside):
            a, b = a - start + position, b - start + position
            if result and result[-1][1] == a:
                a = result.pop()[0]
            result.append((a, b))
        position += length
    return result
