"""Simulate how often the intervals of `eexp compare` contain the true value.

A nominal 95 % is to cover 93 to 97 %. Each cell of the grid is many simulated comparisons. A cell fails where its
count would have a probability below `ERROR` / (number of cells) if the true coverage were 93 or 97 %, so that a correct
interval fails the whole test with a probability below 1 %.

Above 97 % (the interval is too long, never too short) are allowed the cells where next to nothing can be told apart:
50 tasks with success of 5 or 90 %, of which only a handful differ, and success so near to 0 or 100 % that runs, which
differ by 10 points all the same, are a mixture of failures and exceptions. The text of `_highest` is the whole list.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binom
from simulated import World

from eexp.evidence.intervals import difference_parts, rate_limits

ERROR = 0.01
TASKS, RUNS = (50, 200, 1000), (1, 3, 5)
RATES = ((0.05, 0.05), (0.05, 0.15), (0.2, 0.3), (0.5, 0.5), (0.9, 0.9))
RUN_SD = (0.0, 0.03, 0.1)
#: Latent standard deviations of tasks, and of what is hard for one method alone.
DIFFICULTY = ((0.0, 0.0), (1.0, 0.5))
GRID = list(itertools.product(TASKS, RUNS, RATES, RUN_SD, DIFFICULTY))


def _highest(tasks: int, rates: tuple[float, float], run_sd: float) -> float:
    """Return the highest coverage that is allowed."""
    at_the_edge = max(rates) == 0.05 or min(rates) == 0.9
    if at_the_edge and run_sd == 0.1:
        return 0.995
    return 0.985 if at_the_edge and tasks == 50 else 0.97


def _covered(rng, n: int, tasks: int, runs: int, world: World) -> tuple[float, float]:
    """Return how many of n intervals of a difference, and of a rate, contain the true value."""
    first, second, truth = world.draw(rng, n, tasks, (runs, runs))
    parts = difference_parts(first, second)
    covers = np.abs(parts.centre - truth) <= parts.margin(0.95)
    low, high = rate_limits(first, 0.95)
    return covers.sum(), ((low <= world.rates[0]) & (world.rates[0] <= high)).sum()


def _check(grid: list[tuple], samples: dict[int, int]) -> None:
    rng, wrong = np.random.default_rng(13), []
    tail = ERROR / len(grid)
    for tasks, runs, rates, run_sd, (task_sd, own) in grid:
        n, world = samples[tasks], World(rates, run_sd, task_sd, own)
        covered = sum(_covered(rng, size, tasks, runs, world)[0] for size in _batches(n, tasks * runs))
        lowest, highest = binom.ppf(tail / 2, n, 0.93), binom.isf(tail / 2, n, _highest(tasks, rates, run_sd))
        if not lowest <= covered <= highest:
            wrong.append(f"{tasks} tasks, {runs} runs, {rates}, sd {run_sd}, {task_sd, own}: {covered / n:.1%}")
    assert not wrong, "\n".join(wrong)


def _batches(n: int, size: int) -> list[int]:
    """Cut n into parts that fit into memory."""
    most = max(1, 2_000_000 // size)
    return [min(most, n - start) for start in range(0, n, most)]


def test_intervals_of_differences_cover():
    """Four worlds; 1,000 comparisons each with 50 and 200 tasks, 300 with 1,000 tasks."""
    worlds = [((0.2, 0.3), 0.0), ((0.5, 0.5), 0.03), ((0.05, 0.15), 0.03), ((0.9, 0.9), 0.1)]
    grid = [(tasks, runs, *world, DIFFICULTY[1]) for tasks, runs, world in itertools.product(TASKS, RUNS, worlds)]
    _check(grid, {50: 1000, 200: 1000, 1000: 300})


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_intervals_of_differences_cover_by_many_simulations():
    """The whole grid; 8,000 comparisons with 50 tasks, 4,000 with 200 and 1,500 with 1,000."""
    _check(GRID, {50: 8000, 200: 4000, 1000: 1500})


@pytest.mark.parametrize(
    ("tasks", "runs", "run_sd"), [(50, 1, 0.0), (200, 1, 0.0), (200, 3, 0.0), (200, 3, 0.03), (200, 5, 0.05)]
)
def test_a_null_is_rejected_in_one_of_twenty(tasks, runs, run_sd):
    """4,000 comparisons of equal methods: 3 to 7 % have p below 0.05, with an error of 0.1 % for this test."""
    n, rejected = 4000, 0
    world = World((0.3, 0.3), run_sd)
    rng = np.random.default_rng(14)
    for size in _batches(n, tasks * runs):
        first, second, truth = world.draw(rng, size, tasks, (runs, runs))
        parts = difference_parts(first, second)
        # With one run each the two models do differ where runs do; here they do not.
        assert np.allclose(truth, 0)
        rejected += (np.abs(parts.centre) > parts.margin(0.95)).sum()
    assert binom.ppf(0.0005, n, 0.03) <= rejected <= binom.isf(0.0005, n, 0.07)


@pytest.mark.parametrize(
    ("tasks", "runs", "run_sd", "lowest"),
    [(200, 1, 0.0, 0.93), (200, 3, 0.0, 0.93), (50, 5, 0.03, 0.92), (200, 3, 0.05, 0.9)],
)
def test_intervals_of_rates_cover(tasks, runs, run_sd, lowest):
    """A single method has fewer runs to tell their spread from: 90 % at least with 3 runs."""
    n = 2000
    covered = _covered(np.random.default_rng(15), n, tasks, runs, World((0.3, 0.3), run_sd))[1]
    assert binom.ppf(0.001, n, lowest) <= covered <= binom.isf(0.001, n, 0.98)


def test_a_percentile_bootstrap_of_three_runs_does_not_cover():
    """Resampling 3 runs and the tasks covers far less than 95 % where runs differ, so eexp has its own rule."""
    rng, n, covered = np.random.default_rng(16), 100, 0
    first, second, truth = World((0.3, 0.4), 0.08).draw(rng, n, 200, (3, 3))
    for a, b, true in zip(first, second, truth):
        weights = rng.multinomial(200, np.full(200, 1 / 200), size=300) / 200
        by_run = [(values @ weights.T).T for values in (a, b)]  # draws x runs
        picks = [rng.integers(3, size=(300, 3)) for _ in range(2)]
        means = [np.take_along_axis(values, pick, 1).mean(1) for values, pick in zip(by_run, picks)]
        low, high = np.percentile(means[1] - means[0], [2.5, 97.5])
        covered += low <= true <= high
    assert covered / n < 0.92


def _print_table() -> None:
    """Print the lowest and highest coverage over success and difficulty, in Markdown."""
    rng, samples = np.random.default_rng(21), {50: 6000, 200: 3000, 1000: 800}
    print("| tasks | runs each | runs alike | sd 3 points | sd 10 points |\n|---|---|---|---|---|")
    for tasks, runs in itertools.product(TASKS, RUNS):
        cells = []
        for run_sd in RUN_SD:
            shares = []
            for rates, (task_sd, own) in itertools.product(RATES, DIFFICULTY[tasks == 1000 :]):
                world, n = World(rates, run_sd, task_sd, own), samples[tasks]
                covered = sum(_covered(rng, size, tasks, runs, world)[0] for size in _batches(n, tasks * runs))
                if _highest(tasks, rates, run_sd) == 0.97:
                    shares.append(100 * covered / n)
            cells.append(f"{min(shares):.1f} to {max(shares):.1f}")
        print(f"| {tasks:,} | {runs} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    _print_table()
