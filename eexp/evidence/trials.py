"""pass@k and pass^k, where a task was played several times."""

from __future__ import annotations

from math import comb


def pass_at(trials: int, successes: int, k: int) -> float:
    """Return the unbiased estimate of the probability that at least one of k episodes succeeds (Chen et al. 2021)."""
    return 1 - comb(trials - successes, k) / comb(trials, k)


def pass_all(trials: int, successes: int, k: int) -> float:
    """Return the unbiased estimate of the probability that all of k episodes succeed (pass^k, Yao et al. 2024)."""
    return comb(successes, k) / comb(trials, k)


def steps_of_k(trials: int) -> list[int]:
    """Return the values of k that are shown: the powers of two up to `trials`, and `trials`."""
    return sorted({k for k in (2**i for i in range(trials.bit_length())) if k <= trials} | {trials})
