"""The files of a study: episodes of each arm and, beside them, its training runs.

`DIR/ARM.episodes.jsonl` are the episodes of an arm, and `DIR/ARM/` is the training run (eexp.json, metrics.jsonl) whose
model played them. Several directories with the same arm, such as DIR/0 and DIR/1, are training seeds of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eexp.errors import InputError, UsageError
from eexp.jsonl import loads, read
from eexp.training.metrics import read_curves

ENDING = ".episodes.jsonl"


@dataclass
class StudyRun:
    """One training run of an arm, and what its model played.

    name: the directory it is in, relative to that of the study; "" where there is one directory. settings: what its
    eexp.json says, {} without one. losses, validations: (update, loss) and (update, {"loss": ...}).
    """

    name: str
    file: Path
    settings: dict = field(default_factory=dict)
    losses: list[tuple[int, float]] = field(default_factory=list)
    validations: list[tuple[int, dict]] = field(default_factory=list)

    def episodes(self) -> Iterator[dict]:
        """Yield the episodes, checked; the first bad one raises InputError with its place."""
        return read([os.fspath(self.file)], "episode")


@dataclass
class Arm:
    """A method: `key` is its name in the file names, `label` its name in the page."""

    key: str
    label: str
    runs: list[StudyRun]


def find_arms(directories: Sequence[str], labels: dict[str, str] | None = None) -> list[Arm]:
    """Return the arms in `directories`, those named in `labels` first and in that order, the others by name.

    Raises UsageError where a directory holds no episodes, where an arm in `labels` does not exist, and where two
    runs of an arm have the same seed: they come from two studies, and are not two runs of the same training.
    """
    labels = labels or {}
    files: dict[str, Path] = {}  # by real path, so that a directory and its parent may both be given
    for directory in directories:
        if not os.path.isdir(directory):
            raise UsageError(f"{directory}: no such directory")
        below = list(_files(directory))
        if not below:
            raise UsageError(f"{directory}: holds no episodes (no ARM{ENDING}, neither there nor below)")
        for file in below:
            files.setdefault(os.path.realpath(file), file)
    together = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files.values()])
    runs: dict[str, list[StudyRun]] = {}
    for file in sorted(files.values(), key=lambda file: _natural(os.fspath(file))):
        name = os.path.relpath(os.path.dirname(os.path.abspath(file)), together)
        key = file.name.removesuffix(ENDING)
        runs.setdefault(key, []).append(_read_run("" if name == "." else name, file, file.parent / key))
    for key, group in runs.items():
        _check_seeds(key, group)
    unknown = [key for key in labels if key not in runs]
    if unknown:
        raise UsageError(f"--name {unknown[0]}={labels[unknown[0]]}: no such arm; there are {', '.join(sorted(runs))}")
    arms = [Arm(key, labels.get(key, key), runs[key]) for key in [*labels, *sorted(set(runs) - set(labels))]]
    taken: dict[str, str] = {}
    for arm in arms:
        if arm.label in taken:
            raise UsageError(
                f"two arms, {taken[arm.label]} and {arm.key}, are called {arm.label!r}; give another --name"
            )
        taken[arm.label] = arm.key
    return arms


def baseline_of(arms: Sequence[Arm], name: str | None) -> Arm:
    """Return the arm with the key or label `name`; the first one without a name."""
    if name is None:
        return arms[0]
    for arm in arms:
        if name in (arm.label, arm.key):
            return arm
    raise UsageError(f"--baseline {name}: no such arm; there are {', '.join(arm.label for arm in arms)}")


def _files(directory: str) -> Iterator[Path]:
    for here, below, names in os.walk(directory):
        below[:] = sorted(name for name in below if name != "checkpoints" and not name.startswith("."))
        for name in sorted(names):
            if name.endswith(ENDING) and name != ENDING:
                yield Path(here, name)


def _check_seeds(key: str, runs: Sequence[StudyRun]) -> None:
    of_seed: dict[str, StudyRun] = {}
    for run in runs:
        seed = run.file.absolute().parent.name
        other = of_seed.setdefault(seed, run)
        if other is not run and seed.isdecimal():
            raise UsageError(
                f"{other.file} and {run.file} are both {key} with seed {seed}, so they belong to two studies; "
                f"give the directories of one, such as {other.file.parent.parent}/[0-9]*"
            )


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a sorting key under which run 2 comes before run 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def _read_run(name: str, file: Path, directory: Path) -> StudyRun:
    run = StudyRun(name, file)
    saved, metrics = directory / "eexp.json", directory / "metrics.jsonl"
    if saved.is_file():
        try:
            settings = loads(saved.read_bytes())
        except InputError as e:
            raise InputError(f"{saved}: {e}") from None
        run.settings = settings if isinstance(settings, dict) else {}
    if metrics.is_file():
        run.losses, run.validations = read_curves(metrics)
    return run
