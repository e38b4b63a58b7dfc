"""Write records in the formats of other projects: trajectories and episodes as logs, examples as rows of messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from eexp.errors import EexpError, InputError
from eexp.formats.base import ExportFormat
from eexp.formats.names import EXPORT_FORMATS
from eexp.records.callbacks import OnError, stop_at_error

T = TypeVar("T")


def export_log(records: Iterable[dict], format: str, *, on_error: OnError = stop_at_error) -> Iterator[dict]:
    """Yield the log of each trajectory and episode, or the row of each example; for INSPECT, one log that holds all.

    Args:
        format: A name in EXPORT_FORMATS.

    Raises:
        UsageError: There is no such format.
        EexpError: It cannot be loaded, or it returns no object.
    """
    convert = EXPORT_FORMATS.load(format)
    if isinstance(convert, ExportFormat):
        parts = list(_converted(records, convert.convert, on_error))
        if parts:
            yield convert.together(parts)
        return
    for log in _converted(records, convert, on_error):
        if not isinstance(log, dict):
            raise EexpError(f"export format {EXPORT_FORMATS.label(format)} returned {type(log).__name__}, not a dict")
        yield log


def _converted(records: Iterable[dict], convert: Callable[[dict], T], on_error: OnError) -> Iterator[T]:
    for record in records:
        try:
            yield convert(record)
        except InputError as e:
            on_error(record, e)
