"""Choose the examples of a mixture of several files, and their order.

The choice and the order follow from hashes of the examples' ids: shuffled input leads to the same mixture. These hashes
and the places of the examples are sorted on disk (ordered.py). So files of any size need the same memory, except for
duplicates: finding exact ones takes some 100 bytes for each example, and finding near ones 3 KB.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
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
from eexp.examples.duplicates import HeldOut, NearDuplicates, digest
from eexp.examples.ordered import Ordered
from eexp.examples.settings import MixSettings
from eexp.records.jsonl import STDIN, loads, refuse_other_files
from eexp.records.record import LARGEST_WEIGHT
from eexp.records.shards import refuse_part
from eexp.records.types import check
from eexp.system.terminal import align

MOST_COPIES = 10_000  # of an example

_MARKS = re.compile(r"(?P<name>.*?)(@(?P<share>[^@*/]*))?(\*(?P<weight>[^@*/]*))?", re.DOTALL)


@dataclass
class Source:
    """A file of examples in a mixture."""

    name: str  # the file, "-" for standard input
    share: float = 1.0  # how much of it is taken: 1 for all, 0.5 for a random half, 2 for all of it twice
    weight: float = 1.0  # a factor of the examples' loss weights

    @property
    def shown(self) -> str:
        """The name of the file in messages."""
        return "<stdin>" if self.name == STDIN else self.name


def parse_source(text: str) -> Source:
    """Return the source that FILE, FILE@SHARE, FILE*WEIGHT or FILE@SHARE*WEIGHT names.

    A file that exists under the whole of `text` is that file. Raises ValueError for anything else after a mark.
    """
    if os.path.exists(text):
        return Source(text)
    marks = _MARKS.fullmatch(text)
    assert marks  # the pattern fits any text
    source = Source(marks["name"], float(marks["share"] or 1), float(marks["weight"] or 1))
    if not all(0 <= number < math.inf for number in (source.share, source.weight)):
        raise ValueError(f"{text}: a share or weight below 0, or endless")
    if source.share > MOST_COPIES:
        raise ValueError(f"{text}: a share of more than {MOST_COPIES}")
    return source


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


#: An example in its file: the hash of its id, its offset, its kind, its size, and its digest.
_SCANNED = struct.Struct(">8sQII16s")
#: A place in the mixture: the hash that decides the order, the source, the copy, the offset, the kind, and the size.
_PLACE = struct.Struct(">8sIIQII")


def _hash(*parts: object) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()


def mix(
    sources: Sequence[Source], settings: MixSettings | None = None, *, tally: Tally | None = None
) -> Iterator[dict]:
    """Return the examples of all sources together, in an order that follows from their ids and the seed.

    Examples of one source with equal ids are in the order in which they stand there.

    Args:
        tally: Counts the examples that are left out and taken.

    Raises:
        InputError: A line is no example.
        UsageError: Settings do not fit together.
    """
    return _Mixture(sources, settings or MixSettings(), tally or Tally()).examples()


class _Mixture:
    """A mixture of examples of several files."""

    def __init__(self, sources: Sequence[Source], settings: MixSettings, tally: Tally) -> None:
        self.sources, self.settings, self.tally = sources, settings, tally
        self._held_out = HeldOut(settings.apart_from)
        self._size_of = _measure(settings)
        self._files: list[BinaryIO] = []
        self._kinds: dict[str, int] = {}  # kinds and their numbers, in the order in which they come
        self._texts: set[bytes] = set()
        self._near: NearDuplicates | None = None

    def examples(self) -> Iterator[dict]:
        """Yield the examples; the files are open from the first to the last one."""
        try:
            for source in self.sources:
                self._files.append(_seekable(source.name))
            if self.settings.duplicates == "near":
                self._near = NearDuplicates(self.settings.similarity, lambda place: self._at(*place))
            for place in self._places():
                yield self._example(place)
        finally:
            for file in self._files:
                file.close()

    def _places(self) -> Iterator[bytes]:
        """Yield the `_PLACE` of each example of the mixture, in the mixture's order."""
        limit = self.settings.limit
        candidates = Ordered(
            chain.from_iterable(self._of_source(n, source.share) for n, source in enumerate(self.sources))
        )
        places = self._balanced(candidates, self.settings.share) if self.settings.share else islice(candidates, limit)
        if not self.settings.shuffle:
            places = (place[-8:] + place[:-8] for place in Ordered(place[8:] + place[:8] for place in places))
        names = list(self._kinds)
        for place in places:
            _, n, _, _, kind, size = _PLACE.unpack(place)
            self.tally.add(self.sources[n], names[kind], "out")
            self.tally.add(self.sources[n], names[kind], "size out", size)
            yield place

    def _example(self, place: bytes) -> dict:
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
                    refuse_part(record, f"{source.shown}:{number}", "mix")
                    _weight(record, source)
                    size = self._size_of(record) if self._size_of else 0
                except InputError as e:
                    raise InputError(f"{source.shown}:{number}: {e}") from None
                kind = self._kinds.setdefault(record["kind"], len(self._kinds))
                self.tally.add(source, record["kind"], "in")
                self.tally.add(source, record["kind"], "size in", size)
                if record in self._held_out:
                    self.tally.add(source, record["kind"], "apart")
                else:
                    words = b"" if self.settings.duplicates == "keep" else digest(record)
                    yield _SCANNED.pack(_hash("mix", self.settings.seed, record["id"]), offset, kind, size, words)
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
        if self.settings.duplicates != "keep":
            entries = Ordered(self._without_repeats(n, entries))
        whole, part = divmod(share, 1)
        for copy in range(int(whole) + 1):
            for entry in entries if copy < whole else islice(entries, round(part * len(entries))):
                id_hash, offset, kind, size, _ = _SCANNED.unpack(entry)
                yield _PLACE.pack(_hash(id_hash.hex(), n, copy), n, copy, offset, kind, size)

    def _balanced(self, places: Ordered, shares: dict[str, float]) -> Iterator[bytes]:
        """Yield as many of `places` as possible so that every kind has its share: the first of each kind.

        Kinds without a share keep their own proportions in the rest. Of a limit, every kind gets its share, too.
        """
        counts_examples = self._size_of is None
        for kind in shares:
            if kind not in self._kinds:
                raise UsageError(f"--share {kind}: there is no example of this kind")
        numbers = {self._kinds[kind]: share for kind, share in shares.items()}
        rest = 1 - sum(numbers.values())

        def kind_and_size(place: bytes) -> tuple[int, int]:
            *_, kind, size = _PLACE.unpack(place)
            return kind if kind in numbers else -1, 1 if counts_examples else size

        available: Counter[int] = Counter()
        for kind, size in map(kind_and_size, places):
            available[kind] += size
        if len(places) and not available[-1]:
            raise UsageError(f"--share leaves {rest:.0%} for other kinds, of which there is no example")
        numbers[-1] = rest
        whole = min(available[kind] / share for kind, share in numbers.items())
        room = {kind: whole * share + (0.5 if counts_examples else 0) for kind, share in numbers.items()}
        most = {kind: len(places) for kind in numbers}
        if self.settings.limit is not None:
            sizes: dict[int, list[int]] = {kind: [] for kind in numbers}
            for kind, size in map(kind_and_size, places):
                if len(sizes[kind]) < self.settings.limit:
                    sizes[kind].append(size)
            most = _shared_out(self.settings.limit, sizes, numbers, room)
        for place in places:
            kind, size = kind_and_size(place)
            if most[kind] and size <= room[kind] * (1 + 1e-12):
                room[kind] -= size
                most[kind] -= 1
                yield place


