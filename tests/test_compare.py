"""`eexp compare` against the formulas, and against SciPy called directly."""

from __future__ import annotations

import math
import random
from itertools import groupby

import pytest
from running import run, write
from scipy import stats

from eexp.stages.compare import compare


def _episodes(successes: dict[tuple[int, int], bool], env: str = "house") -> list[dict]:
    return [{"type": "episode", "id": f"{env}/{task}/{trial}", "env": env, "task": {"id": str(task)}, "seed": trial,
             "success": won, "steps": 5 + task % 3, "invalid": task % 2}
            for (task, trial), won in successes.items()]  # fmt: skip


def _drawn(n: int, rate: float, seed: int, trials: int = 1) -> dict[tuple[int, int], bool]:
    rng = random.Random(seed)
    return {(task, trial): rng.random() < rate for trial in range(trials) for task in range(n)}


def _wilson(k: int, n: int, confidence: float) -> tuple[float, float]:
    z = stats.norm.ppf(0.5 + confidence / 2)
    middle = (k / n + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n))
    return middle - half, middle + half


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("n", "rate"), [(1, 1.0), (10, 0.0), (10, 1.0), (37, 0.4), (200, 0.7)])
def test_wilson_intervals(n, rate, confidence):
    found = _drawn(n, rate, n)
    (row,) = compare({"a": _episodes(found)}, confidence=confidence)
    low, high = _wilson(sum(found.values()), n, confidence)
    assert row["low"] == pytest.approx(low, abs=1e-12) and row["high"] == pytest.approx(high, abs=1e-12)
    assert row["rate"] == sum(found.values()) / n and row["episodes"] == n


@pytest.mark.parametrize("seed", range(8))
def test_mcnemar_and_the_paired_interval(seed):
    a, b = _drawn(60, 0.4, seed), _drawn(60, 0.55, seed + 100)
    row = compare({"a": _episodes(a), "b": _episodes(b)})[1]
    won = sum(b[k] and not a[k] for k in a)
    lost = sum(a[k] and not b[k] for k in a)
    n, k = won + lost, min(won, lost)
    exact = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    assert (row["won"], row["lost"], row["pairs"], row["against"]) == (won, lost, 60, "a")
    assert row["p"] == pytest.approx(exact)
    assert row["p"] == pytest.approx(stats.binomtest(won, n).pvalue)
    differences = [int(b[k]) - int(a[k]) for k in a]
    assert row["difference"] == pytest.approx(sum(differences) / 60)
    half = stats.t.ppf(0.975, 59) * stats.sem(differences)
    assert row["difference_low"] == pytest.approx(row["difference"] - half)
    assert row["difference_high"] == pytest.approx(row["difference"] + half)


def test_trials_of_a_task_are_not_independent():
    """The interval is over tasks: more trials of the same tasks do not make it a sample of more tasks."""
    a, b = _drawn(20, 0.4, 1, trials=5), _drawn(20, 0.6, 2, trials=5)
    row = compare({"a": _episodes(a), "b": _episodes(b)})[1]
    by_task = {}
    for (task, trial), won in b.items():
        by_task.setdefault(task, []).append(int(won) - int(a[task, trial]))
    means = [sum(d) / len(d) for d in by_task.values()]
    assert row["pairs"] == 100 and row["difference"] == pytest.approx(sum(means) / 20)
    interval = stats.ttest_1samp(means, 0).confidence_interval()
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(interval))


def test_pairs_are_by_task_whatever_the_order():
    a, b = _drawn(30, 0.4, 1), _drawn(30, 0.6, 2)
    shuffled = _episodes(b)
    random.Random(0).shuffle(shuffled)
    assert compare({"a": _episodes(a), "b": _episodes(b)}) == compare({"a": _episodes(a), "b": shuffled})
    fewer = [e for e in _episodes(b) if int(e["task"]["id"]) < 10]
    assert compare({"a": _episodes(a), "b": fewer})[1]["pairs"] == 10
    other = compare({"a": _episodes(a), "b": _episodes(b, env="other")})[1]
    assert other["pairs"] == 0 and "p" not in other


def test_no_difference_and_no_spread():
    same = _drawn(10, 0.5, 3)
    row = compare({"a": _episodes(same), "b": _episodes(same)})[1]
    assert (row["difference"], row["p"], row["won"], row["lost"]) == (0, 1.0, 0, 0)
    assert row["difference_low"] is None and row["difference_high"] is None
    nothing, everything = (_episodes({(i, 0): won for i in range(10)}) for won in (False, True))
    row = compare({"a": nothing, "b": everything})[1]
    assert row["difference"] == 1 and row["p"] == pytest.approx(2 / 2**10)
    row = compare({"a": nothing[:1], "b": everything[:1]})[1]
    assert row["pairs"] == 1 and row["difference_low"] is None


def test_the_command(tmp_path):
    a = write(tmp_path / "a.jsonl", _episodes(_drawn(30, 0.3, 1)))
    b = write(tmp_path / "b.jsonl", _episodes(_drawn(30, 0.7, 2)))
    rows = run("compare", "--json", a, b).ok().records
    assert [r["name"] for r in rows] == ["a", "b"] and rows[1]["against"] == "a"
    assert rows == compare({"a": _episodes(_drawn(30, 0.3, 1)), "b": _episodes(_drawn(30, 0.7, 2))})
    rows = run("compare", "--json", "--baseline", "new", f"old={a}", f"new={b}").ok().records
    assert [r["name"] for r in rows] == ["old", "new"] and rows[0]["against"] == "new" and "against" not in rows[1]
    shown = run("compare", a, b).ok().out.decode().splitlines()
    assert shown[0].split()[:2] == ["episodes", "success"] and shown[1].startswith("a ") and shown[2].startswith("b ")
    assert "95% interval" in shown[0] and "exact McNemar" in shown[-1]
    assert "99% interval" in run("compare", "--confidence", 0.99, a).ok().out.decode()
    assert [len(list(g)) for _, g in groupby(len(line.rstrip()) > 0 for line in shown)] == [len(shown)]


def test_what_cannot_be_compared(tmp_path):
    episodes = _episodes(_drawn(3, 0.3, 1))
    a = write(tmp_path / "a.jsonl", episodes)
    twice = write(tmp_path / "twice.jsonl", episodes + episodes)
    (tmp_path / "other").mkdir()
    namesake = write(tmp_path / "other" / "a.jsonl", episodes)
    run("compare", a, twice).one_error(2, "twice: task 0, trial 0 occurs twice")
    run("compare", a, namesake).one_error(2, "two groups are called 'a'")
    run("compare", a, "--baseline", "b").one_error(2, "no group is called 'b'; there are: a")
    run("compare").one_error(2, "Missing argument")
    disjoint = write(tmp_path / "d.jsonl", _episodes({(9, 0): True}))
    assert "no task in common" in run("compare", a, disjoint).ok().out.decode()
