"""Tasks that a user writes into a file, for environments that know none: by id, and as records name them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from eexp.errors import InputError


class TaskOfFile(msgspec.Struct):
    """A task of a file. What derives from it has an id, a split and a kind, which may be None."""

    if TYPE_CHECKING:  # no fields: their order in a derived class decides the checksum
        id: str
        split: str
        kind: str | None

    def as_record(self) -> dict[str, Any]:
        """Return the task as records have it: its name, and a checksum of the rest, which the file has."""
        kind = {} if self.kind is None else {"kind": self.kind}
        checksum = hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:8]
        return {"id": self.id, "split": self.split, **kind, "checksum": checksum}


Task = TypeVar("Task", bound=TaskOfFile)


class TasksOfFile(Generic[Task]):
    """The tasks of a file, in its order, no two with the same id."""

    def __init__(self, tasks: Iterable[Task]):
        self._by_id = {task.id: task for task in tasks}

    def splits(self) -> list[str]:
        """Return the splits in the order of the file, `train` first."""
        names = dict.fromkeys(task.split for task in self._by_id.values())
        return sorted(names, key=lambda split: split != "train")

    def of_split(self, split: str) -> Iterator[dict[str, Any]]:
        """Yield the tasks of a split as records have them."""
        return (task.as_record() for task in self._by_id.values() if task.split == split)

    def named(self, name: str) -> dict[str, Any]:
        """Return the task with an id as records have it. Raises InputError if there is none."""
        if name not in self._by_id:
            raise InputError(f"the file of tasks has no task {name!r}")
        return self._by_id[name].as_record()

    def find(self, record: dict[str, Any]) -> Task:
        """Return the task that a record names. Raises InputError if there is none, or another one of this id."""
        task = self._by_id.get(str(record.get("id")))
        if task is None:
            raise InputError(f"the file of tasks has no task {record.get('id')!r}", "$.task.id")
        if "checksum" in record and record["checksum"] != task.as_record()["checksum"]:
            raise InputError("the file of tasks has another task of this id", "$.task.checksum")
        return task
