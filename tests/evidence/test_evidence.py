"""The numbers of `eexp compare`, against formulas, other libraries and simulated results."""

from __future__ import annotations

import itertools
import math
import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from simulated import World

from eexp.evidence import exact_tests, looks, trials
from eexp.evidence.intervals import difference, difference_parts, rate
from eexp.evidence.power import estimate_from_pilot, power, smallest_difference

# -- intervals ---------------------------------------------------------------------------------------------------------


def _results(runs: tuple[int, int], tasks: int = 120, seed: int = 0, **world) -> tuple[np.ndarray, np.ndarray]:
    first, second, _ = World((0.3, 0.45), **world).draw(np.random.default_rng(seed), 1, tasks, runs)
    return first[0], second[0]


@pytest.mark.parametrize("seed", range(6))
def test_one_run_each_is_the_interval_of_agresti_and_min(seed):
    first, second = _results((1, 1), tasks=60, seed=seed)
    won, lost, n = ((second > first).sum(), (second < first).sum(), 60)
    for confidence in (0.8, 0.95, 0.99):
        more, fewer, size = (won + 0.5) / (n + 2), (lost + 0.5) / (n + 2), n + 2
        spread = math.sqrt((more + fewer - (more - fewer) ** 2) / (size - 1))
        half = stats.t.ppf(0.5 + confidence / 2, n - 1) * spread
        low, high = difference(first, second).interval(confidence)
        assert low == pytest.approx(max(-1, more - fewer - half)) and high == pytest.approx(min(1, more - fewer + half))


