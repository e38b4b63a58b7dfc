"""Exact tests of the hypothesis that two methods do not differ, and the correction for several of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

MOST_ASSIGNMENTS = 200_000  # most assignments of labels that are all computed; 9 runs against 9 have 48,620


def sign_flip_p(differences: Sequence[float], episodes: int = 1) -> float:
    """Return the p value of the exact sign-flip test over tasks, for one run a method.

    Where the methods do not differ, each difference could as well have had the other sign; the p value is the share of
    all ways to choose the signs with a sum as far from zero. With one episode a task this is the exact McNemar test.

    Args:
        differences: By task, of means over `episodes` episodes.
        episodes: Episodes of each method in each task.
    """
    steps = [round(abs(d) * episodes) for d in differences]
    total = abs(round(sum(round(d * episodes) for d in differences)))
    # ways[i]: the share of choices with the sum i - offset. Adding one difference at a time is exact and quick.
    offset = sum(steps)
    ways = np.zeros(2 * offset + 1)
    ways[offset] = 1.0
    for step in filter(None, steps):
        ways = (np.roll(ways, step) + np.roll(ways, -step)) / 2
    sums = np.abs(np.arange(-offset, offset + 1))
    return min(1.0, float(ways[sums >= total].sum()))


def permutation_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the p value of the exact permutation test over the labels of training runs; None where they are too many.

    Where the methods do not differ, every assignment of runs to methods was equally likely; the p value is the share of
    them with a difference as large.

    Args:
        first, second: Mean success by run, of each method.
    """
    values = np.array([*first, *second], float)
    if math.comb(len(values), len(first)) > MOST_ASSIGNMENTS:
        return None
    chosen = np.array(list(itertools.combinations(range(len(values)), len(first))))
    sums = values[chosen].sum(1)
    differences = np.abs((values.sum() - sums) / len(second) - sums / len(first))
    observed = abs(np.mean(second) - np.mean(first))
    return float(np.mean(differences >= observed - 1e-12))


def smallest_p(first: int, second: int) -> float:
    """Return the smallest p value that `permutation_p` can give for these numbers of runs: 0.1 for 3 against 3."""
    return (2 if first == second else 1) / math.comb(first + second, first)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values, corrected for their number by Holm's step-down rule, in the same order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
