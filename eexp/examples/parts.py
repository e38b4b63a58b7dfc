"""Parts of files that follow from the records' ids alone: one of several parts of equal size, or a random sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import nsmallest

from eexp.examples.settings import SplitSettings
from eexp.records.record import seed_of


def split(records: Iterable[dict], settings: SplitSettings) -> Iterator[dict]:
    """Yield the records that belong to some of several parts of about equal size."""
    numbers = set(settings.kept)
    return (record for record in records if part_of(record, settings.parts, settings.seed) in numbers)


def part_of(record: dict, parts: int, seed: int = 0) -> int:
    """Return the number of the part that a record belongs to, from 1.

    The number follows from the hash of the record's id. For examples it is the id of their trajectory, so that an
    example is in the same part as its trajectory and all other examples of it.
    """
    return seed_of("split", seed, record.get("group") or record.get("origin") or record["id"]) % parts + 1


def sample(records: Iterable[dict], n: int, seed: int) -> list[dict]:
    """Return `n` records drawn uniformly in one pass, in their order: those of the smallest hashes of their ids."""
    hashed = ((seed_of("show", seed, record["id"]), i, record) for i, record in enumerate(records))
    return [record for _, _, record in sorted(nsmallest(n, hashed), key=lambda one: one[1])]