@pytest.mark.parametrize("runs", [(1, 1), (3, 3), (5, 2), (1, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_p_and_the_interval_agree(runs, seed):
    """The interval with confidence 1 - p ends at zero, so that p is below 0.05 where the 95 % interval excludes it."""
    estimate = difference(*_results(runs, seed=seed, run_sd=0.05))
    p = estimate.p()
    low, high = estimate.interval(1 - p)
    assert min(abs(low), abs(high)) < 1e-6
    for confidence in (0.8, 0.95, 0.99):
        low, high = estimate.interval(confidence)
        assert (p < 1 - confidence) == (low > 0 or high < 0)


def test_no_spread_is_no_certainty():
    same = np.ones((3, 50))
    estimate = difference(same, same)
    low, high = estimate.interval()
    assert estimate.observed == 0 and estimate.p() == 1.0 and low == -high and 0 < high < 0.03
    single = difference(same[:1], same[:1]).interval()
    assert single[1] == pytest.approx(0.04, abs=0.005), "three tasks of fifty could be won and none of these show it"
    assert difference(same[:, :1], same[:, :1]) is None
    everything = difference(0 * same[:1], same[:1])
    assert everything.interval()[1] == 1.0 and everything.p() < 1e-6


def test_runs_that_differ_widen_the_interval_and_runs_that_do_not_leave_it():
    rng = np.random.default_rng(0)
    tasks = (rng.random((1, 200)) < 0.5).astype(float)
    alike = np.concatenate([tasks] * 3)
    flat = difference(alike, alike)
    assert flat.runs == 0 and flat.run_df == 4
    apart = alike.copy()
    apart[0, :60] = 1
    assert difference(alike, apart).runs > 0
    fixed = difference(alike[:1], apart[:1])
    assert fixed.runs == 0, "one run each: those two models"


def test_the_hierarchical_bootstrap_agrees():
    """Resample runs of each method and, together, tasks.

    Where runs and tasks are crossed such a bootstrap counts the noise of single episodes three times (Owen 2007, the
    pigeonhole bootstrap), and it takes 25 runs for its spread between runs to be more than 96 % of the true one.
    """
    rng = np.random.default_rng(1)
    for seed, run_sd in enumerate((0.04, 0.08)):
        first, second = _results((25, 25), tasks=300, seed=seed, run_sd=run_sd)
        estimate = difference(first, second)
        draws = []
        for _ in range(2000):
            tasks = rng.integers(300, size=300)
            one, other = (values[rng.integers(25, size=25)].mean(0)[tasks].mean() for values in (first, second))
            draws.append(other - one)
        noise = sum(_noise(values) for values in (first, second))
        spread = math.sqrt(np.var(draws) - 2 * noise)
        assert spread == pytest.approx(math.sqrt(estimate.tasks + estimate.runs), rel=0.08)
        low, high = np.percentile(draws, [2.5, 97.5])
        middle, shrink = (low + high) / 2, spread / np.std(draws)
        ends = [middle - (middle - low) * shrink, middle + (high - middle) * shrink]
        assert ends == pytest.approx(estimate.interval(), abs=0.15 * spread * 2)


def _noise(values: np.ndarray) -> float:
    """Return the variance that single episodes add to the mean of runs x tasks."""
    runs, tasks = values.shape
    rest = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
    return (rest**2).sum() / ((runs - 1) * (tasks - 1)) / (runs * tasks)


@pytest.mark.parametrize(("tasks", "runs", "run_sd"), [(60, 6, 0.08), (100, 5, 0.05), (60, 6, 0.15)])
def test_a_mixed_model_agrees(tasks, runs, run_sd):
    """Success ~ method + random task + random run, by restricted maximum likelihood."""
    pandas = pytest.importorskip("pandas")
    formula = pytest.importorskip("statsmodels.formula.api")
    first, second = _results((runs, runs), tasks=tasks, seed=tasks + runs, run_sd=run_sd, own=0.0)
    rows = [
        (method, f"{method}-{run}", task, success)
        for method, values in enumerate((first, second))
        for (run, task), success in np.ndenumerate(values)
    ]
    frame = pandas.DataFrame(rows, columns=["method", "run", "task", "success"]).assign(all=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = formula.mixedlm(
            "success ~ method", frame, groups="all", vc_formula={"run": "0 + C(run)", "task": "0 + C(task)"}
        ).fit(reml=True)
    estimate = difference(first, second)
    assert fitted.params["method"] == pytest.approx(estimate.observed, abs=1e-6)
    assert fitted.bse["method"] == pytest.approx(math.sqrt(estimate.tasks + estimate.runs), rel=0.15)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 30), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_laws_of_a_difference(first_runs, second_runs, tasks, seed):
    """Swapping the methods changes the sign; the order of runs and tasks, or many at once, change nothing."""
    rng = np.random.default_rng(seed)
    first, second = ((rng.random((n, tasks)) < 0.4).astype(float) for n in (first_runs, second_runs))
    estimate, swapped = difference(first, second), difference(second, first)
    assert swapped.interval() == pytest.approx([-end for end in reversed(estimate.interval())])
    assert swapped.p() == pytest.approx(estimate.p())
    order = rng.permutation(tasks)
    shuffled = difference(first[::-1, order], second[rng.permutation(second_runs)][:, order])
    assert shuffled.interval() == pytest.approx(estimate.interval())
    low, high = estimate.interval()
    assert low - 1e-9 <= estimate.observed <= high + 1e-9
    both = difference_parts(np.stack([first, second[:1].repeat(first_runs, 0)]), np.stack([second, second]))
    assert both.margin(0.95)[0] == pytest.approx(float(estimate.margin(0.95)))


def test_a_rate_is_wilsons_where_it_can_be():
    rng = np.random.default_rng(2)
    for n in (1, 7, 200):
        values = (rng.random((1, n)) < 0.7).astype(float)
        interval = stats.binomtest(int(values.sum()), n).proportion_ci(0.95, method="wilson")
        assert rate(values)[1:] == pytest.approx((interval.low, interval.high))
    assert rate(np.zeros((3, 100)))[1:] == pytest.approx(rate(np.zeros((1, 100)))[1:]), "the same tasks three times"
    first, _ = _results((5, 1), run_sd=0.1)
    spread, alone = rate(first), rate(first[:1])
    assert spread[2] - spread[1] > 0.6 * (alone[2] - alone[1]), "five runs with spread are not five times the tasks"


# -- exact tests, corrections, looks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_sign_flips_are_mcnemars_test_with_one_episode_a_task(seed):
    first, second = _results((1, 1), tasks=40, seed=seed)
    won, lost = int((second > first).sum()), int((second < first).sum())
    assert exact_tests.sign_flip_p((second - first)[0]) == pytest.approx(stats.binomtest(won, won + lost).pvalue)


@pytest.mark.parametrize("seed", range(5))
def test_sign_flips_with_trials_count_every_choice_of_signs(seed):
    rng = random.Random(seed)
    differences = [rng.randint(-3, 3) / 3 for _ in range(9)]
    sums = [abs(sum(s * d for s, d in zip(signs, differences))) for signs in itertools.product((1, -1), repeat=9)]
    share = sum(s >= abs(sum(differences)) - 1e-9 for s in sums) / len(sums)
    assert exact_tests.sign_flip_p(differences, 3) == pytest.approx(share)
    assert exact_tests.sign_flip_p([0.0, 0.0]) == 1.0 and exact_tests.sign_flip_p([]) == 1.0


def test_permutation_p_is_scipys_permutation_test():
    rng = np.random.default_rng(4)
    for sizes in ((3, 3), (5, 5), (2, 6)):
        first, second = rng.random(sizes[0]), rng.random(sizes[1])

        def distance(x, y):
            return np.abs(np.mean(x) - np.mean(y))

        result = stats.permutation_test((first, second), distance, n_resamples=np.inf, alternative="greater")
        assert exact_tests.permutation_p(first, second) == pytest.approx(result.pvalue)
    assert exact_tests.permutation_p(range(15), range(15)) is None, "155,117,520 assignments"


@pytest.mark.parametrize(("first", "second", "smallest"), [(3, 3, 0.1), (4, 4, 2 / 70), (5, 5, 2 / 252), (1, 3, 0.25)])
def test_the_smallest_p_of_a_permutation_test(first, second, smallest):
    assert exact_tests.smallest_p(first, second) == pytest.approx(smallest)
    assert exact_tests.permutation_p([0.0] * first, [1.0] * second) == pytest.approx(smallest)


def test_holm():
    assert exact_tests.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert exact_tests.holm([]) == [] and exact_tests.holm([0.6, 0.7]) == [1.0, 1.0]


def test_holm_is_that_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = random.Random(0)
    for n in (1, 2, 5, 9):
        values = [rng.random() ** 3 for _ in range(n)]
        assert exact_tests.holm(values) == pytest.approx(multitest.multipletests(values, method="holm")[1])


def test_levels_of_several_looks_are_pococks():
    """The levels of Pocock (1977), table 1, for an error of 5 % in all."""
    for n, level in ((2, 0.0294), (3, 0.0221), (4, 0.0182), (5, 0.0158), (10, 0.0106)):
        assert 1 - looks.confidence_of_each(0.95, n) == pytest.approx(level, abs=5e-5)
        assert looks.overall_p(level, n) == pytest.approx(0.05, abs=2e-4)
    assert looks.confidence_of_each(0.95, 1) == 0.95 and looks.overall_p(0.05, 1) == 0.05
    assert [looks.overall_p(p, 3) for p in (0.0, 1.0)] == [0.0, 1.0]
    rising = [looks.overall_p(p, 4) for p in (1e-12, 1e-6, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99)]
    assert rising == sorted(rising) and rising[-1] <= 1


# -- power -------------------------------------------------------------------------------------------------------------


def _alike(world: World, rng: np.random.Generator) -> float:
    """Return the correlation of two episodes on a task, in a large sample."""
    first, second, _ = world.draw(rng, 1, 40_000, (1, 1))
    return float(np.corrcoef(first[0, 0], second[0, 0])[0, 1])


@pytest.mark.parametrize(
    ("tasks", "runs", "run_sd"), [(200, 3, 0.0), (200, 3, 0.03), (200, 5, 0.03), (500, 1, 0.0), (100, 2, 0.02)]
)
def test_a_planted_difference_is_found_at_the_stated_power(tasks, runs, run_sd):
    """10 points: the share of simulated comparisons that find it is the power that was stated, within 3 points."""
    rng, n = np.random.default_rng(5), 3000
    world = World((0.2, 0.3), run_sd, tasks=1.0, own=0.0)
    first, second, _ = world.draw(rng, n, tasks, (runs, runs))
    parts = difference_parts(first, second)
    share = (parts.centre - parts.margin(0.95) > 0).mean()
    stated = power(0.1, rate=0.2, tasks=tasks, runs=runs, run_sd=run_sd, alike=_alike(world, rng))
    assert share == pytest.approx(stated, abs=0.03)


def test_the_smallest_difference_is_found_with_that_power():
    smallest = smallest_difference(rate=0.2, tasks=200, runs=3, run_sd=0.02)
    assert power(smallest, rate=0.2, tasks=200, runs=3, run_sd=0.02) == pytest.approx(0.8, abs=1e-4)
    assert smallest_difference(rate=0.2, tasks=1000, runs=5, run_sd=0.02) < smallest
    assert smallest_difference(rate=0.9, tasks=10, runs=1) is None
    assert power(0.0, rate=0.3, tasks=500, runs=1) == pytest.approx(0.05, abs=0.005)


def test_detectable_after_a_run_is_what_power_computes_before():
    """The two agree on average, at the smallest detectable difference."""
    rng = np.random.default_rng(6)
    world = World((0.3, 0.4), 0.02, tasks=1.0, own=0.0)
    alike = _alike(world, rng)
    before = smallest_difference(rate=0.3, tasks=300, runs=5, run_sd=0.02, alike=alike)
    first, second, _ = world.draw(rng, 300, 300, (5, 5))
    after = np.median([difference(a, b).detectable() for a, b in zip(first, second)])
    assert after == pytest.approx(before, rel=0.15)


def test_the_spread_is_estimated_from_a_pilot():
    world = World((0.4, 0.4), 0.06, tasks=1.0, own=0.0)
    first, _, _ = world.draw(np.random.default_rng(7), 1, 600, (20, 1))
    estimates = estimate_from_pilot([_episodes(run) for run in first[0]])
    assert estimates["rate"] == pytest.approx(first.mean())
    assert estimates["run_sd"] == pytest.approx(0.06, abs=0.025)
    assert estimates["alike"] == pytest.approx(_alike(world, np.random.default_rng(8)), abs=0.04)
    assert estimate_from_pilot([_episodes(first[0, 0])])["run_sd"] is None
    both = estimate_from_pilot([[*_episodes(first[0, 0]), *_episodes(first[0, 1], trial=1)]])
    assert both["run_sd"] is None and both["alike"] > 0.1


def _episodes(successes: np.ndarray, trial: int = 0) -> list[dict]:
    return [
        {
            "type": "episode",
            "id": f"e/{i}/{trial}",
            "env": "e",
            "task": {"id": str(i)},
            "seed": trial,
            "steps": 1,
            "success": bool(success),
        }
        for i, success in enumerate(successes)
    ]


# -- pass@k and pass^k -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "c"), [(1, 0), (1, 1), (4, 1), (5, 3), (6, 6)])
def test_pass_at_k_is_the_mean_over_all_choices_of_k(n, c):
    episodes = [1] * c + [0] * (n - c)
    for k in range(1, n + 1):
        chosen = list(itertools.combinations(episodes, k))
        assert trials.pass_at(n, c, k) == pytest.approx(np.mean([max(one) for one in chosen]))
        assert trials.pass_all(n, c, k) == pytest.approx(np.mean([min(one) for one in chosen]))
    assert trials.pass_at(n, c, 1) == pytest.approx(c / n) == pytest.approx(trials.pass_all(n, c, 1))


def test_the_values_of_k_that_are_shown():
    assert [trials.steps_of_k(n) for n in (1, 2, 3, 5, 8)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 5], [1, 2, 4, 8]]


def test_an_interval_of_a_rate_has_a_width_and_ends_at_the_ends():
    """Rounding leaves neither 3e-17 for zero nor an interval of no width where every task has the same mean."""
    assert rate(np.zeros((1, 12)))[1] == 0 and rate(np.ones((3, 12)))[2] == 1
    _, low, high = rate(np.tile(np.eye(3), 7)[:, :20])
    assert low < 1 / 3 - 0.05 and high > 1 / 3 + 0.05
