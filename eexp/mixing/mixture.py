"""Which examples of several files go into a mixture, in which order, and what is left out.

What is taken, and its order, follow from hashes of the examples' ids: shuffled input leads to the same mixture. These
hashes and the places of the examples are put in order on disk (ordered.py). So memory is the same for files of any
size, but where duplicates are looked for: some 100 bytes for each example, and 3 KB for near duplicates.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import BinaryIO

from eexp.errors import EexpError, InputError, UsageError
from eexp.evidence.table import align
from eexp.jsonl import STDIN, loads
from eexp.mixing.duplicates import HeldOut, NearDuplicates, digest
from eexp.mixing.ordered import Ordered
from eexp.records import check


@dataclass
class Source:
    """A file of examples, how much of it to take (1 = all, 0.5 = a random half, 2 = twice) and its loss weight."""

    name: str
    share: float = 1.0
    weight: float = 1.0

    @property
    def shown(self) -> str:
        """How messages call it."""
        return "<stdin>" if self.name == STDIN else self.name


@dataclass(frozen=True)
class Cleaning:
    """What is left out of each file before any of it is taken.

    duplicates: "keep"; "exact" leaves out examples with the words of another one, "near" those that nearly repeat one
    (duplicates.py), too. similarity: from which on they do. apart: what no example may be made from.
    """

    duplicates: str = "keep"
    similarity: float = 0.8
    apart: HeldOut = field(default_factory=HeldOut)


@dataclass(frozen=True)
class Balance:
    """Which share of the mixture a kind is to have, and how that is measured.

    shares: by kind; kinds without one keep their proportions in what is left. size: the size of an example, or None to
    count examples.
    """

    shares: dict[str, float]
    size: Callable[[dict], int] | None = None


@dataclass
class Tally:
    """What went into a mixture and what came out: counts by (file, kind)."""

    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)

    def add(self, source: Source, kind: str, what: str, n: int = 1) -> None:
        """Count something."""
        self.counts.setdefault((source.shown, kind), Counter())[what] += n

    def table(self, unit: str = "examples") -> list[str]:
        """Return the counts as lines of text; what was never left out has no column. unit: of the sizes."""
        titles = {
            "in": "in",
            "apart": "of tasks apart",
            "exact": "duplicates",
            "near": "near duplicates",
            "out": "out",
            "size in": f"{unit} in",
            "size out": f"{unit} out",
        }
        total = sum(self.counts.values(), Counter())
        columns = [what for what in titles if total[what] or what in ("in", "out")]
        measure = "size out" if total["size out"] else "out"
        lines = [["", *(titles[what] for what in columns), "share"]]
        for name, counts in [*((f"{file}: {kind}", c) for (file, kind), c in self.counts.items()), ("all", total)]:
            share = f"{counts[measure] / total[measure]:.1%}" if total[measure] else ""
            lines.append([name, *(f"{counts[what]:,}" for what in columns), share])
        return align(lines)


_SCANNED = struct.Struct(">8sQII16s")  # of an example in its file: hash of its id, offset, kind, size, digest
_PLACE = struct.Struct(">8sIIQII")  # in the mixture: hash that decides the order, source, copy, offset, kind, size


def _hash(*parts: object) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()


class Mixture:
    """Examples of several files, open as long as they are read; `places` says which, `read` gives one."""

    def __init__(
        self,
        sources: Sequence[Source],
        seed: int,
        cleaning: Cleaning | None = None,
        balance: Balance | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.sources, self.seed = sources, seed
        self.cleaning, self.balance, self.tally = cleaning or Cleaning(), balance, tally or Tally()
        self._files = [_seekable(source.name) for source in sources]
        self._kinds: dict[str, int] = {}  # and their numbers, in the order in which they come
        self._texts: set[bytes] = set()
        near = self.cleaning.duplicates == "near"
        self._near = NearDuplicates(self.cleaning.similarity, lambda key: self._at(*key)) if near else None

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def places(self, limit: int | None = None, shuffle: bool = True) -> Iterator[bytes]:
        """Yield where each example of the mixture is, in its order; raises InputError at a line that is no example.

        limit: at most that many: the first in the order of the hashes. shuffle: without it, what is taken keeps the
        order of the files.
        """
        every = Ordered(chain.from_iterable(self._of_source(n, source.share) for n, source in enumerate(self.sources)))
        places = islice(self._balanced(every, limit) if self.balance else every, limit)
        if not shuffle:
            places = (place[-8:] + place[:-8] for place in Ordered(place[8:] + place[:8] for place in places))
        names = list(self._kinds)
        for place in places:
            _, n, _, _, kind, size = _PLACE.unpack(place)
            self.tally.add(self.sources[n], names[kind], "out")
            self.tally.add(self.sources[n], names[kind], "size out", size)
            yield place

    def read(self, place: bytes) -> dict:
        """Return the example at a place, with the weight that its file gives it."""
        _, n, _, offset, _, _ = _PLACE.unpack(place)
        record = self._at(n, offset)
        return {**record, "weight": _weight(record, self.sources[n])}

    def _at(self, n: int, offset: int) -> dict:
        self._files[n].seek(offset)
        return loads(self._files[n].readline())

    def _scan(self, n: int) -> Iterator[bytes]:
        """Yield a `_SCANNED` for each example of a file; every line is checked on the way."""
        source, offset = self.sources[n], 0
        for number, line in enumerate(self._files[n], 1):
            if line.strip():
                try:
                    record = check(loads(line), "example")
                    _weight(record, source)
                    size = self.balance.size(record) if self.balance and self.balance.size else 0
                except InputError as e:
                    raise InputError(f"{source.shown}:{number}: {e}") from None
                kind = self._kinds.setdefault(record["kind"], len(self._kinds))
                self.tally.add(source, record["kind"], "in")
                self.tally.add(source, record["kind"], "size in", size)
                if record in self.cleaning.apart:
                    self.tally.add(source, record["kind"], "apart")
                else:
                    words = b"" if self.cleaning.duplicates == "keep" else digest(record)
                    yield _SCANNED.pack(_hash("mix", self.seed, record["id"]), offset, kind, size, words)
            offset += len(line)

    def _without_repeats(self, n: int, entries: Ordered) -> Iterator[bytes]:
        """Yield the `_SCANNED` of a file, in their order, without those that repeat others."""
        names = list(self._kinds)
        for entry in entries:
            _, offset, kind, _, words = _SCANNED.unpack(entry)
            if words in self._texts:
                self.tally.add(self.sources[n], names[kind], "exact")
                continue
            self._texts.add(words)
            if self._near:
                record = self._at(n, offset)
                if self._near.repeated(record) is not None:
                    self.tally.add(self.sources[n], names[kind], "near")
                    continue
                self._near.keep((n, offset), record)
            yield entry

    def _of_source(self, n: int, share: float) -> Iterator[bytes]:
        """Yield a `_PLACE` for each example taken from file `n`, as often as it is taken.

        The examples of the smallest hashes are part of any share, so that those of a smaller share are among those of
        a larger one.
        """
        entries = Ordered(self._scan(n))
        if self.cleaning.duplicates != "keep":
            entries = Ordered(self._without_repeats(n, entries))
        whole, part = divmod(share, 1)
        for copy in range(int(whole) + 1):
            for entry in entries if copy < whole else islice(entries, round(part * len(entries))):
                id_hash, offset, kind, size, _ = _SCANNED.unpack(entry)
                yield _PLACE.pack(_hash(id_hash.hex(), n, copy), n, copy, offset, kind, size)

    def _balanced(self, places: Ordered, limit: int | None) -> Iterator[bytes]:
        """Yield the most of `places` in which every kind has its share: the first of each kind."""
        assert self.balance
        counted = self.balance.size is None
        for kind in self.balance.shares:
            if kind not in self._kinds:
                raise UsageError(f"--share {kind}: there is no example of this kind")
        numbers = {self._kinds[kind]: share for kind, share in self.balance.shares.items()}
        rest = 1 - sum(numbers.values())
        available: Counter[int] = Counter()
        for place in places:
            *_, kind, size = _PLACE.unpack(place)
            available[kind if kind in numbers else -1] += 1 if counted else size
        if len(places) and not available[-1]:
            raise UsageError(f"--share leaves {rest:.0%} for other kinds, of which there is no example")
        whole = min(available[kind] / share for kind, share in {**numbers, -1: rest}.items())
        if counted and limit is not None:
            whole = min(whole, limit)
        left = {kind: whole * share + (0.5 if counted else 0) for kind, share in {**numbers, -1: rest}.items()}
        for place in places:
            *_, kind, size = _PLACE.unpack(place)
            kind, size = kind if kind in numbers else -1, 1 if counted else size
            if size <= left[kind] * (1 + 1e-12):
                left[kind] -= size
                yield place


def _weight(record: dict, source: Source) -> float:
    weight = record.get("weight", 1.0)
    if weight * source.weight == math.inf:
        raise InputError(f"{weight:g} times {source.weight:g} is too large a number", "$.weight")
    return weight * source.weight


def _seekable(name: str) -> BinaryIO:
    try:
        source = sys.stdin.buffer if name == STDIN else open(name, "rb")
        if name != STDIN and source.seekable():
            return source
    except OSError as e:
        raise InputError(f"{name}: {e.strerror or e}") from None
    try:
        spool = tempfile.TemporaryFile()  # a pipe is read once and then jumped about in
        shutil.copyfileobj(source, spool)
        spool.seek(0)
        return spool
    except OSError as e:
        shown = "standard input" if name == STDIN else name
        raise EexpError(f"cannot copy {shown} to a temporary file (see TMPDIR): {e.strerror or e}") from None
