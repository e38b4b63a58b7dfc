"""Rows of a comparison: one a method, with its difference to the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eexp.errors import UsageError
from eexp.evidence import exact
from eexp.evidence import looks as sequential
from eexp.evidence.intervals import Estimate, difference, rate
from eexp.evidence.panels import Key, hash_of
from eexp.evidence.results import Run, check_same_tasks, common_tasks, read_run
from eexp.evidence.trials import pass_all, pass_at, steps_of_k


def compare(
    groups: Mapping[str, Sequence[Iterable[dict]]],
    *,
    baseline: str | None = None,
    confidence: float = 0.95,
    looks: int = 1,
    common: bool = False,
    files: Mapping[str, Sequence[str]] | None = None,
) -> list[dict]:
    """Compare methods by the episodes of their training runs; returns one row a method, in their order.

    Args:
        groups: By name of the method, the episodes of each of its training runs.
        baseline: The method to compare the others with; the first by default.
        confidence: Of the intervals.
        looks: How often in all the comparison is looked at while it grows; the intervals of differences and p values
            then allow for all of them.
        common: Use only the tasks that all runs have, instead of refusing runs on different tasks.
        files: By name of the method, where each run's episodes come from, for messages.

    Raises:
        UsageError: For a run without episodes or with one twice, runs on different tasks, or an unknown baseline.
    """
    runs = {name: _read(name, list(episodes), (files or {}).get(name)) for name, episodes in groups.items()}
    first = next(iter(runs), None) if baseline is None else baseline
    if first not in runs:
        raise UsageError(f"no group is called {first!r}; there are: {', '.join(runs)}")
    everything = [run for group in runs.values() for run in group]
    if common:
        keys = common_tasks(everything)
        if not keys:
            check_same_tasks(everything, hint="; no task is in all of the files")
        runs = {name: [run.keep(keys) for run in group] for name, group in runs.items()}
    else:
        check_same_tasks(everything)
    tasks = sorted(next(iter(runs.values()))[0].successes)
    values = {name: np.stack([run.means(tasks) for run in group]) for name, group in runs.items()}
    kinds = _kinds_of_tasks(run for group in runs.values() for run in group)
    rows = []
    for name, group in runs.items():
        row = _row(name, group, values[name], tasks, confidence)
        if name != first:
            row["against"] = first
            row.update(_difference(runs[first], group, values[first], values[name], confidence, looks))
        by_kind = _by_kind(
            kinds,
            tasks,
            None if name == first else (runs[first], values[first]),
            (group, values[name]),
            confidence,
            looks,
        )
        rows.append(row | ({"kinds": by_kind} if by_kind else {}))
    _correct(rows)
    return rows


def _read(name: str, runs: list[Iterable[dict]], files: Sequence[str] | None) -> list[Run]:
    if not runs:
        raise UsageError(f"{name}: no episodes")
    if files is None:
        labels = [name] if len(runs) == 1 else [f"{name}, run {i}" for i in range(1, len(runs) + 1)]
    else:
        labels = [file if Path(file).stem == name else f"{name} ({file})" for file in files]
    return [read_run(label, run) for label, run in zip(labels, runs)]


def _row(name: str, group: list[Run], values: np.ndarray, tasks: list[Key], confidence: float) -> dict[str, Any]:
    totals: Counter[str] = Counter()
    for run in group:
        for counts in run.totals.values():
            totals.update(counts)
    mean, low, high = rate(values, confidence)
    turns = max(1, totals["steps"])
    row = {
        "name": name,
        "panel": hash_of(group[0].texts.values()),
        "runs": len(group),
        "tasks": len(tasks),
        "episodes": totals["episodes"],
        "successes": totals["successes"],
        "rate": mean,
        "low": low,
        "high": high,
        "rates": [float(v) for v in values.mean(1)],
        "confidence": confidence,
        "mean_steps": totals["steps"] / totals["episodes"],
        "invalid_actions": totals["invalid"] / turns,
        "thoughts": totals["thoughts"] / turns,
        "cut_off": totals["cut_off"] / turns,
    }
    trials = min(run.trials for run in group)
    if trials > 1:
        counts = [(len(found), sum(found)) for run in group for found in run.successes.values()]
        for key, estimate in (("pass_at", pass_at), ("pass_all", pass_all)):
            row[key] = {str(k): float(np.mean([estimate(n, c, k) for n, c in counts])) for k in steps_of_k(trials)}
    return row


def _difference(
    base: list[Run], other: list[Run], first: np.ndarray, second: np.ndarray, confidence: float, looks: int
) -> dict[str, Any]:
    tasks = list(base[0].successes)
    level = sequential.confidence_of_each(confidence, looks)
    estimate, found = _gain((base, first), (other, second), tasks, level)
    found["p"] = sequential.overall_p(estimate.p(), looks) if estimate else None
    found["p_exact"], found["p_exact_least"] = None, None
    found["detectable"] = estimate.detectable(level) if estimate else None
    if len(base) == len(other) == 1:
        trials = {len(run.successes[key]) for run in (base[0], other[0]) for key in tasks}
        by_task = (second - first)[0]
        if len(trials) == 1:
            found["p_exact"] = sequential.overall_p(exact.sign_flip_p(by_task, trials.pop()), looks)
        found["won"], found["lost"] = int((by_task > 0).sum()), int((by_task < 0).sum())
    else:
        p = exact.permutation_p(first.mean(1), second.mean(1))
        found["p_exact"] = None if p is None else sequential.overall_p(p, looks)
        found["p_exact_least"] = sequential.overall_p(exact.smallest_p(len(base), len(other)), looks)
    if looks > 1:
        found["looks"] = looks
    return found


def _gain(
    base: tuple[list[Run], np.ndarray], other: tuple[list[Run], np.ndarray], tasks: list[Key], level: float
) -> tuple[Estimate | None, dict[str, Any]]:
    """Return the estimate of other - base, None for fewer than two tasks, and the difference with its interval.

    base, other: runs, and their means over `tasks`. level: confidence of the interval.
    """
    (base_runs, first), (other_runs, second) = base, other
    estimate = difference(first, second, (_episodes(base_runs, tasks), _episodes(other_runs, tasks)))
    low, high = estimate.interval(level) if estimate else (None, None)
    gain = float(second.mean() - first.mean())
    return estimate, {"difference": gain, "difference_low": low, "difference_high": high}


def _episodes(group: list[Run], tasks: list[Key]) -> float:
    return float(np.mean([len(run.successes[key]) for run in group for key in tasks]))


def _kinds_of_tasks(runs: Iterable[Run]) -> dict[Key, str]:
    """Return the kind of every task, by the first run that says it; "other" where none does."""
    kinds: dict[Key, str | None] = {}
    for run in runs:
        for key, kind in run.kinds.items():
            kinds[key] = kind if kinds.get(key) is None else kinds[key]
    return {key: "other" if kind is None else kind for key, kind in kinds.items()}


def _by_kind(
    kinds: dict[Key, str],
    tasks: list[Key],
    base: tuple[list[Run], np.ndarray] | None,
    other: tuple[list[Run], np.ndarray],
    confidence: float,
    looks: int,
) -> dict[str, dict]:
    """Return success by kind, and the difference to `base`; nothing for one kind. base, other: runs, their means."""
    by_kind: dict[str, list[int]] = {}
    for i, key in enumerate(tasks):
        by_kind.setdefault(kinds[key], []).append(i)
    if len(by_kind) < 2:
        return {}
    found: dict[str, dict] = {}
    level = sequential.confidence_of_each(confidence, looks)
    for kind, places in sorted(by_kind.items()):
        there = [tasks[i] for i in places]
        mean, low, high = rate(other[1][:, places], confidence)
        found[kind] = {"tasks": len(places), "rate": mean, "low": low, "high": high}
        if base is not None:
            found[kind] |= _gain((base[0], base[1][:, places]), (other[0], other[1][:, places]), there, level)[1]
    return found


def _correct(rows: list[dict]) -> None:
    """Add Holm's correction over all rows that are compared with the baseline."""
    for key, corrected in (("p", "p_holm"), ("p_exact", "p_exact_holm")):
        compared = [row for row in rows if row.get(key) is not None]
        for row, p in zip(compared, exact.holm([row[key] for row in compared])):
            row[corrected] = p
