"""Compare two files of records by their ids: which are in one alone, which differ, and in what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eexp.errors import InputError
from eexp.records.jsonl import dumps
from eexp.viewer.index import Index, parse

SAME, LINEAGE, CHANGED, FIRST, SECOND = (
    "the same",
    "only lineage differs",
    "differs",
    "only in the first",
    "only in the second",
)
_MOST_CHANGES = 200
_LONGEST = 4_000  # characters of a value that is shown


class Comparison:
    """The records of two files, by id. The list shows those of the first file, and those that the second has alone.

    Args:
        index: Of the two files, which have been read.

    Attributes:
        mask: The bits of the records that the list shows.
    """

    def __init__(self, index: Index):
        self.index = index
        self._words: dict[int, str] = {}
        self._pairs: dict[int, int] = {}
        self._compare_all()
        self.mask = sum(1 << bit for (group, _), bit in index.facets.items() if group == "difference")

    def _compare_all(self) -> None:
        """Compare all records; their differences become filters of the index."""
        index = self.index
        first: dict[int, int] = {}
        for entry in range(len(index)):
            if index.file[entry] == 0:
                first.setdefault(index.ids[entry], entry)
        for entry in range(len(index)):
            if index.file[entry] != 1:
                continue
            other = first.pop(index.ids[entry], None) if index.ids[entry] else None
            if other is None:
                self._words[entry] = SECOND
            else:
                self._pairs[other], self._pairs[entry] = entry, other
                self._words[other] = self._words[entry] = self._compare(other, entry)
        for entry in first.values():
            self._words[entry] = FIRST
        for entry, word in self._words.items():
            if index.file[entry] == 0 or word == SECOND:
                index.add_value(entry, ("difference", word))

    def _compare(self, one: int, other: int) -> str:
        before, after = self.index.raw(one), self.index.raw(other)
        if before == after:
            return SAME
        kinds = {path.split(".")[1].split("[")[0] for path, _, _ in _differences_of_lines(before, after)}
        return SAME if not kinds else LINEAGE if kinds == {"lineage"} else CHANGED

    def word(self, entry: int) -> str:
        """Return how a record differs; an empty text where it was not compared."""
        return self._words.get(entry, "")

    def changes(self, entry: int) -> list[dict] | None:
        """Return the fields in which a record differs from the other file's; None where that has no such record."""
        other = self._pairs.get(entry)
        if other is None:
            return None
        one, two = (entry, other) if self.index.file[entry] == 0 else (other, entry)
        found = _differences_of_lines(self.index.raw(one), self.index.raw(two))
        return [
            {"path": path, "before": _shown(before), "after": _shown(after)}
            for (path, before, after), _ in zip(found, range(_MOST_CHANGES), strict=False)
        ]


_ABSENT = object()


def differences(before: Any, after: Any, path: str = "$") -> Iterator[tuple[str, Any, Any]]:
    """Yield the path, the value before and the value after of all that differs between two JSON values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from differences(before.get(key, _ABSENT), after.get(key, _ABSENT), f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list):
        for i in range(max(len(before), len(after))):
            yield from differences(*(side[i] if i < len(side) else _ABSENT for side in (before, after)), f"{path}[{i}]")
    elif before is _ABSENT or after is _ABSENT or before != after or type(before) is not type(after):
        yield path, before, after


def _differences_of_lines(before: bytes, after: bytes) -> Iterator[tuple[str, Any, Any]]:
    try:
        yield from differences(parse(before), parse(after))
    except InputError as e:
        yield "$.line", str(e), str(e)


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "(not there)"
    text = value if isinstance(value, str) else dumps(value).decode("utf-8", "replace").rstrip("\n")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
