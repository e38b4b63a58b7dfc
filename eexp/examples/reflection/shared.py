"""Count the sentences that many reflections share: what is said in every state says nothing."""

from __future__ import annotations

import re
from collections import Counter

MANY = 0.2  # the share of reflections with one sentence in common from which on a person should look
_CONTENDER = re.compile(r"^(I could ).*?(, but )")
_FEWEST = 10  # reflections from which a share can be told


class SharedSentences:
    """How many reflections have each sentence. The last one of a reflection, which names its action, does not count.

    In "I could ACTION, but ..." any action is the same sentence.
    """

    def __init__(self) -> None:
        self.reflections = 0  # how many there were
        self._counts: Counter[str] = Counter()

    def add(self, thought: str) -> None:
        """Count the sentences of one reflection, each of them once."""
        self.reflections += 1
        sentences = re.split(r"(?<=[.!?])\s+", thought.strip())[:-1]
        self._counts.update({_CONTENDER.sub(r"\1...\2", sentence) for sentence in sentences})

    @property
    def most(self) -> int:
        """The number of reflections that have the most frequent sentence; 0 where no sentence is in two of them."""
        count = max(self._counts.values(), default=0)
        return count if count > 1 else 0

    def warning(self) -> str:
        """Return the warning that many reflections share a sentence; "" if they do not."""
        (sentence, count), *_ = self._counts.most_common(1) or [("", 0)]
        if self.reflections < _FEWEST or count <= MANY * self.reflections:
            return ""
        return f"{count} of {self.reflections} reflections say {sentence!r}: read some (eexp show --sample)"
