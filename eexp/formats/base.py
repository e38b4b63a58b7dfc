"""The contract of formats to which records are exported; that of conversations is `conversations.Format`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ExportFormat:
    """A format of which a file is one object rather than one a record.

    Attributes:
        convert: Takes a record and returns its part; raises InputError for a record of another type.
        together: Takes the parts of all records, and returns the object.
    """

    convert: Callable[[dict], Any]
    together: Callable[[list[Any]], dict]
