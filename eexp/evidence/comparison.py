"""The rows of a comparison: one a method, with its difference to the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eexp.envs.task_names import Key
from eexp.errors import InputError, UsageError
from eexp.evidence import exact_tests
from eexp.evidence import looks as sequential
from eexp.evidence.intervals import Estimate, difference, rate
from eexp.evidence.panels import hash_of
from eexp.evidence.results import Run, check_same_tasks, common_tasks, read_run
from eexp.evidence.settings import CompareSettings
from eexp.evidence.trials import pass_all, pass_at, steps_of_k


class Method(NamedTuple):
    """The training runs of one method, and their means by task, of success or else, shape (runs, tasks)."""

    runs: list[Run]
    means: np.ndarray


def compare(
    groups: Mapping[str, Sequence[Iterable[dict]]],
    settings: CompareSettings | None = None,
    *,
    files: Mapping[str, Sequence[str]] | None = None,
) -> list[dict]:
    """Compare methods by the episodes of their training runs; return one row a method, in their order.

    Args:
        groups: By name of the method, the episodes of each of its training runs.
        settings: The baseline, which is the first method by default, and how the intervals are computed.
        files: By name of the method, where each run's episodes come from, for messages.

    Raises:
        InputError: For a run without episodes, or with one twice.
        UsageError: For runs on different tasks, or an unknown baseline.
    """
    settings = settings or CompareSettings()
    confidence, looks = settings.confidence, settings.looks
    runs = {name: _read_runs(name, list(episodes), (files or {}).get(name)) for name, episodes in groups.items()}
    base = next(iter(runs), None) if settings.baseline is None else settings.baseline
    if base is None or base not in runs:
        raise UsageError(f"no group is called {base!r}; there are: {', '.join(runs)}")
    all_runs = [run for group in runs.values() for run in group]
    if settings.common:
        keys = common_tasks(all_runs)
        if not keys:
            check_same_tasks(all_runs, hint="; no task is in all of the files")
        runs = {name: [run.keep(keys) for run in group] for name, group in runs.items()}
    else:
        check_same_tasks(all_runs)
    tasks = sorted(next(iter(runs.values()))[0].successes)
    methods = {name: Method(group, np.stack([run.means(tasks) for run in group])) for name, group in runs.items()}
    kinds = _kinds_of_tasks(run for method in methods.values() for run in method.runs)
    shares = {name: np.stack([run.refused_means(tasks) for run in group]) for name, group in runs.items()}
    refused = {name: Method(group, shares[name]) for name, group in runs.items()}
    rows = []
    for name, method in methods.items():
        row = _row(name, method, tasks, confidence)
        compared_with = None if name == base else methods[base]
        if compared_with:
            row["against"] = base
            row.update(_difference(compared_with, method, confidence, looks))
        row["refused"] = _refused(refused[base] if compared_with else None, refused[name], confidence, looks)
        by_kind = _by_kind(kinds, tasks, compared_with, method, confidence, looks)
        rows.append(row | ({"kinds": by_kind} if by_kind else {}))
    _correct(rows)
    return rows


def _read_runs(name: str, runs: list[Iterable[dict]], files: Sequence[str] | None) -> list[Run]:
    """Read the episodes of a method's training runs; `files` name them in messages."""
    if not runs:
        raise InputError(f"{name}: no episodes")
    if files is None:
        labels = [name] if len(runs) == 1 else [f"{name}, run {i}" for i in range(1, len(runs) + 1)]
    else:
        labels = [file if Path(file).stem == name else f"{name} ({file})" for file in files]
    return [read_run(label, run) for label, run in zip(labels, runs)]


def _row(name: str, method: Method, tasks: list[Key], confidence: float) -> dict[str, Any]:
    """Return the row of a method, without its difference to the baseline."""
    totals: Counter[str] = Counter()
    for run in method.runs:
        for counts in run.totals.values():
            totals.update(counts)
    mean, low, high = rate(method.means, confidence)
    turns = max(1, totals["steps"])
    row = {
        "name": name,
        "panel": hash_of(method.runs[0].texts.values()),
        "runs": len(method.runs),
        "tasks": len(tasks),
        "episodes": totals["episodes"],
        "successes": totals["successes"],
        "rate": mean,
        "low": low,
        "high": high,
        "rates": [float(v) for v in method.means.mean(1)],
        "confidence": confidence,
        "mean_steps": totals["steps"] / totals["episodes"],
        "invalid_actions": totals["invalid"] / turns,
        "thoughts": totals["thoughts"] / turns,
        "cut_off": totals["cut_off"] / turns,
    }
    trials = min(run.trials for run in method.runs)
    if trials > 1:
        counts = [(len(successes), sum(successes)) for run in method.runs for successes in run.successes.values()]
        for key, estimate in (("pass_at", pass_at), ("pass_all", pass_all)):
            row[key] = {str(k): float(np.mean([estimate(n, c, k) for n, c in counts])) for k in steps_of_k(trials)}
    return row


