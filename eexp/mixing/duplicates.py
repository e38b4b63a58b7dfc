"""Examples that teach the same, or teach the test.

Exact duplicates are found by a digest, near ones by MinHash (datasketch) and a comparison, tasks apart by their names.

Two examples are near duplicates if their prompts and their completions are alike, each for itself. The prompts of a
trajectory's examples all are: each has the history of the one before and a little more. What tells them apart is what
is to be learned, the completion, which is short; a measure over the whole text would not see it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import orjson

from eexp.errors import EexpError
from eexp.evidence.panels import TaskNames
from eexp.jsonl import read

_RUN = 3  # words
_PERMUTATIONS = 128
#: How much a pair that is missed costs, against one that is compared in vain: the comparison is exact.
_WEIGHTS = (0.2, 0.8)  # false positives, false negatives


def digest(example: dict) -> bytes:
    """Return 16 bytes that are the same for examples with the same roles and texts, and for no others."""
    texts = [[(m["role"], m["content"]) for m in example[part]] for part in ("prompt", "completion")]
    return hashlib.blake2b(orjson.dumps(texts), digest_size=16).digest()


def runs_of_words(messages: Iterable[dict]) -> set[str]:
    """Return all runs of three words in messages; the whole text, where it has fewer."""
    words = [word for m in messages for word in (m["role"], *m["content"].split())]
    return {" ".join(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1))}


def similarity(a: dict, b: dict) -> float:
    """Return how alike two examples are, from 0 to 1: the lower of their prompts' and their completions' similarity.

    That is the share of runs of three words that both have, among those that either has (Jaccard's index).
    """
    return min(_shared(runs_of_words(a[part]), runs_of_words(b[part])) for part in ("prompt", "completion"))


def _shared(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


class HeldOut:
    """What is to be kept apart from a set of examples, to be evaluated on: tasks, and the words of examples."""

    def __init__(self) -> None:
        self._tasks, self._texts = TaskNames(), set[bytes]()

    @classmethod
    def of(cls, files: Iterable[str]) -> HeldOut:
        """Return what the records of files are made from, tasks among them, and the words of examples in them."""
        apart = cls()
        for record in (record for file in files for record in read([file], "all")):
            apart._tasks.add(record)
            if record["type"] == "example":
                apart._texts.add(digest(record))
        return apart

    def __contains__(self, record: dict) -> bool:
        return record in self._tasks or bool(
            self._texts and record["type"] == "example" and digest(record) in self._texts
        )


class NearDuplicates:
    """The examples kept so far, to find one that a new one nearly repeats.

    In memory is a signature of each (some 3 KB), no text: `read` gives the example that was added under a key.
    """

    def __init__(self, threshold: float, read: Callable[[Any], dict]) -> None:
        try:
            from datasketch import MinHashLSH
        except ImportError:
            raise EexpError("near duplicates need datasketch; pip install 'eexp[dedup]'") from None
        self.threshold, self._read = threshold, read
        # Where both parts are alike, so are their runs of words together; so the index is over these.
        self._index = MinHashLSH(threshold=min(threshold, 0.99), num_perm=_PERMUTATIONS, weights=_WEIGHTS)

    def repeated(self, example: dict) -> Hashable | None:
        """Return the key of an example kept that `example` nearly repeats, or None."""
        candidates = sorted(self._index.query(_signature(example)))
        return next((key for key in candidates if similarity(example, self._read(key)) >= self.threshold), None)

    def keep(self, key: Hashable, example: dict) -> None:
        """Add an example that is kept."""
        self._index.insert(key, _signature(example), check_duplication=False)


def _signature(example: dict) -> Any:
    from datasketch import MinHash

    signature = MinHash(num_perm=_PERMUTATIONS)
    signature.update_batch(
        [
            f"{part} {run}".encode("utf-8", "surrogatepass")
            for part in ("prompt", "completion")
            for run in runs_of_words(example[part])
        ]
    )
    return signature
