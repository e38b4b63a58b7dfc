"""Episodes of one training run as success by task, and the checks that runs can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from eexp.envs.task_names import Key, key_of
from eexp.errors import InputError, UsageError
from eexp.evidence.panels import canonical_json, hash_of
from eexp.records.imagination import refuse_unknown_success
from eexp.records.shards import refuse_part


@dataclass
class Run:
    """The episodes of one training run, by task."""

    name: str  # the run's name, for messages
    successes: dict[Key, list[bool]] = field(default_factory=dict)  # success of every episode
    #: Share of the actions of every episode that were refused.
    refused: dict[Key, list[float]] = field(default_factory=dict)
    #: Sums over the episodes: episodes, successes, steps, invalid, thoughts, cut_off.
    totals: dict[Key, Counter] = field(default_factory=dict)
    kinds: dict[Key, str | None] = field(default_factory=dict)  # the kind of the task
    texts: dict[Key, str] = field(default_factory=dict)  # the task as it goes into the hash of the panel

    def keep(self, keys: set[Key]) -> Run:
        """Return a run with these tasks alone."""
        fields = {
            name: {key: value for key, value in getattr(self, name).items() if key in keys}
            for name in ("successes", "refused", "totals", "kinds", "texts")
        }
        return Run(self.name, **fields)

    @property
    def trials(self) -> int:
        """The number of episodes that every task has at least."""
        return min(map(len, self.successes.values()))

    def means(self, keys: Sequence[Key]) -> np.ndarray:
        """Return the mean success of each task, shape (tasks,)."""
        return np.array([np.mean(self.successes[key]) for key in keys], float)

    def refused_means(self, keys: Sequence[Key]) -> np.ndarray:
        """Return the mean share of refused actions in the episodes of each task, shape (tasks,)."""
        return np.array([np.mean(self.refused[key]) for key in keys], float)


def read_run(name: str, episodes: Iterable[dict]) -> Run:
    """Read the episodes of one training run.

    Args:
        episodes: The episodes; a `jsonl.Reader` adds the place to the errors.

    Raises:
        InputError: There is none, one occurs twice, its success is not known, or a task or a panel differs between
            episodes.
        UsageError: They are of a shard.
    """
    run, panels = Run(name), set()
    trials: dict[tuple[Key, int], str] = {}
    for e in episodes:
        key = key_of(e)
        trial = e.get("seed", 0)
        place = getattr(episodes, "place", name)
        refuse_part(e, place, "compare")
        try:
            refuse_unknown_success(e)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        if (key, trial) in trials:
            raise InputError(
                f"{place}: task {key[1]}, trial {trial} occurs twice (first in {trials[key, trial]}); "
                f"runs of one method are files of their own, all called NAME=FILE with one NAME"
            )
        trials[key, trial] = place
        text = canonical_json(e["env"], e["task"])
        if run.texts.setdefault(key, text) != text:
            raise InputError(f"{place}: task {key[1]} is two different tasks of {key[0]}")
        run.successes.setdefault(key, []).append(e["success"])
        run.refused.setdefault(key, []).append(e.get("invalid", 0) / max(1, e["steps"]))
        run.kinds[key] = kind_for_comparison(e)
        panels.add(e.get("panel"))
        counts = run.totals.setdefault(key, Counter())
        counts.update(
            episodes=1,
            successes=int(e["success"]),
            steps=e["steps"],
            invalid=e.get("invalid", 0),
            thoughts=e.get("thoughts", 0),
            cut_off=e.get("cut_off", 0),
        )
    if not run.successes:
        raise InputError(f"{name}: no episodes")
    if len(panels) > 1:
        raise InputError(f"{name}: episodes of different panels: {', '.join(sorted(p or 'none' for p in panels))}")
    return run


def kind_for_comparison(episode: dict) -> str | None:
    """Return the kind of an episode's task; None where the episode does not say it.

    It is the episode's own `kind`, else the task's `kind` or `level`, else the part of the task's id before the first
    slash, unless that is the split.
    """
    task = episode["task"]
    for kind in (episode.get("kind"), task.get("kind"), task.get("level")):
        if kind is not None:
            return str(kind)
    prefix, slash, _ = str(task.get("id")).partition("/")
    split = task.get("split") or episode.get("split")
    return prefix if slash and split is not None and prefix != split else None


def check_same_tasks(runs: Sequence[Run], hint: str = "; --common compares those that all have") -> None:
    """Raise UsageError, which names the difference, unless all runs were played on the same tasks.

    Args:
        hint: The end of the message, with advice.
    """
    first = runs[0]
    for other in runs[1:]:
        if first.texts != other.texts:
            raise UsageError(_task_difference(first, other, hint))


def _task_difference(first: Run, other: Run, hint: str) -> str:
    """Return the message that says how the tasks of two runs differ."""
    parts = []
    played_in = [sorted({env for env, _ in run.texts}) for run in (first, other)]
    if not set(played_in[0]) & set(played_in[1]):
        return (
            f"{first.name} was played in {', '.join(played_in[0])} and {other.name} in {', '.join(played_in[1])}; "
            f"runs can be compared in one environment"
        )
    for run, against in ((first, other), (other, first)):
        only = sorted(run.texts.keys() - against.texts.keys())
        if only:
            parts.append(f"{len(only)} of {len(run.texts)} tasks are only in {run.name}, such as {' '.join(only[0])}")
    differ = sorted(key for key in first.texts.keys() & other.texts.keys() if first.texts[key] != other.texts[key])
    if differ:
        parts.append(
            f"{len(differ)} tasks have the same id but differ, such as {' '.join(differ[0])}: "
            f"{first.texts[differ[0]]} and {other.texts[differ[0]]}"
        )
    names = " and ".join(f"{run.name} (panel {hash_of(run.texts.values())})" for run in (first, other))
    return f"{names} were not played on the same tasks: {'; '.join(parts)}{hint}"


def common_tasks(runs: Sequence[Run]) -> set[Key]:
    """Return the tasks that are in all runs, and the same in each."""
    keys = set.intersection(*(set(run.texts) for run in runs))
    return {key for key in keys if len({run.texts[key] for run in runs}) == 1}
