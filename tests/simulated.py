"""Results of two methods, simulated: training runs x tasks, whose true success rates are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class World:
    """A probit model: success where a normal draw is below level + run + task + method on that task.

    rates: true success of the two methods over all runs and tasks. run_sd: standard deviation of success between runs.
    tasks, own: latent standard deviations of tasks, and of what a method finds hard on a task of its own.
    """

    rates: tuple[float, float]
    run_sd: float = 0.0
    tasks: float = 1.0
    own: float = 0.5

    def _run_scale(self, rate: float) -> float:
        """Return the latent standard deviation of runs at which their success rates have that of `run_sd`."""
        rest = np.sqrt(1 + self.tasks**2 + self.own**2)

        def gap(scale: float) -> float:
            level = norm.ppf(rate) * np.hypot(rest, scale)
            by_run = norm.cdf((level + scale * _NODES) / rest)
            return np.sqrt((_WEIGHTS * (by_run - rate) ** 2).sum()) - self.run_sd

        return brentq(gap, 1e-6, 100) if self.run_sd else 0.0

    def draw(self, rng: np.random.Generator, n: int, tasks: int, runs: tuple[int, int]):
        """Return n comparisons: success of both methods, (n, runs, tasks), and the true difference each is about.

        That is the difference of the methods; where each has one run, that of those two runs over all tasks.
        """
        rest = np.sqrt(1 + self.tasks**2 + self.own**2)
        difficulty = self.tasks * rng.standard_normal((n, 1, tasks), np.float32)
        methods, of_runs = [], []
        for rate, count in zip(self.rates, runs):
            scale = self._run_scale(rate)
            run = norm.ppf(rate) * np.hypot(rest, scale) + scale * rng.standard_normal((n, count, 1))
            level = run.astype(np.float32) + difficulty
            if self.own:
                level = level + self.own * rng.standard_normal((n, 1, tasks), np.float32)
            methods.append((rng.standard_normal((n, count, tasks), np.float32) < level).astype(float))
            of_runs.append(norm.cdf(run[:, :, 0] / rest).mean(1) if count == 1 else np.full(n, rate))
        return *methods, of_runs[1] - of_runs[0]
