"""Which task a record is about, or was made from, and the order in which tasks are drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable

from eexp.envs.opening import without_wrappers
from eexp.errors import UsageError
from eexp.records.record import seed_of

Key = tuple[str, str]  # environment, task id


def draw(tasks: Iterable[dict], n: int | None = None, seed: int = 0) -> list[dict]:
    """Return the first `n` of an environment's tasks in the order of a hash of their ids; all where `n` is None.

    The order of `tasks` does not matter, and smaller panels are parts of larger ones.
    """
    name = ("panel",) if seed == 0 else ("panel", seed)
    return sorted(tasks, key=lambda task: (seed_of(*name, task["id"]), task["id"]))[:n]


def key_of(record: dict) -> Key:
    """Return what identifies the task of a record: its environment and the task's id."""
    return record["env"], str(record["task"].get("id"))


def env_of_tasks(env: str) -> str:
    """Return the environment that the tasks belong to: ENV for `noisy:P:ENV` and `changed:KIND:ENV`, else the text."""
    try:
        return without_wrappers(env)
    except UsageError:
        return env


def names_of(record: dict, beginnings: bool = True) -> set[str]:
    """Return the names, `environment/task id`, of the tasks that a record was made from.

    An example has the id of its trajectory: the task's name or, where it was imported, the task's name and a trial.
    Settings of the environment (`babyai?level=GoTo`) and noise on observations (`noisy:0.1:house`) do not count.

    Args:
        record: A panel line, a trajectory, an episode or an example.
        beginnings: Whether an example's id without its end, which may be a trial, is a name, too.
    """
    without_settings = {re.sub(r"\?[^/]*", "", env_of_tasks(name), count=1) for name in _made_from(record, beginnings)}
    return without_settings | _own(record)


def _made_from(record: dict, beginnings: bool = True) -> set[str]:
    names = {name for name in (record.get("group"), record.get("origin")) if isinstance(name, str)}
    return names | {name.rpartition("/")[0] for name in names} if beginnings else names


def _own(record: dict) -> set[str]:
    """Return the name of the task that a record holds itself, without settings; none of an example."""
    if not isinstance(record.get("task"), dict) or not isinstance(record.get("env"), str):
        return set()
    env, task = key_of(record)
    return {f"{env_of_tasks(env).partition('?')[0]}/{task}"}


def _possible(record: dict) -> set[str]:
    """Return what may be the names of the tasks that a record was made from, where a setting may hold a slash.

    In `searchqa?questions=data/q.jsonl/train/1`, the task's id may begin after any slash behind the last `=`.
    """
    found = set()
    for name in _made_from(record):
        if "?" not in name:
            continue
        env, _, rest = env_of_tasks(name).partition("?")
        parts = rest.rpartition("=")[2].split("/")
        found |= {"/".join([env, *parts[n:]]) for n in range(1, len(parts))}
    return found


class TaskNames:
    """The tasks of some records; `record in names` says whether another record was made from one of them.

    An example has the id of its trajectory, which is the task's name, or that and a trial. Two such ids belong to one
    task where they are equal, or one is the other without its end. Two with different ends may be trials of one task,
    or two tasks; they count as two.
    """

    def __init__(self, records: Iterable[dict] = ()) -> None:
        self._whole: set[str] = set()
        self._with_beginnings: set[str] = set()
        self._own: set[str] = set()
        self._possible: set[str] = set()
        for record in records:
            self.add(record)

    def add(self, record: dict) -> None:
        """Add the tasks that a record was made from."""
        self._whole |= names_of(record, beginnings=False)
        self._with_beginnings |= names_of(record)
        self._own |= _own(record)
        self._possible |= _possible(record)

    def __contains__(self, record: dict) -> bool:
        if not self._whole:
            return False
        whole = names_of(record, beginnings=False)
        if not (whole.isdisjoint(self._with_beginnings) and names_of(record).isdisjoint(self._whole)):
            return True
        return not (_own(record).isdisjoint(self._possible) and _possible(record).isdisjoint(self._own))
