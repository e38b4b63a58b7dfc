"""Write records in the formats of other projects: trajectories and episodes as logs, examples as rows of messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from eexp.errors import InputError
from eexp.formats import logs, sft
from eexp.formats.names import ATIF, INSPECT, SFT, VERIFIERS
from eexp.records.callbacks import OnError, stop_at_error

T = TypeVar("T")


def export_log(records: Iterable[dict], format: str, *, on_error: OnError = stop_at_error) -> Iterator[dict]:
    """Yield the log of each trajectory and episode; for INSPECT, one log that holds them all.

    For SFT, yield the row of each example.
    """
    if format == SFT:
        yield from _converted(records, sft.to_row, on_error)
        return
    if format == INSPECT:
        all_logs = list(_converted(records, logs.log_of, on_error))
        if all_logs:
            yield logs.to_inspect(all_logs)
        return
    convert = {ATIF: logs.to_atif, VERIFIERS: logs.to_verifiers}[format]
    yield from map(convert, _converted(records, logs.log_of, on_error))


def _converted(records: Iterable[dict], convert: Callable[[dict], T], on_error: OnError) -> Iterator[T]:
    for record in records:
        try:
            yield convert(record)
        except InputError as e:
            on_error(record, e)