def _difference(base: Method, other: Method, confidence: float, looks: int) -> dict[str, Any]:
    """Return the difference of a method to the baseline, with its interval, p values and counts of tasks."""
    tasks = list(base.runs[0].successes)
    level = sequential.confidence_of_each(confidence, looks)
    estimate, result = _gain(base, other, tasks, level)
    result["p"] = sequential.overall_p(estimate.p(), looks) if estimate else None
    result["p_exact"], result["p_exact_least"] = None, None
    result["detectable"] = estimate.detectable(level) if estimate else None
    if len(base.runs) == len(other.runs) == 1:
        trials = {len(run.successes[key]) for run in (base.runs[0], other.runs[0]) for key in tasks}
        by_task = (other.means - base.means)[0]
        if len(trials) == 1:
            result["p_exact"] = sequential.overall_p(exact_tests.sign_flip_p(by_task, trials.pop()), looks)
        result["won"], result["lost"] = int((by_task > 0).sum()), int((by_task < 0).sum())
    else:
        p = exact_tests.permutation_p(base.means.mean(1), other.means.mean(1))
        result["p_exact"] = None if p is None else sequential.overall_p(p, looks)
        result["p_exact_least"] = sequential.overall_p(exact_tests.smallest_p(len(base.runs), len(other.runs)), looks)
    if looks > 1:
        result["looks"] = looks
    return result


def _gain(base: Method, other: Method, tasks: list[Key], confidence: float) -> tuple[Estimate | None, dict[str, Any]]:
    """Estimate other - base over `tasks`, which the columns of their means stand for.

    Returns:
        The estimate, None for fewer than two tasks, and the difference with the ends of its interval.
    """
    episodes = _episodes_per_task(base.runs, tasks), _episodes_per_task(other.runs, tasks)
    estimate = difference(base.means, other.means, episodes)
    low, high = estimate.interval(confidence) if estimate else (None, None)
    gain = float(other.means.mean() - base.means.mean())
    return estimate, {"difference": gain, "difference_low": low, "difference_high": high}


def _episodes_per_task(runs: list[Run], tasks: list[Key]) -> float:
    return float(np.mean([len(run.successes[key]) for run in runs for key in tasks]))


def _kinds_of_tasks(runs: Iterable[Run]) -> dict[Key, str]:
    """Return the kind of every task, by the first run that says it; "other" where none does."""
    kinds: dict[Key, str | None] = {}
    for run in runs:
        for key, kind in run.kinds.items():
            kinds[key] = kind if kinds.get(key) is None else kinds[key]
    return {key: "other" if kind is None else kind for key, kind in kinds.items()}


def _by_kind(
    kinds: dict[Key, str], tasks: list[Key], base: Method | None, other: Method, confidence: float, looks: int
) -> dict[str, dict]:
    """Return a method's success by kind of task, and its difference to `base`; nothing where there is one kind."""
    by_kind: dict[str, list[int]] = {}
    for i, key in enumerate(tasks):
        by_kind.setdefault(kinds[key], []).append(i)
    if len(by_kind) < 2:
        return {}
    results: dict[str, dict] = {}
    level = sequential.confidence_of_each(confidence, looks)
    for kind, columns in sorted(by_kind.items()):
        of_kind = Method(other.runs, other.means[:, columns])
        mean, low, high = rate(of_kind.means, confidence)
        results[kind] = {"tasks": len(columns), "rate": mean, "low": low, "high": high}
        if base is not None:
            base_of_kind = Method(base.runs, base.means[:, columns])
            results[kind] |= _gain(base_of_kind, of_kind, [tasks[i] for i in columns], level)[1]
    return results


def _refused(base: Method | None, other: Method, confidence: float, looks: int) -> dict[str, Any]:
    """Return the share of refused actions of a method, as the mean over tasks, and its difference to `base`.

    The means of both are shares of refused actions. The interval of the difference is that of success: all that it asks
    of a value is to lie between 0 and 1.
    """
    result: dict[str, Any] = {"mean": float(other.means.mean()), "by_run": [float(v) for v in other.means.mean(1)]}
    if base is not None:
        level = sequential.confidence_of_each(confidence, looks)
        estimate, gain = _gain(base, other, list(base.runs[0].refused), level)
        result |= gain | {"p": sequential.overall_p(estimate.p(), looks) if estimate else None}
    return result


def _correct(rows: list[dict]) -> None:
    """Add Holm's correction over all rows that are compared with the baseline.

    `p_holm_bound` is the correction of p values of which none counts as less than the exact test of so few runs can
    give. Tables do not show a smaller `p_holm`.
    """
    for key, corrected in (("p", "p_holm"), ("p_exact", "p_exact_holm")):
        compared = [row for row in rows if row.get(key) is not None]
        for row, p in zip(compared, exact_tests.holm([row[key] for row in compared])):
            row[corrected] = p
    compared = [row for row in rows if row.get("p") is not None]
    for row, p in zip(compared, exact_tests.holm([max(row["p"], row["p_exact_least"] or 0.0) for row in compared])):
        row["p_holm_bound"] = p
