"""Panels: fixed lists of tasks, and the hash that says whether two lists are the same.

A panel file is JSONL, one task a line: `{"type": "task", "env": "house", "split": "test", "task": {...}}`. The hash is
over the set of lines, whatever their order, their other keys and the number of times that a line occurs. It stands in
no panel but is computed by every reader, so that `cat`, `shuf` and `grep` work on panels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

from eexp.envs import Environment, without_wrappers
from eexp.errors import EexpError, InputError, UsageError
from eexp.records.record import seed_of

Key = tuple[str, str]  # environment, task id


def make_panel(
    env: Environment,
    splits: Sequence[str],
    n: int | None = None,
    *,
    seed: int = 0,
    excluded: Container[dict] = (),
    on_excluded: Callable[[dict], None] = lambda line: None,
) -> Iterator[dict]:
    """Yield the lines of a panel.

    Tasks are taken in the order of a hash of their ids, so that smaller panels are parts of larger ones.

    Args:
        n: Tasks of every split; None for all.
        seed: Of the order; 0 is the order of `eexp eval -n`.
        excluded: Holds the lines whose tasks are left out (`TaskNames`).
        on_excluded: Called with each line that is left out.
    """
    for split in splits:
        remaining = n
        for task in draw(env.list_tasks(split), seed=seed):
            if remaining == 0:
                break
            line = task_record(env_of_tasks(env.spec), task, env.kind_of(task))
            if line in excluded:
                on_excluded(line)
                continue
            remaining = None if remaining is None else remaining - 1
            yield line


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


def canonical_json(env: str, task: dict) -> str:
    """Return the text of one task that goes into the hash. Noise and other interfaces do not change a task."""
    return json.dumps([env_of_tasks(env), task], sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def hash_of(texts: Iterable[str]) -> str:
    """Return the hash of a panel from its tasks as `canonical_json`: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for text in sorted(set(texts)):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]


def panel_hash(records: Iterable[dict]) -> str:
    """Return the hash of the tasks of records: panel lines, episodes or trajectories."""
    return hash_of(canonical_json(record["env"], record["task"]) for record in records)


def task_record(env: str, task: dict, kind: str | None = None) -> dict[str, Any]:
    """Return the line of a panel for a task."""
    kind_key = {} if kind is None else {"kind": kind}
    return {"type": "task", "env": env, "split": task.get("split"), **kind_key, "task": task}


def tasks_of(name: str, records: Iterable[dict], env: str | None = None) -> tuple[str, list[dict]]:
    """Return the environment and the tasks of a panel, each task once, in the order in which they are played.

    Args:
        name: The panel's file, for messages.
        env: The environment that the panel must be of.

    Raises:
        InputError: For a panel without tasks, of several environments, or with an id that stands for two different
            tasks.
        UsageError: It is of another environment than `env`.
    """
    tasks: dict[Key, dict] = {}
    for line in records:
        task = line["task"]
        if not isinstance(task.get("id"), str):
            raise InputError(f"{name}: a task without an id that is a string: {canonical_json(line['env'], task)}")
        if tasks.setdefault(key_of(line), task) != task:
            raise InputError(f"{name}: two different tasks of {line['env']} have the id {task['id']}")
    envs = sorted({key[0] for key in tasks})
    if not envs:
        raise InputError(f"{name}: no tasks in this panel")
    if len(envs) > 1:
        raise InputError(f"{name}: tasks of several environments: {', '.join(envs)}; play one at a time")
    if env is not None and env_of_tasks(envs[0]) != env_of_tasks(env):
        raise UsageError(f"{name}: a panel of {envs[0]}, not of {env}")
    return envs[0], draw(tasks.values())


def check_panel(
    name: str, records: Iterable[dict], excluded: Container[dict], sources: Iterable[str], env: str | None = None
) -> list[dict]:
    """Return the lines of a panel, none of whose tasks are excluded.

    Args:
        excluded: Holds the lines whose tasks must not occur in it (`TaskNames`).
        sources: The files of the excluded tasks, for messages.

    Raises:
        EexpError: A task of the panel is excluded.
        InputError, UsageError: As in `tasks_of`.
    """
    env, tasks = tasks_of(name, records, env)
    lines = [task_record(env, task) for task in tasks]
    common = [line["task"]["id"] for line in lines if line in excluded]
    if common:
        raise EexpError(
            f"{name}: {len(common)} of {len(lines)} tasks also occur in {' or '.join(sources)}, such as "
            f"{env} {common[0]}"
        )
    return lines


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
