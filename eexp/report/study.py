"""The files of a study: the episodes of each arm and, beside them, its training runs.

`DIR/ARM.episodes.jsonl` holds the episodes of an arm, and `DIR/ARM/` the training run (eexp.json, metrics.jsonl) whose
model played them. A file that is named itself may be called `ARM.jsonl`, too. The same arm in several directories, such
as DIR/0 and DIR/1, has as many training seeds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eexp.errors import InputError, UsageError
from eexp.records.jsonl import loads, read
from eexp.records.runs import RUN_FILE
from eexp.training.metrics import read_curves

ENDING = ".episodes.jsonl"


@dataclass
class StudyRun:
    """One training run of an arm, and the episodes that its model played."""

    name: str  # the run's directory, relative to that of the study; "" where there is one directory
    file: Path  # the file of its episodes
    settings: dict = field(default_factory=dict)  # the contents of its eexp.json; empty without one
    losses: list[tuple[int, float]] = field(default_factory=list)  # (update, loss), from its metrics.jsonl
    validations: list[tuple[int, dict]] = field(default_factory=list)  # (update, {"loss": ...}), from its metrics.jsonl

    def episodes(self) -> Iterator[dict]:
        """Yield the episodes, checked. Raises InputError, with its place, for the first bad one."""
        return read([os.fspath(self.file)], "episode")


@dataclass
class Arm:
    """A method of a study."""

    key: str  # its name in the file names
    label: str  # its name in the page
    runs: list[StudyRun]  # its training runs


def find_arms(
    directories: Sequence[str], labels: dict[str, str] | None = None, baseline: str | None = None
) -> list[Arm]:
    """Find the arms of a study.

    Args:
        directories: The directories to search, with all below them, and files of episodes under any name.
        labels: Names of arms in the page, by key.
        baseline: The arm that the others are compared with, by its key or label; the first one by default.

    Returns:
        The baseline, then the arms named in `labels` in that order, then the others by key.

    Raises:
        UsageError: A directory holds no episodes, an arm in `labels` or the baseline does not exist, or two runs of an
            arm have the same seed or directory: they come from two studies, and are not two runs of the same training.
    """
    labels = labels or {}
    files: dict[str, Path] = {}  # by real path, so that a directory and its parent may both be given
    for directory in directories:
        if os.path.isfile(directory):
            files.setdefault(os.path.realpath(directory), Path(directory))
            continue
        if not os.path.isdir(directory):
            raise UsageError(f"{directory}: no such file or directory")
        episode_files = list(_episode_files(directory))
        if not episode_files:
            raise UsageError(f"{directory}: holds no episodes (no ARM{ENDING}, neither there nor below)")
        for file in episode_files:
            files.setdefault(os.path.realpath(file), file)
    root = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files.values()])
    runs: dict[str, list[StudyRun]] = {}
    for file in sorted(files.values(), key=lambda file: _natural(os.fspath(file))):
        name = os.path.relpath(os.path.dirname(os.path.abspath(file)), root)
        key = file.name.removesuffix(ENDING) if file.name.endswith(ENDING) else file.stem
        runs.setdefault(key, []).append(_read_run("" if name == "." else name, file, file.parent / key))
    for key, group in runs.items():
        _check_seeds(key, group)
    unknown = [key for key in labels if key not in runs]
    if unknown:
        raise UsageError(f"--name {unknown[0]}={labels[unknown[0]]}: no such arm; there are {', '.join(sorted(runs))}")
    arms = [Arm(key, labels.get(key, key), runs[key]) for key in [*labels, *sorted(set(runs) - set(labels))]]
    keys: dict[str, str] = {}  # by label
    for arm in arms:
        if arm.label in keys:
            raise UsageError(
                f"two arms, {keys[arm.label]} and {arm.key}, are called {arm.label!r}; give another --name"
            )
        keys[arm.label] = arm.key
    if baseline is None:
        return arms
    base = next((arm for arm in arms if baseline in (arm.label, arm.key)), None)
    if base is None:
        raise UsageError(f"--baseline {baseline}: no such arm; there are {', '.join(arm.label for arm in arms)}")
    return sorted(arms, key=lambda arm: arm is not base)


def _episode_files(directory: str) -> Iterator[Path]:
    """Yield the files of episodes in a directory and below it, without those in checkpoints and hidden directories."""
    for parent, subdirectories, names in os.walk(directory):
        subdirectories[:] = sorted(
            name for name in subdirectories if name != "checkpoints" and not name.startswith(".")
        )
        for name in sorted(names):
            if name.endswith(ENDING) and name != ENDING:
                yield Path(parent, name)


def _check_seeds(key: str, runs: Sequence[StudyRun]) -> None:
    """Raise UsageError if two runs of an arm are in directories of the same seed, such as one/0 and two/0."""
    by_seed: dict[str, StudyRun] = {}
    by_directory: dict[Path, StudyRun] = {}
    for run in runs:
        other = by_directory.setdefault(run.file.absolute().parent, run)
        if other is not run:
            raise UsageError(f"{other.file} and {run.file} would both be {key}; rename one")
    for run in runs:
        seed = run.file.absolute().parent.name
        other = by_seed.setdefault(seed, run)
        if other is not run and seed.isdecimal():
            raise UsageError(
                f"{other.file} and {run.file} are both {key} with seed {seed}, so they belong to two studies; "
                f"give the directories of one, such as {other.file.parent.parent}/[0-9]*"
            )


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a sorting key that puts run 2 before run 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def _read_run(name: str, file: Path, directory: Path) -> StudyRun:
    """Read the training run in `directory`, where there is one, for the episodes in `file`."""
    run = StudyRun(name, file)
    run_file, metrics = directory / RUN_FILE, directory / "metrics.jsonl"
    if run_file.is_file():
        try:
            settings = loads(run_file.read_bytes())
        except InputError as e:
            raise InputError(f"{run_file}: {e}") from None
        run.settings = settings if isinstance(settings, dict) else {}
    if metrics.is_file():
        run.losses, run.validations = read_curves(metrics)
    return run
