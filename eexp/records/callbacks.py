"""The functions that a pure stage calls back: to report a record that it cannot process, and to count."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eexp.errors import InputError

#: A function that a pure stage calls with a record it cannot process; it returns if the run is to go on without it.
OnError = Callable[[dict, InputError], None]

#: A function that a pure stage calls to add a number to its summary: what is counted, and how many.
Count = Callable[[str, int], None]

#: A function that a pure stage calls with an id; it returns whether an earlier run has written the record of that id.
Skip = Callable[[str], bool]


def no_count(what: str, n: int) -> None:
    """Count nothing: by default, a pure stage has no summary."""


def add_counts(count: Count, numbers: Mapping[str, int]) -> None:
    """Add several numbers to a summary."""
    for what, n in numbers.items():
        count(what, n)


def stop_at_error(record: dict, error: InputError) -> None:
    """Raise the error: by default, the first record that cannot be processed ends a pure stage."""
    raise error


def ignore_error(record: dict, error: InputError) -> None:
    """Go on: by default, what a pure stage refuses in a record that it passes on is not reported."""


def skip_none(record_id: str) -> bool:
    """Return False: by default, no earlier run has written anything."""
    return False
