"""Intervals and p values for success rates and their differences, over tasks and training runs.

The model: a run `r` of method `m` on task `t` succeeds with

    y[m, r, t] = mean[m] + run[m, r] + task[m, t] + rest[m, r, t]

where the tasks are shared by all methods and runs (paired), and the runs of two methods are independent. The variance
of a difference has two parts, which are estimated apart:

    tasks   the variance of the differences by task, averaged over runs, divided by the number of tasks. It holds all
            that would change if the same runs played other tasks, and the noise of single episodes.
    runs    the variance between the mean rates of runs, less what the noise of episodes contributes to it (known from
            the residuals of tasks x runs), divided by the number of runs; never below zero.

The half width of an interval is sqrt(q_tasks² V_tasks + q_runs² V_runs), each q being Student's quantile for the
degrees of freedom of its part (Welch's for the runs of two methods): the modified large-sample rule of Graybill and
Wang (1980) for sums of variance components. tests/evidence/test_evidence_coverage.py says how often such an interval
holds the truth. With one run a method there is no runs' part, and the result speaks of those two models.

Few wins on few tasks make a variance of differences unreliable, or zero. So a little is added: for each method one
more episode of a task, half of which it wins alone. With one run and one episode each this is the interval of Agresti
and Min (2005) for paired proportions, with Student's quantile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np

Array = np.ndarray

ADDED = 0.5  # episodes added for each method that it alone wins


@dataclass(frozen=True)
class IntervalParts:
    """The parts of an interval; numbers, or arrays of the same shape where many are computed at once.

    Attributes:
        tasks, runs: The parts of the variance of the mean.
        task_df, run_df: Their degrees of freedom.
    """

    observed: Array  # the plain mean or difference
    centre: Array  # the middle of the interval
    tasks: Array
    runs: Array
    task_df: Array
    run_df: Array

    def margin(self, confidence: float) -> Array:
        """Return half the width of the interval."""
        return self.margin_at(1 - confidence)

    def margin_at(self, p: float) -> Array:
        """Return half the width of the interval with confidence 1 - p, exactly for tiny p as well."""
        from scipy.special import stdtrit

        tasks, runs = stdtrit(self.task_df, p / 2), stdtrit(self.run_df, p / 2)
        return np.sqrt(tasks**2 * self.tasks + runs**2 * self.runs)


@dataclass(frozen=True)
class Estimate(IntervalParts):
    """The parts of the interval of one comparison, as numbers, and the figures that are printed of it."""

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the lower and upper end; a difference of success rates lies between -1 and 1."""
        margin = float(self.margin(confidence))
        return max(-1.0, float(self.centre) - margin), min(1.0, float(self.centre) + margin)

    def p(self) -> float:
        """Return the two-sided p value: 1 minus the confidence at which the interval begins to hold zero."""
        from scipy.optimize import brentq
        from scipy.special import stdtr

        distance = abs(float(self.centre))
        if distance == 0:
            return 1.0
        if self.runs == 0:
            return float(2 * stdtr(self.task_df, -distance / math.sqrt(self.tasks)))

        def gap(log_p: float) -> float:
            return distance - float(self.margin_at(math.exp(log_p)))

        lowest = math.log(1e-100)
        if gap(lowest) > 0:
            return 0.0
        return math.exp(cast(float, brentq(gap, lowest, 0.0, xtol=1e-12, rtol=np.float64(1e-12))))

    def detectable(self, confidence: float = 0.95, power: float = 0.8) -> float | None:
        """Return the smallest true difference that such a comparison finds with probability `power`.

        None where not even a difference of 1, the largest there is, is found.
        """
        smallest = float(self.margin(confidence)) + float(self.margin_at(2 * (1 - power)))
        return smallest if smallest <= 1 else None


