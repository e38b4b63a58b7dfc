"""A memory of past episodes: those that are most like a task, found by the words of its beginning."""

from __future__ import annotations

import re
from collections.abc import Iterable

from eexp.errors import EexpError, InputError, UsageError
from eexp.records.imagination import imagined_by
from eexp.records.jsonl import read

_WORD = re.compile(r"\w+")


class Memory:
    """Past episodes, or trajectories, by the words of their instruction and their first observation (SQLite's FTS5).

    Attributes:
        n_imagined: The number of records of an imagined environment.

    Raises:
        InputError: There is none, or one has no turns.
        EexpError: SQLite was built without full-text search.
    """

    def __init__(self, records: Iterable[dict]):
        import sqlite3  # which commands that recall nothing should not wait for

        self._records = list(records)
        if not self._records:
            raise InputError("holds no episode to remember")
        self.n_imagined = len(imagined_ids(self._records))
        self._words = sqlite3.connect(":memory:")
        try:
            self._words.execute("CREATE VIRTUAL TABLE beginnings USING fts5(text)")
        except sqlite3.OperationalError as e:
            raise EexpError(f"a memory needs SQLite with full-text search (FTS5): {e}") from None
        rows = ((number, _beginning(record)) for number, record in enumerate(self._records))
        self._words.executemany("INSERT INTO beginnings(rowid, text) VALUES (?, ?)", rows)

    def __len__(self) -> int:
        return len(self._records)

    def recall(self, task: dict, instruction: str | None, observation: str, number: int) -> list[dict]:
        """Return up to `number` records that begin most like a task, the most similar one last.

        None of them is of the task itself. Similarity is BM25; of equally similar ones, the first is taken.
        """
        words = dict.fromkeys(word.casefold() for word in _WORD.findall(f"{instruction or ''} {observation}"))
        if not words:
            return []
        query = " OR ".join(f'"{word}"' for word in words)
        rows = self._words.execute(
            "SELECT rowid FROM beginnings WHERE beginnings MATCH ? ORDER BY bm25(beginnings), rowid", (query,)
        )
        found: list[dict] = []
        for (row,) in rows:
            if len(found) == number:
                break
            record = self._records[row]
            if not _is_of(task, record):
                found.append(record)
        return found[::-1]


def _is_of(task: dict, record: dict) -> bool:
    """Return whether a record is of a task: of the same id, or equal to it where tasks have no ids."""
    if task.get("id") is None:
        return record["task"] == task
    return record["task"].get("id") == task["id"]


def memory_of(file: str | None) -> Memory | None:
    """Return the memory of a file that `--recall` names, or None for none.

    Raises:
        InputError, EexpError: As for `Memory`, or the file cannot be read.
        UsageError: The file is standard input.
    """
    if file == "-":
        raise UsageError("--recall takes a file; standard input has the tasks")
    if file:
        records = list(read([file], "episode", "trajectory"))
        try:
            return Memory(records)
        except InputError as e:
            raise InputError(f"{file}: {e}") from None
    return None


def imagined_ids(records: Iterable[dict]) -> list[str]:
    """Return the ids of those records that are of an imagined environment, wholly or in part."""
    return [record["id"] for record in records if imagined_by(record) is not None]


def shown(records: Iterable[dict]) -> list[tuple[str, list[dict]]]:
    """Return the instruction and the steps of each record, as prompts have them."""
    return [(record.get("instruction") or "", _steps_of(record)) for record in records]


def _steps_of(record: dict) -> list[dict]:
    return record["transcript"] if record["type"] == "episode" else record["steps"]


def _beginning(record: dict) -> str:
    steps = _steps_of(record)
    if not steps:
        raise InputError(f"{record['id']}: has no turns to remember")
    return f"{record.get('instruction') or ''}\n{steps[0]['observation']}"
