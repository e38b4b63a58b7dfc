"""Smaller inputs that break the same law (Zeller and Hildebrandt's delta debugging, cut short)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Part = TypeVar("Part", list, bytes)


def smaller(whole: Part, fails: Callable[[Part], bool], until: float) -> Part:
    """Remove parts, large ones first, as long as the rest still fails.

    Args:
        whole: An input that fails: lines, or the bytes of one.
        fails: Whether an input fails.
        until: When to stop trying, by time.monotonic().
    """
    size = len(whole) // 2
    while size:
        at = 0
        while at < len(whole):
            if time.monotonic() > until:
                return whole
            rest = whole[:at] + whole[at + size :]
            if rest and fails(rest):
                whole = rest
            else:
                at += size
        size //= 2
    return whole


def minimise(lines: list[bytes], fails: Callable[[list[bytes]], bool], seconds: float) -> list[bytes]:
    """Return as few lines as still fail and, where that is one, as few of its bytes; at the latest after `seconds`."""
    until = time.monotonic() + seconds
    # Mostly a single line fails; halving finds it at once.
    lines = smaller(lines, fails, until)
    if len(lines) == 1:
        lines = [smaller(lines[0], lambda line: fails([line]), until)]
    return lines
