"""Corrections for looking at a comparison several times while it grows.

Looking after every few runs and stopping at the first p below 0.05 is wrong more often than 5 % of the time: 14 % with
five looks. Pocock's rule (1977) requires the same stricter level of every look, so that all of them together keep the
level. It assumes looks at equal steps; at other steps, the true error rate is a little lower or higher.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import cast

import numpy as np

_POINTS = 301  # points of the grid on which the density of the sum of increments is computed


@lru_cache(maxsize=4096)
def overall_p(p: float, looks: int) -> float:
    """Return the probability that one of `looks` looks at a true null has a two-sided p value of `p` or lower."""
    from scipy.special import ndtr, ndtri

    if looks == 1 or p <= 0 or p >= 1:
        return min(1.0, max(0.0, p))
    bound = -float(ndtri(p / 2))
    if bound < 1e-3:
        return 1.0
    # Follow the density of the sum of k standard normal increments among paths that never left +-bound sqrt(k).
    grid = np.linspace(-bound, bound, _POINTS)
    weights = _weights(grid)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    for k in range(2, looks + 1):
        limit = bound * math.sqrt(k)
        new_grid = np.linspace(-limit, limit, _POINTS)
        if k == looks:
            stay = ndtr(limit - grid) - ndtr(-limit - grid)
            return float(1 - (weights * density * stay).sum())
        kernel = np.exp(-((new_grid[:, None] - grid[None, :]) ** 2) / 2) / math.sqrt(2 * math.pi)
        density = kernel @ (weights * density)
        grid, weights = new_grid, _weights(new_grid)
    raise AssertionError("unreachable: the last look returns")


def _weights(grid: np.ndarray) -> np.ndarray:
    """Return Simpson's weights for an even grid."""
    weights = np.full(len(grid), 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    return weights * (grid[1] - grid[0]) / 3


def confidence_of_each(confidence: float, looks: int) -> float:
    """Return the confidence of each of `looks` intervals, so that all of them together have `confidence`."""
    from scipy.optimize import brentq

    if looks == 1:
        return confidence
    error = 1 - confidence
    low, high = math.log(error / looks / 2), math.log(error)
    log_p = brentq(lambda log: overall_p(math.exp(log), looks) - error, low, high)
    return 1 - math.exp(cast(float, log_p))
