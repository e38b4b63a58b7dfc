"""Find duplicates among training examples, and examples made of held-out tasks.

Exact duplicates are found by a digest, near duplicates by MinHash (datasketch) and a comparison, held-out tasks by
their names.

Two examples are near duplicates if both their prompts and their completions are similar. All prompts of a trajectory's
examples are similar: each has the history of the one before and a little more. They differ in the completion, which is
to be learned but short, so that a measure over the whole text would miss the difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, cast

import orjson

from eexp.envs.task_names import TaskNames
from eexp.errors import EexpError
from eexp.prompts.tool_calls import text_of_message
from eexp.records.jsonl import read
from eexp.records.types import TYPES

_RUN = 3  # words
_PERMUTATIONS = 128
#: The costs of a pair that is compared in vain and of one that is missed; the comparison itself is exact.
_WEIGHTS = (0.2, 0.8)  # false positives, false negatives
ExamplePlace = tuple[int, int]  # where an example is: the number of its file, and its offset there


def digest(example: dict) -> bytes:
    """Return 16 bytes that are the same for examples with the same roles, texts and calls, and for no others.

    Functions that are offered do not count, since they are the same all through a trajectory.
    """
    texts = [[(m["role"], m["content"], *_calls(m)) for m in example[part]] for part in ("prompt", "completion")]
    return hashlib.blake2b(orjson.dumps(texts), digest_size=16).digest()


def _calls(message: dict) -> list[dict]:
    """Return the functions that a message calls, with their arguments."""
    return [call["function"] for call in message.get("tool_calls") or ()]


def runs_of_words(messages: Iterable[dict]) -> set[str]:
    """Return all runs of three words in messages; the whole text, where it has fewer."""
    words = [word for m in messages for word in (m["role"], *text_of_message(m).split())]
    return {" ".join(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1))}


def similarity(a: dict, b: dict) -> float:
    """Return the similarity of two examples, from 0 to 1: the lower one of their prompts and of their completions.

    Similarity is the share of the runs of three words that both have, among those that either has (Jaccard's index).
    """
    return min(_shared(runs_of_words(a[part]), runs_of_words(b[part])) for part in ("prompt", "completion"))


def _shared(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


class HeldOut:
    """Tasks, and texts of examples, that are held out for evaluation; `record in held_out` tells whether one is.

    Args:
        files: What is held out: the tasks and trajectories that their records are made from, and the texts of their
            examples.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self._tasks, self._texts = TaskNames(), set[bytes]()
        for record in (record for file in files for record in read([file], *TYPES)):
            self._tasks.add(record)
            if record["type"] == "example":
                self._texts.add(digest(record))

    def __contains__(self, record: dict) -> bool:
        return record in self._tasks or bool(
            self._texts and record["type"] == "example" and digest(record) in self._texts
        )


class NearDuplicates:
    """An index of the examples kept so far, in which a near duplicate of a new one is found.

    Memory holds a signature of each example (some 3 KB), no text.

    Args:
        threshold: The similarity from which on examples are near duplicates.
        read: A function that returns the example at a place.

    Raises:
        EexpError: datasketch is not installed.
    """

    def __init__(self, threshold: float, read: Callable[[ExamplePlace], dict]) -> None:
        try:
            from datasketch import MinHashLSH
        except ImportError:
            raise EexpError("near duplicates need datasketch: `pip install 'eexp[dedup]'`") from None
        self.threshold, self._read = threshold, read
        # Where both parts are similar, so are the runs of words of both together, which the index is built on.
        self._index = MinHashLSH(threshold=min(threshold, 0.99), num_perm=_PERMUTATIONS, weights=_WEIGHTS)

    def repeated(self, example: dict) -> ExamplePlace | None:
        """Return the place of an example in the index of which `example` is a near duplicate, or None."""
        # datasketch calls its keys Hashable, whichever they are; those of this index are the places given to `keep`.
        candidates = sorted(cast(list[ExamplePlace], self._index.query(_signature(example))))
        return next((place for place in candidates if similarity(example, self._read(place)) >= self.threshold), None)

    def keep(self, place: ExamplePlace, example: dict) -> None:
        """Add an example to the index."""
        self._index.insert(place, _signature(example), check_duplication=False)


def _signature(example: dict) -> Any:
    """Return the MinHash of an example's runs of words, told apart by prompt and completion."""
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
