"""Write records in the formats of other projects: trajectories and episodes as logs, examples as rows of messages."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from eexp.errors import EexpError, InputError, UsageError
from eexp.formats.base import ExportFormat
from eexp.formats.names import EXPORT_FORMATS
from eexp.records.callbacks import OnError, stop_at_error


def export_log(
    records: Iterable[dict], format: str, alternatives: bool = False, *, on_error: OnError = stop_at_error
) -> Iterator[dict]:
    """Yield the log of each trajectory and episode, or the row of each example; for INSPECT, one log that holds all.

    For HF_TRACES, yield the lines of the session of the only record.

    Args:
        format: A name in EXPORT_FORMATS.
        alternatives: Whether logs hold the alternatives of trajectories.

    Raises:
        UsageError: There is no such format, it has no place for alternatives, or a file of it holds one record.
        EexpError: It cannot be loaded, or it returns no object.
    """
    chosen, convert = _format(format, alternatives)
    parts = (part for _, part in _converted(records, convert, on_error))
    if chosen.together:
        if all_parts := list(parts):
            yield chosen.together(all_parts)
        return
    for number, part in enumerate(parts):
        if number and chosen.file_each:
            raise UsageError(f"a file of {format} holds one record; --sessions DIR writes a file for each")
        for line in part if chosen.file_each else [part]:
            if not isinstance(line, dict):
                raise EexpError(
                    f"export format {EXPORT_FORMATS.label(format)} returned {type(line).__name__}, not a dict"
                )
            yield line


def export_files(
    records: Iterable[dict], format: str, alternatives: bool = False, *, on_error: OnError = stop_at_error
) -> Iterator[tuple[str, list[dict]]]:
    """Yield the name and the lines of the file of each record; the arguments are those of `export_log`.

    Raises:
        UsageError: There is no such format, it has no place for alternatives, or a file of it holds several records.
    """
    chosen, convert = _format(format, alternatives)
    if not chosen.file_each:
        raise UsageError(f"--sessions is for formats with a file for each record, such as hf-traces, not for {format}")
    name_of = file_names()
    for record, part in _converted(records, convert, on_error):
        yield name_of(record["id"]), part


def file_names() -> Callable[[str], str]:
    """Return a function that names a file by the id of its record; equal ids get different names."""
    counts: Counter[str] = Counter()

    def name_of(record_id: str) -> str:
        digest = hashlib.blake2b(record_id.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
        name = re.sub(r"[^A-Za-z0-9_]+", "-", record_id).strip("-")[:80]
        name = f"{name or 'record'}-{digest}"
        counts[name] += 1
        return f"{name}.jsonl" if counts[name] == 1 else f"{name}-{counts[name]}.jsonl"

    return name_of


def _format(name: str, alternatives: bool) -> tuple[ExportFormat, Callable[[dict], Any]]:
    """Return a format, and the function that converts a record."""
    loaded = EXPORT_FORMATS.load(name)
    chosen = loaded if isinstance(loaded, ExportFormat) else ExportFormat(loaded)
    if not alternatives:
        return chosen, chosen.convert
    if chosen.with_alternatives is None:
        raise UsageError(f"--alternatives: {name} has no place for them")
    return chosen, chosen.with_alternatives


def _converted(
    records: Iterable[dict], convert: Callable[[dict], Any], on_error: OnError
) -> Iterator[tuple[dict, Any]]:
    for record in records:
        try:
            part = convert(record)
        except InputError as e:
            on_error(record, e)
            continue
        yield record, part
