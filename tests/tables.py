"""A language model that is a table: its logits follow from the tokens before and a seed, without rounding. Its memory
raises an error at every breach of the protocol of eexp.models.engine.decoder.Decoder."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from eexp.models.base import Draw, Sample, Score
from eexp.models.engine.decoder import Full, Item, Marks
from eexp.models.engine.distribution import TokenDistribution
from eexp.models.engine.sampling import open_search
from eexp.records.record import seed_of

LETTERS = ".abcdefg"  # the first ends a text


class Letters:
    """A nodes.Vocabulary: a token is a letter."""

    def is_end(self, token: int) -> bool:
        return token == 0

    def text(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i] for i in ids)

    def completion(self, text: str) -> list[int]:
        return [LETTERS.index(c) for c in text] + [0]


class Table:
    """Logits after any tokens, normally distributed with standard deviation `spread`."""

    def __init__(self, seed: int = 0, letters: int = len(LETTERS), spread: float = 1.5):
        self.seed, self.letters, self.spread = seed, letters, spread
        self._known: dict[tuple[int, ...], np.ndarray] = {}

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        tokens = tuple(tokens)
        if tokens not in self._known:
            noise = np.random.default_rng(seed_of(self.seed, *tokens)).normal(size=self.letters)
            self._known[tokens] = (self.spread * noise).astype(np.float32)
        return self._known[tokens]

    def texts(
        self, prompt: Sequence[int], max_tokens: int, temperature: float = 1.0, top_p: float = 1.0
    ) -> dict[tuple[str, bool], float]:
        """Return the probability of every (text, whether it ended) after `prompt`."""
        probabilities_of_texts = {}

        def go(tokens: list[int], logprob: float) -> None:
            logits = self.logits([*prompt, *tokens]).astype(float) / temperature
            probabilities = np.exp(logits) / np.exp(logits).sum()
            order = np.argsort(-probabilities)
            before = np.cumsum(probabilities[order]) - probabilities[order]
            nucleus = sorted(order[before < top_p])
            for token in nucleus:
                following = np.log(probabilities[token] / probabilities[nucleus].sum())
                if token == 0 or len(tokens) + 1 == max_tokens:
                    text = Letters().text(tokens if token == 0 else [*tokens, token])
                    probabilities_of_texts[text, token == 0] = float(np.exp(logprob + following))
                else:
                    go([*tokens, token], logprob + following)

        go([], 0.0)
        return probabilities_of_texts

    def answer(self, prompt: Sequence[int], request: Draw | Score) -> list[Sample]:
        """Return the answer to a request by evaluating one node at a time, without a memory."""
        if isinstance(request, Score):
            return [self._scored(prompt, text) for text in request.completions]
        search = open_search(request, Letters())
        while not search.done:
            node = search.frontier()[0]
            search.tell(node, self.logits([*prompt, *(n.token for n in node.path())]))
        return search.accepted

    def _scored(self, prompt: Sequence[int], text: str) -> Sample:
        ids = Letters().completion(text)
        steps = [TokenDistribution(self.logits([*prompt, *ids[:i]])).logprob(token) for i, token in enumerate(ids)]
        return Sample(text, sum(steps), len(text), ids=ids, logprobs=steps)


class TableDecoder:
    """A decoder.Decoder over a table with any amount of room, which raises an error at every breach of the protocol.

    moody: the probability that it says it is full although it is not, where it holds anything besides the text that
    comes first in the batch.
    """

    cuts = True

    def __init__(
        self,
        table: Table,
        sequences: int,
        cells: int,
        batch: int,
        outputs: int,
        moody: float = 0.0,
        step: int | None = None,
    ):
        self.table, self.sequences, self.cells, self.batch, self.outputs = table, sequences, cells, batch, outputs
        self.step = step or batch
        self.moody, self._random = moody, random.Random(table.seed)
        self.evaluated = 0
        self._rows: list[np.ndarray] = []
        self.clear()

    def clear(self) -> None:
        self.held: list[list[tuple[int, int]]] = [[] for _ in range(self.sequences)]  # (token, cell) by position
        self._next_cell = 0

    def close(self) -> None:
        pass

    def used(self) -> int:
        return len({cell for cells in self.held for _, cell in cells})

    def decode(self, items: Sequence[Item]) -> list[np.ndarray]:
        assert 0 < len(items) <= self.batch
        assert sum(item.needs_logits for item in items) <= self.outputs
        first = items[0].sequences[0]
        others = any(cells for sequence, cells in enumerate(self.held) if sequence != first)
        if self.used() + len(items) > self.cells or (others and self._random.random() < self.moody):
            raise Full
        for row in self._rows:
            row[:] = np.nan  # the caller must have read them by now
        self._rows = []
        for token, position, sequences, needs_logits in items:
            assert sequences and len(set(sequences)) == len(sequences)
            before = [[t for t, _ in self.held[s]] for s in sequences]
            assert all(len(b) == position for b in before), "positions follow each other"
            assert all(b == before[0] for b in before), "sequences share a token after the same tokens only"
            for s in sequences:
                self.held[s].append((token, self._next_cell))
            self._next_cell += 1
            if needs_logits:
                self._rows.append(self.table.logits([*before[0], token]).copy())
        self.evaluated += len(items)
        return list(self._rows)

    def fork(self, source: int, target: int, end: int) -> None:
        assert not self.held[target] and 0 < end <= len(self.held[source])
        self.held[target] = self.held[source][:end]

    def trim(self, sequence: int, start: int) -> None:
        del self.held[sequence][start:]

    def mark(self, sequence: int) -> None:
        pass

    def reach(self, sequence: int, most: int) -> int:
        return most


class StateTableDecoder(TableDecoder):
    """A table whose sequences have a state, which can be copied and cannot be cut."""

    cuts = False

    def clear(self) -> None:
        super().clear()
        self.marks: Marks[list[tuple[int, int]]] = Marks()

    def decode(self, items: Sequence[Item]) -> list[np.ndarray]:
        assert all(len(item.sequences) == 1 for item in items)
        return super().decode(items)

    def fork(self, source: int, target: int, end: int) -> None:
        assert end == len(self.held[source])
        super().fork(source, target, end)

    def trim(self, sequence: int, start: int) -> None:
        assert start == self.reach(sequence, start)
        if start < len(self.held[sequence]):
            self.held[sequence] = list(self.marks.cut(sequence, start) or [])

    def mark(self, sequence: int) -> None:
        self.marks.add(sequence, len(self.held[sequence]), list(self.held[sequence]))

    def reach(self, sequence: int, most: int) -> int:
        return self.marks.reach(sequence, len(self.held[sequence]), most)
