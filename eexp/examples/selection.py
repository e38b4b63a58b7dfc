"""Orders in which records are worth having: those first that differ most, are hardest for a model, or are longest."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from scipy import sparse

from eexp.errors import InputError
from eexp.examples.settings import SelectSettings
from eexp.prompts.tool_calls import text_of_message
from eexp.records.callbacks import OnError, stop_at_error
from eexp.records.record import seed_of

_WORD = re.compile(r"\w+")


def select(
    records: Iterable[dict],
    settings: SelectSettings | None = None,
    *,
    influence: Callable[[dict], float] | None = None,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield records, the most useful ones first; all are read before the first is yielded.

    Fewer records of the same input are a part of more.

    Args:
        records: Trajectories or examples.
        influence: Returns the influence of an example (`training.influence.influence_on`), where that decides.
        on_error: Called with an example that has no scores, or nothing to learn from, where these decide.
    """
    settings = settings or SelectSettings()
    key_of = influence if settings.by == "influence" else loss_of if settings.by == "loss" else length_of
    assert key_of is not None
    held, keys = [], []
    for record in records:
        try:
            keys.append(key_of(record))
        except InputError as e:
            on_error(record, e)
        else:
            held.append(record)
    if settings.by == "coverage":
        order = by_coverage(held)
    elif settings.by == "random":
        order = iter(in_random_order(held, settings.seed))
    else:
        sign = 1 if settings.reverse else -1
        order = iter(sorted(range(len(held)), key=lambda i: sign * keys[i]))
    yield from (held[i] for i in islice(order, settings.number))


def text_of(record: dict) -> str:
    """Return what a record is about: of a trajectory its task, observations and actions, of an example its end."""
    if record["type"] == "trajectory":
        steps = [text for step in record["steps"] for text in (step["observation"], step["action"])]
        return "\n".join([record["instruction"], *steps])
    return "\n".join(text_of_message(m) for m in (record["prompt"][-1], *record["completion"]))


def length_of(record: dict) -> int:
    """Return the number of actions of a trajectory, or of characters of an example's completion."""
    if record["type"] == "trajectory":
        return len(record["steps"])
    return sum(len(text_of_message(message)) for message in record["completion"])


def loss_of(record: dict) -> float:
    """Return the loss of an example for each of its tokens, as `eexp score` wrote it.

    Raises:
        InputError: It was not scored.
    """
    scores = record.get("scores")
    if not scores:
        raise InputError("no scores; `eexp score -m MODEL` writes them", "$.scores")
    tokens = sum(score["tokens"] for score in scores)
    return -sum(score["logprob"] for score in scores) / tokens if tokens else 0.0


def in_random_order(records: Sequence[dict], seed: int) -> list[int]:
    """Return the numbers of records in an order that depends on each record's id and the seed alone."""
    keys = [random.Random(seed_of(seed, record["id"], "select")).random() for record in records]
    return sorted(range(len(records)), key=keys.__getitem__)


def by_coverage(records: Sequence[dict]) -> Iterator[int]:
    """Yield the numbers of records so that those yielded so far leave none far away (the greedy k-centre).

    The distance of two records is one minus the cosine of their words, each weighted by its rarity (TF-IDF).
    The first one is nearest to all; each further one is the farthest from those before it (Gonzalez 1985), so the
    largest distance that is left is at most twice the smallest possible. A repeated record comes after all that differ.

    Args:
        records: The records; of equally distant ones, the first is taken.
    """
    if not records:
        return
    vectors = _word_vectors([text_of(record) for record in records])
    centre = np.asarray(vectors.mean(axis=0)).ravel()
    following = int(np.argmax(vectors @ centre))
    nearest = np.full(len(records), -1.0)  # cosine to the nearest of those that were yielded; inf once it is one
    for _ in records:
        yield following
        cosines = np.asarray((vectors @ vectors[following].T).todense()).ravel()
        nearest = np.maximum(nearest, np.round(cosines, 9))  # rounding must not decide between equals
        nearest[following] = math.inf
        following = int(np.argmin(nearest))


def _word_vectors(texts: Sequence[str]) -> sparse.csr_matrix:
    """Return one row of length 1 for each text, [texts, words]: counts of words by the rarity of the word."""
    counts = [Counter(word.casefold() for word in _WORD.findall(text)) for text in texts]
    columns = {word: n for n, word in enumerate(dict.fromkeys(word for count in counts for word in count))}
    frequency = Counter(word for count in counts for word in count)
    rarity = np.array([math.log((1 + len(texts)) / (1 + frequency[word])) + 1 for word in columns])
    indices = [columns[word] for count in counts for word in count]
    pointers = np.cumsum([0, *map(len, counts)])
    values = np.array([number for count in counts for number in count.values()], dtype=float)
    matrix = sparse.csr_matrix((values * rarity[indices], indices, pointers), shape=(len(texts), len(columns)))
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(1 / np.maximum(lengths, 1e-12)) @ matrix)
