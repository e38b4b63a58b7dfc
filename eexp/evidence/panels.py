"""Panels: fixed lists of tasks, and the hash that says whether two lists are the same.

A panel file is JSONL, one task a line: `{"type": "task", "env": "house", "split": "test", "task": {...}}`. The hash is
over the set of lines, whatever their order, their other keys and the number of times that a line occurs. It stands in
no panel but is computed by every reader, so that `cat`, `shuf` and `grep` work on panels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

from eexp.envs import Environment
from eexp.envs.task_names import Key, draw, env_of_tasks, key_of
from eexp.errors import EexpError, InputError, UsageError


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