def difference_parts(first: Array, second: Array, episodes: tuple[float, float] = (1, 1)) -> IntervalParts:
    """Estimate second - first.

    With one run a method, that method's run stands for itself and adds nothing to the runs' part.

    Args:
        first, second: Success of the two methods, shape (..., runs, tasks), between 0 and 1; the tasks are the same.
            Leading axes, which must be equal, hold independent comparisons.
        episodes: Episodes (trials) that each value of `first` and of `second` is the mean of.
    """
    tasks = first.shape[-1]
    by_task = second.mean(-2) - first.mean(-2)
    observed = by_task.mean(-1)
    shares = [1 / (values.shape[-2] * n) for values, n in zip((first, second), episodes)]  # of one episode in a task
    padded = tasks + sum(shares)
    centre = observed * tasks / padded
    squares = (by_task**2).sum(-1) + ADDED * sum(share**2 for share in shares)
    variance = (squares - padded * centre**2) / (padded - 1)
    runs, run_df = _between_runs([first, second])
    return IntervalParts(
        observed, centre, np.maximum(variance, 0) / padded, runs, _like(observed, max(1, tasks - 1)), run_df
    )


def _between_runs(groups: list[Array], share: float = 1.0) -> tuple[Array, Array]:
    """Return the runs' part of the variance of a difference of two groups' means, or of a mean, and its df.

    Args:
        groups: Success of each group, shape (..., runs, tasks).
        share: The share of the noise of episodes that is taken away.
    """
    shape = groups[0].shape[:-2]
    total, noise, welch = (np.zeros(shape) for _ in range(3))
    for values in groups:
        runs, tasks = values.shape[-2:]
        if runs < 2:
            continue
        means = values.mean(-1)
        between = means.var(-1, ddof=1) / runs
        total += between
        welch += between**2 / (runs - 1)
        if tasks > 1:
            rest = values - means[..., None] - values.mean(-2, keepdims=True) + means.mean(-1)[..., None, None]
            noise += (rest**2).sum((-2, -1)) / ((runs - 1) * (tasks - 1)) / (runs * tasks)
    fewest = sum(values.shape[-2] - 1 for values in groups)
    df = np.divide(total**2, welch, out=np.full(shape, float(max(1, fewest))), where=welch > 0)
    return np.maximum(total - share * noise, 0), df


def _like(array: Array, value: float) -> Array:
    """Return an array of the same shape that holds one value."""
    return np.full(np.shape(array), float(value))


def difference(first: Array, second: Array, episodes: tuple[float, float] = (1, 1)) -> Estimate | None:
    """Estimate second - first for one comparison, as `difference_parts`; None for fewer than two tasks."""
    if first.shape[-1] < 2:
        return None
    parts = difference_parts(first, second, episodes)
    return Estimate(*(getattr(parts, name).item() for name in IntervalParts.__dataclass_fields__))


def rate(values: Array, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return a method's success rate, and the lower and upper end of its interval.

    With one episode a task this is Wilson's interval. Otherwise it is Wilson's with the number of episodes that would
    have the same variance (as in surveys: the effective sample size), which is estimated from tasks and runs as for a
    difference.

    Args:
        values: Success, shape (runs, tasks), between 0 and 1.
        confidence: Of the interval.
    """
    low, high = rate_limits(values, confidence)
    return float(values.mean()), float(low), float(high)


def rate_limits(values: Array, confidence: float) -> tuple[Array, Array]:
    """Return the lower and the upper ends of the intervals of rates, for values of shape (..., runs, tasks)."""
    from scipy.special import ndtri, stdtrit

    runs, tasks = values.shape[-2:]
    z = ndtri(0.5 + confidence / 2)
    observed = values.mean((-2, -1))
    size = _like(observed, tasks)
    if tasks > 1 and not (runs == 1 and np.isin(values, (0, 1)).all()):
        by_task = values.mean(-2)
        # With all of the noise taken away the interval of 3 runs would cover 91 % where runs differ by a few points.
        between, run_df = _between_runs([values], share=(runs - 1) / runs)
        upper = 0.5 + confidence / 2
        squared = (
            stdtrit(tasks - 1, upper) ** 2 * by_task.var(-1, ddof=1) / tasks + stdtrit(run_df, upper) ** 2 * between
        )
        spread = z**2 * observed * (1 - observed)
        # A spread of zero, but for rounding, says nothing; the tasks alone are counted then.
        size = np.divide(spread, squared, out=size, where=(squared > 1e-12) & (spread > 0))
    middle = (observed + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * np.sqrt(observed * (1 - observed) / size + z**2 / (4 * size**2))
    # Rounding would leave 3e-17 where nothing succeeded.
    return (
        np.where(observed == 0, 0.0, np.clip(middle - half, 0, 1)),
        np.where(observed == 1, 1.0, np.clip(middle + half, 0, 1)),
    )
