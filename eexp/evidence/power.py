"""The power of a comparison: which improvement it can find, computed before it is run.

The model is that of intervals.py, with three numbers that come from a pilot run or are assumed:

    rate     success of the baseline
    run_sd   standard deviation of the success rate between training runs
    alike    correlation of the successes of two episodes on the same task, by the same or different methods; pairing
             by task removes this share of the variance of single episodes
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np

from eexp.errors import UsageError
from eexp.evidence.intervals import ADDED
from eexp.evidence.results import check_same_tasks, read_run
from eexp.evidence.settings import PowerSettings

ALIKE, RUN_SD = 0.3, 0.03  # assumed without a pilot run
TASKS, RUNS = (50, 100, 200, 500, 1000), (1, 3, 5)  # numbers of tasks and of training runs, where none are given

_STEPS = (np.arange(50) + 0.5) / 50


def power(
    difference: float,
    *,
    rate: float,
    tasks: int,
    runs: int,
    run_sd: float = 0.0,
    alike: float = ALIKE,
    confidence: float = 0.95,
) -> float:
    """Return the probability that the interval excludes zero if the true difference is `difference`.

    Args:
        difference: Of the success rates, 0.1 for 10 points; rate + difference must lie between 0 and 1.
        rate: The baseline's success rate.
        runs: Training runs of each method.
        run_sd: As above, of both methods; not used for one run, which stands for itself.
        alike: As above.
        confidence: Of the interval.
    """
    from scipy.special import chdtri, ndtr, stdtrit

    rates = (rate, min(1.0, max(0.0, rate + difference)))
    variances = [p * (1 - p) for p in rates]
    noise = sum((1 - alike) * v / runs for v in variances) / tasks
    own = alike * (math.sqrt(variances[1]) - math.sqrt(variances[0])) ** 2 / tasks
    between = run_sd**2 / runs if runs > 1 else 0.0
    # The parts of the interval: that of tasks at its expected value; that of runs as it varies, each method's variance
    # between runs being chi-square over its degrees of freedom, in steps of equal probability.
    tasks_part = noise + own + ADDED * 2 / runs**2 / tasks**2
    residual = [(1 - alike) * v / runs / tasks if runs > 1 else 0.0 for v in variances]
    upper = 0.5 + confidence / 2
    squared = np.full(1, stdtrit(tasks - 1, upper) ** 2 * tasks_part)
    chi_squares = [
        (between + r) * chdtri(runs - 1, _STEPS) / (runs - 1) if runs > 1 and between + r > 0 else np.zeros(1)
        for r in residual
    ]
    total = chi_squares[0][:, None] + chi_squares[1][None, :]
    if total.any():
        welch = sum(part**2 / max(1, runs - 1) for part in (chi_squares[0][:, None], chi_squares[1][None, :]))
        extra = np.maximum(0, total - sum(residual))
        squared = squared + (stdtrit(total**2 / welch, upper) ** 2 * extra).ravel()
    margin = np.sqrt(squared)
    spread = math.sqrt(noise + own + 2 * between)
    if spread == 0:
        return float(abs(difference) > margin.mean())
    centre = (rates[1] - rates[0]) * tasks / (tasks + 2 / runs)
    return float(np.mean(ndtr((centre - margin) / spread) + ndtr((-centre - margin) / spread)))


def smallest_difference(*, rate: float, target: float = 0.8, **more: Any) -> float | None:
    """Return the smallest improvement that is found with probability `target`; None where no possible one is.

    The other arguments are those of `power`.
    """
    from scipy.optimize import brentq

    def excess_power(difference: float) -> float:
        return power(difference, rate=rate, **more) - target

    largest = 1 - rate
    if largest <= 0 or excess_power(largest) < 0:
        return None
    return float(cast(float, brentq(excess_power, 0.0, largest, xtol=1e-6)))


def plans(
    pilot: Sequence[Iterable[dict]] = (),
    settings: PowerSettings | None = None,
    *,
    target: float = 0.8,
    files: Sequence[str] | None = None,
) -> list[dict]:
    """Return one row for every number of tasks and of runs, with the smallest improvement that is found.

    Args:
        pilot: Episodes of the baseline's training runs, from which the numbers that are not given are estimated.
        settings: The numbers of tasks and of training runs of each method, what is known, and the confidence.
        target: Probability of finding the improvement.
        files: Where the pilot's episodes come from, for messages.

    Raises:
        UsageError: Without a rate, or for a baseline that always or never succeeds.
    """
    settings = settings or PowerSettings()
    estimates = estimate_from_pilot(pilot, files) if pilot else {}
    options = {"rate": settings.rate, "run_sd": settings.run_sd, "alike": settings.alike}
    defaults = {"run_sd": RUN_SD, "alike": ALIKE}
    values: dict[str, float] = {}
    sources: dict[str, str] = {}
    for name, option in options.items():
        estimate = estimates.get(name)
        if option is not None:
            values[name], sources[name] = option, "given"
        elif estimate is not None:
            values[name], sources[name] = estimate, "from the files"
        elif name in defaults:
            values[name], sources[name] = defaults[name], "assumed"
        else:
            raise UsageError("no success rate of the baseline: give its episodes, or a rate")
    if not 0 < values["rate"] < 1:
        raise UsageError(
            f"the baseline succeeds in {values['rate']:.0%} of the episodes, which says nothing of the "
            f"spread; give a rate"
        )
    rows = []
    for n in settings.tasks or TASKS:
        for count in settings.runs or RUNS:
            smallest = smallest_difference(**values, tasks=n, runs=count, confidence=settings.confidence, target=target)
            rows.append(
                {
                    "tasks": n,
                    "runs": count,
                    "smallest": smallest,
                    "power": target,
                    "confidence": settings.confidence,
                    **values,
                    **{f"{name}_from": source for name, source in sources.items()},
                }
            )
    return rows


def estimate_from_pilot(pilot: Sequence[Iterable[dict]], files: Sequence[str] | None = None) -> dict[str, float | None]:
    """Return `rate`, `run_sd` and `alike` of the training runs of one method; None for those that cannot be estimated.

    Two runs are needed for `run_sd`, and two runs or two trials of every task for `alike`.

    Args:
        pilot: Episodes of each run.
        files: Where each run comes from, for messages.
    """
    names = files or [f"run {i}" for i in range(1, len(pilot) + 1)]
    group = [read_run(name, run) for name, run in zip(names, pilot)]
    check_same_tasks(group, hint="")
    keys = sorted(group[0].successes)
    values = np.stack([run.means(keys) for run in group])
    rate = float(values.mean())
    estimates: dict[str, float | None] = {"rate": rate, "run_sd": None, "alike": None}
    if len(group) == 1:
        trials = min(len(group[0].successes[key]) for key in keys)
        values = np.array([[group[0].successes[key][trial] for key in keys] for trial in range(trials)], float)
    runs, tasks = values.shape
    if runs < 2 or tasks < 2:
        return estimates
    means, by_task = values.mean(1), values.mean(0)
    rest = values - means[:, None] - by_task[None, :] + values.mean()
    noise = (rest**2).sum() / ((runs - 1) * (tasks - 1))
    if len(group) > 1:
        estimates["run_sd"] = math.sqrt(max(0.0, means.var(ddof=1) - noise / tasks))
    shared = by_task.var(ddof=1) - noise / runs
    if shared + noise > 0:
        estimates["alike"] = float(min(0.99, max(0.0, shared / (shared + noise))))
    return estimates
