"""The contract of formats to which records are exported; that of conversations is `conversations.Format`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ExportFormat:
    """A format to which a record is exported, where it is more than a function that returns one object a record.

    Attributes:
        convert: Takes a record and returns its part; raises InputError for a record of another type.
        together: Takes the parts of all records, and returns the one object that a file holds.
        with_alternatives: The same as `convert`, for a part that also holds the alternatives of a trajectory. None if
            the format has no place for them.
        file_each: Whether each record has a file of its own, of which the part is the lines, a list of objects.
    """

    convert: Callable[[dict], Any]
    together: Callable[[list[Any]], dict] | None = None
    with_alternatives: Callable[[dict], Any] | None = None
    file_each: bool = False
