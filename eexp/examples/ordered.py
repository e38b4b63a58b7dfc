"""Sort entries of one length that need not fit into memory.

They are sorted in parts, each part is written to a temporary file, and reading merges the parts. This serves entries
that all have to be known before the first of them is used, such as the places of the examples of a mixture.
"""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice

from eexp.errors import EexpError

PART = 1 << 14  # number of entries that are sorted at once
BLOCK = 256  # number of entries of a part that are read at once


class Ordered:
    """Byte strings of equal length in ascending order, over which one can iterate more than once.

    Raises:
        EexpError: They do not fit into the directory for temporary files.
    """

    def __init__(self, entries: Iterable[bytes]):
        self._size = 0  # bytes of an entry
        self._lengths: list[int] = []  # numbers of entries of the parts in the file
        self._file = None
        entries = iter(entries)
        self._last = sorted(islice(entries, PART))  # the part that stays in memory
        while more := sorted(islice(entries, PART)):
            self._write_part(self._last)
            self._last = more

    def __len__(self) -> int:
        return sum(self._lengths) + len(self._last)

    def __iter__(self) -> Iterator[bytes]:
        if not self._lengths:
            return iter(self._last)
        starts = [sum(self._lengths[:i]) for i in range(len(self._lengths))]
        return heapq.merge(*(self._read_part(*part) for part in zip(starts, self._lengths)), self._last)

    def _write_part(self, part: list[bytes]) -> None:
        """Append a sorted part to the temporary file."""
        try:
            self._file = self._file or tempfile.TemporaryFile()
            self._file.write(b"".join(part))
            self._file.flush()
        except OSError as e:
            raise EexpError(f"cannot sort in a temporary file (see TMPDIR): {e.strerror or e}") from None
        self._size = len(part[0])
        self._lengths.append(len(part))

    def _read_part(self, start: int, length: int) -> Iterator[bytes]:
        """Yield the entries of the part that begins at entry `start` of the temporary file."""
        assert self._file
        size = self._size
        for first in range(start, start + length, BLOCK):
            count = min(BLOCK, start + length - first)
            block = os.pread(self._file.fileno(), count * size, first * size)
            for at in range(0, len(block), size):
                yield block[at : at + size]
