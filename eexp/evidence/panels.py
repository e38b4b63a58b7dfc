"""Panels: fixed lists of tasks, and the hash that says whether two lists are the same.

A panel file is JSONL, one task a line: `{"type": "task", "env": "house", "split": "test", "task": {...}}`. The hash is
over the set of lines, whatever their order, their other keys and the number of times that a line occurs; it is computed
wherever it is needed and stands in no panel, so that `cat`, `shuf` and `grep` work on panels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

Key = tuple[str, str]  # environment, task id


def key_of(record: dict) -> Key:
    """Return what identifies the task of a record: its environment and the task's id."""
    return record["env"], str(record["task"].get("id"))


def canonical_json(env: str, task: dict) -> str:
    """Return the text of one task that goes into the hash."""
    return json.dumps([env, task], sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def hash_of(texts: Iterable[str]) -> str:
    """Return the hash of a panel from its tasks as `canonical_json`: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for text in sorted(set(texts)):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]


def panel_hash(tasks: Iterable[dict]) -> str:
    """Return the hash of the tasks of records (panel lines, episodes, trajectories)."""
    return hash_of(canonical_json(record["env"], record["task"]) for record in tasks)


def task_record(env: str, task: dict) -> dict[str, Any]:
    """Return the line of a panel for a task."""
    return {"type": "task", "env": env, "split": task.get("split"), "task": task}


def apart(tasks: Iterable[dict], taken: set[Key]) -> Iterator[dict]:
    """Yield the panel lines whose task is not among `taken`."""
    return (task for task in tasks if key_of(task) not in taken)
