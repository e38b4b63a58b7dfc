"""The search engine of the built-in shop: BM25 over the words of products."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable

K1, B = 0.9, 0.4  # how soon repetitions stop to count, and how much long texts are held back
COMMON = 0.25  # words of a larger share of the texts are left out, as they say little
_WORD = re.compile(r"[^\W_]+")


class SearchIndex:
    """Texts and their words, for searches by Okapi BM25 (Robertson and Zaragoza 2009)."""

    def __init__(self, texts: Iterable[str]) -> None:
        counts = [Counter(words_of(text)) for text in texts]
        lengths = [count.total() for count in counts]
        mean = sum(lengths) / max(1, len(lengths))
        holding = Counter(word for count in counts for word in count)
        self._weights: dict[str, dict[int, float]] = {}  # by word and number of the text
        for number, (count, length) in enumerate(zip(counts, lengths)):
            for word, times in count.items():
                if holding[word] > COMMON * len(counts):
                    continue
                rarity = math.log(1 + (len(counts) - holding[word] + 0.5) / (holding[word] + 0.5))
                weight = rarity * times * (K1 + 1) / (times + K1 * (1 - B + B * length / mean))
                self._weights.setdefault(word, {})[number] = weight

    def search(self, query: str, most: int | None = None, among: Collection[int] | None = None) -> list[int]:
        """Return the numbers of the texts with words of a query, the best first, of equals the first.

        Args:
            query: The words.
            most: How many texts are returned at most.
            among: The only texts that are looked at.
        """
        scores: dict[int, float] = {}
        for word in dict.fromkeys(words_of(query)):
            weights = self._weights.get(word, {})
            for number in weights if among is None else among:
                if weight := weights.get(number):
                    scores[number] = scores.get(number, 0.0) + weight
        # Rounded, so that libraries which compute logarithms otherwise give the same order.
        return [number for _, number in sorted((-round(score, 6), number) for number, score in scores.items())][:most]


def words_of(text: str) -> list[str]:
    """Return the words of a text in the form in which they are searched: without case and plural."""
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in _WORD.findall(text.lower())]
