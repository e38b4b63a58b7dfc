"""Panels: fixed lists of tasks, and the hash that says whether two lists are the same.

A panel file is JSONL, one task a line: `{"type": "task", "env": "house", "split": "test", "task": {...}}`. The hash is
over the set of lines, whatever their order, their other keys and the number of times that a line occurs. It stands in
no panel but is computed by every reader, so that `cat`, `shuf` and `grep` work on panels.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from eexp.envs import without_noise
from eexp.errors import UsageError
from eexp.records import seed_of

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
    """Return the environment whose tasks they are: ENV for `noisy:P:ENV`, what is not written so as it is."""
    try:
        return without_noise(env)
    except UsageError:
        return env


def canonical_json(env: str, task: dict) -> str:
    """Return the text of one task that goes into the hash. Noise on what is seen leaves a task what it is."""
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
    more = {} if kind is None else {"kind": kind}
    return {"type": "task", "env": env, "split": task.get("split"), **more, "task": task}


def tasks_of(name: str, lines: Iterable[dict], env: str | None = None) -> tuple[str, list[dict]]:
    """Return the environment and the tasks of a panel, each task once, in the order in which they are played.

    Args:
        name: The panel's file, for messages.
        lines: Its records.
        env: The environment that the panel must be of.

    Raises:
        UsageError: For a panel without tasks, of several environments, of another one than `env`, or with an id that
            stands for two different tasks.
    """
    tasks: dict[Key, dict] = {}
    for line in lines:
        task = line["task"]
        if not isinstance(task.get("id"), str):
            raise UsageError(f"{name}: a task without an id that is a string: {canonical_json(line['env'], task)}")
        if tasks.setdefault(key_of(line), task) != task:
            raise UsageError(f"{name}: two different tasks of {line['env']} have the id {task['id']}")
    envs = sorted({key[0] for key in tasks})
    if not envs:
        raise UsageError(f"{name}: no tasks in this panel")
    if len(envs) > 1:
        raise UsageError(f"{name}: tasks of several environments: {', '.join(envs)}; play one at a time")
    if env is not None and env_of_tasks(envs[0]) != env_of_tasks(env):
        raise UsageError(f"{name}: a panel of {envs[0]}, not of {env}")
    return envs[0], draw(tasks.values())


def names_of(record: dict) -> set[str]:
    """Return the names, `environment/task id`, of the tasks that a record was made from.

    Takes panel lines, trajectories, episodes and examples. An example tells the id of its trajectory: the task's name,
    or what it was imported from, the task's name and a trial. Settings of the environment (`babyai?level=GoTo`) and
    noise on what is seen (`noisy:0.1:house`) do not count.
    """
    names = {name for name in (record.get("group"), record.get("origin")) if isinstance(name, str)}
    names |= {name.rpartition("/")[0] for name in names}
    if isinstance(record.get("task"), dict) and record.get("env"):
        names.add("/".join(key_of(record)))
    return {re.sub(r"\?[^/]*", "", env_of_tasks(name), count=1) for name in names}


def apart(lines: Iterable[dict], taken: set[str]) -> Iterator[dict]:
    """Yield the panel lines whose task is not among `taken`, the names of tasks."""
    return (line for line in lines if not names_of(line) & taken)