def _shared_out(
    limit: int, sizes: dict[int, list[int]], shares: dict[int, float], room: dict[int, float]
) -> dict[int, int]:
    """Return how many examples of each kind are among `limit` of them, so that each kind has its share of the size.

    The next one is always of the kind that is furthest behind its share, in the middle of the example (the method of
    Webster and Sainte-Laguë). So a smaller limit has no more of any kind than a larger one.

    Args:
        sizes: The sizes of the first examples of each kind.
        room: The largest size of each kind.
    """
    taken, used = dict.fromkeys(shares, 0), dict.fromkeys(shares, 0)
    going = set(shares)
    for _ in range(limit):
        for kind in [
            k for k in going if taken[k] == len(sizes[k]) or used[k] + sizes[k][taken[k]] > room[k] * (1 + 1e-12)
        ]:
            going.remove(kind)
        if not going:
            break
        kind = min(going, key=lambda k: ((used[k] + sizes[k][taken[k]] / 2) / shares[k], k))
        used[kind] += sizes[kind][taken[kind]]
        taken[kind] += 1
    return taken


def _measure(settings: MixSettings) -> Callable[[dict], int] | None:
    """Return the function that measures an example for --share; None where examples are counted."""
    unit = settings.share_by
    if settings.tokenizer and (not settings.share or unit == "examples"):
        raise UsageError("--tokenizer is for --share-by tokens or targets")
    if not settings.share or unit == "examples":
        return None
    if not settings.tokenizer:
        raise UsageError(f"--share-by {unit} needs --tokenizer MODEL: tokens are a model's")
    from eexp.models.tokenizers import load_tokenizer
    from eexp.training.data import row_maker

    row_of = row_maker(load_tokenizer(settings.tokenizer))

    def size(example: dict) -> int:
        row = row_of(example)
        return row.n_targets if unit == "targets" else row.n_prompt + row.n_completion

    return size


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
