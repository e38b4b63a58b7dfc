"""Choose the examples of a mixture of several files, and their order.

The choice and the order follow from hashes of the examples' ids: shuffled input leads to the same mixture. These hashes
and the places of the examples are sorted on disk (ordered.py). So files of any size need the same memory, except for
duplicates: finding exact ones takes some 100 bytes for each example, and finding near ones 3 KB.
"""

from __future__ import annotations

import hashlib
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
from eexp.jsonl import STDIN, loads, refuse_other_files
from eexp.mixing.duplicates import HeldOut, NearDuplicates, digest
from eexp.mixing.ordered import Ordered
from eexp.record_types import check
from eexp.records import LARGEST_WEIGHT
from eexp.stage_settings.mix import Source


@dataclass(frozen=True)
class Cleaning:
    """Conditions under which examples are left out of each file, before a share of the file is taken.

    Attributes:
        duplicates: "keep"; "exact" leaves out examples with the text of another one; "near" leaves out near duplicates
            (duplicates.py), too.
        similarity: The similarity from which on examples are near duplicates.
        held_out: Tasks and texts of which no example may be made.
    """

    duplicates: str = "keep"
    similarity: float = 0.8
    held_out: HeldOut = field(default_factory=HeldOut)


@dataclass(frozen=True)
class Balance:
    """The shares of the mixture that kinds of examples are to have.

    Attributes:
        shares: Shares by kind; the other kinds share the rest in their own proportions.
        size: A function that returns the size of an example, or None to count examples.
    """

    shares: dict[str, float]
    size: Callable[[dict], int] | None = None


@dataclass
class Tally:
    """Counts of the examples that a mixture has read, left out and written, by file and kind."""

    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)

    def add(self, source: Source, kind: str, what: str, n: int = 1) -> None:
        """Add `n` to a count of a file and kind; `what` is one of the keys of the table's columns."""
        self.counts.setdefault((source.shown, kind), Counter())[what] += n

    def table(self, unit: str = "examples") -> list[str]:
        """Return the counts as lines of text, without columns that are zero throughout.

        Args:
            unit: The unit of the sizes, such as "tokens".
        """
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


_SCANNED = struct.Struct(">8sQII16s")  # an example in its file: hash of its id, offset, kind, size, digest
_PLACE = struct.Struct(
    ">8sIIQII"
)  # a place in the mixture: hash that decides the order, source, copy, offset, kind, size


def _hash(*parts: object) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()


class Mixture:
    """A mixture of examples of several files: `places` yields where each example is, `read` returns it.

    Args:
        sources: The files; they stay open until `close`.
        seed: The seed of the choice and the order.
        cleaning: Conditions under which examples are left out.
        balance: The shares of kinds; None leaves them as they come.
        tally: Counts to add to.
    """

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
        self._kinds: dict[str, int] = {}  # kinds and their numbers, in the order in which they come
        self._texts: set[bytes] = set()
        near = self.cleaning.duplicates == "near"
        self._near = NearDuplicates(self.cleaning.similarity, lambda place: self._at(*place)) if near else None

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def places(self, limit: int | None = None, shuffle: bool = True) -> Iterator[bytes]:
        """Yield the place of each example of the mixture, in the mixture's order.

        Args:
            limit: The largest number of examples; the first in the order of the hashes are taken.
            shuffle: Whether the order is that of the hashes; otherwise it is that of the files.

        Raises:
            InputError: A line of a file is no example.
        """
        candidates = Ordered(
            chain.from_iterable(self._of_source(n, source.share) for n, source in enumerate(self.sources))
        )
        places = islice(self._balanced(candidates, limit) if self.balance else candidates, limit)
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
            if number == 1:
                refuse_other_files(line, source.shown)
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
                if record in self.cleaning.held_out:
                    self.tally.add(source, record["kind"], "apart")
                else:
                    words = b"" if self.cleaning.duplicates == "keep" else digest(record)
                    yield _SCANNED.pack(_hash("mix", self.seed, record["id"]), offset, kind, size, words)
            offset += len(line)

    def _without_repeats(self, n: int, entries: Ordered) -> Iterator[bytes]:
        """Yield the `_SCANNED` of a file, in their order, without duplicates."""
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
        """Yield as many of `places` as possible so that every kind has its share: the first of each kind."""
        assert self.balance
        counts_examples = self.balance.size is None
        for kind in self.balance.shares:
            if kind not in self._kinds:
                raise UsageError(f"--share {kind}: there is no example of this kind")
        numbers = {self._kinds[kind]: share for kind, share in self.balance.shares.items()}
        rest = 1 - sum(numbers.values())
        available: Counter[int] = Counter()
        for place in places:
            *_, kind, size = _PLACE.unpack(place)
            available[kind if kind in numbers else -1] += 1 if counts_examples else size
        if len(places) and not available[-1]:
            raise UsageError(f"--share leaves {rest:.0%} for other kinds, of which there is no example")
        whole = min(available[kind] / share for kind, share in {**numbers, -1: rest}.items())
        if counts_examples and limit is not None:
            whole = min(whole, limit)
        room = {kind: whole * share + (0.5 if counts_examples else 0) for kind, share in {**numbers, -1: rest}.items()}
        for place in places:
            *_, kind, size = _PLACE.unpack(place)
            kind, size = kind if kind in numbers else -1, 1 if counts_examples else size
            if size <= room[kind] * (1 + 1e-12):
                room[kind] -= size
                yield place


def _weight(record: dict, source: Source) -> float:
    """Return an example's weight times that of its file; raise InputError if no record may have the product."""
    weight = record.get("weight", 1.0)
    if abs(weight * source.weight) > LARGEST_WEIGHT:
        raise InputError(
            f"{weight:g} times {source.weight:g} is more than {LARGEST_WEIGHT:,.0f}, the largest weight", "$.weight"
        )
    return weight * source.weight


def _seekable(name: str) -> BinaryIO:
    """Open a file so that it can be read in any order; a pipe is copied to a temporary file."""
    try:
        source = sys.stdin.buffer if name == STDIN else open(name, "rb")
        if name != STDIN and source.seekable():
            return source
    except OSError as e:
        raise InputError(f"{name}: {e.strerror or e}") from None
    try:
        spool = tempfile.TemporaryFile()
        shutil.copyfileobj(source, spool)
        spool.seek(0)
        return spool
    except OSError as e:
        label = "standard input" if name == STDIN else name
        raise EexpError(f"cannot copy {label} to a temporary file (see TMPDIR): {e.strerror or e}") from None
