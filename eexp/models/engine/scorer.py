"""Score given texts in a prefix tree (tree.py), along its trunk.

A text is a prompt with a completion. Texts are sorted by their tokens, so that those with the same beginning follow
each other, and evaluated in **waves** of as many as fit into one batch. Each text of a wave has a sequence, forked from
the trunk where the text **leaves** it; beyond that point, a token that several texts share belongs to all their
sequences. The last text of a wave becomes the trunk, which the next wave leaves. The last token of a text is only
scored: nothing follows it, so it is not evaluated.

For example, the completions "c d", "c e" and "f" of the prompt "a b", with two sequences beside the trunk:

    wave 1   sequence 1   a b c    evaluated once for both; gives the log-probabilities of c after b, d and e after c
             sequence 2   a b c
             trunk        a b c    as sequence 2
    wave 2   trunk        a b      cut back to a; b is evaluated again for its logits, which give that of f
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence

from eexp.errors import EexpError
from eexp.models.base import Sample, Score
from eexp.models.engine.decoder import TOO_SMALL, Full, Item
from eexp.models.engine.distribution import TokenDistribution
from eexp.models.engine.nodes import Vocabulary
from eexp.models.engine.tree import TRUNK, PrefixTree


class ScoredText:
    """A prompt with a completion that is being scored.

    Attributes:
        ids: Tokens of both.
        start: Place of the completion's first token.
        logprobs: Log-probability of each token from `start` on.
    """

    def __init__(self, prompt: Sequence[int], completion: Sequence[int]):
        self.ids, self.start = [*prompt, *completion], len(prompt)
        self.logprobs = [0.0] * len(completion)

    def sample(self, text: str) -> Sample:
        """Return its completion, which is `text`, as a sample with all log-probabilities."""
        tokens = len(self.logprobs) - 1  # without the stop token
        return Sample(text, sum(self.logprobs), tokens, True, self.ids[self.start :], self.logprobs)


class _SharedToken:
    """A token that texts of a wave have in common, after the same tokens in each."""

    def __init__(self, token: int, position: int):
        self.token, self.position = token, position
        self.texts: list[ScoredText] = []

    @property
    def needs_logits(self) -> bool:
        """Whether the token after it is scored in any text."""
        return any(self.position >= text.start - 1 for text in self.texts)

    @property
    def in_prompt(self) -> bool:
        """Whether it belongs to the prompt of any text."""
        return any(self.position < text.start for text in self.texts)

    def score(self, distribution: TokenDistribution) -> None:
        """Record the log-probabilities of the tokens that follow it in its texts."""
        following = self.position + 1
        for text in self.texts:
            if following >= text.start:
                text.logprobs[following - text.start] = distribution.logprob(text.ids[following])


class _Wave:
    """Texts that are scored together."""

    def __init__(self, trunk: int):
        self.last_fork = trunk  # position at which the last text does; that of the trunk's end before the first
        self.forks: list[int] = []  # position at which each text leaves the trunk
        self.texts: list[ScoredText] = []
        self.tokens: list[_SharedToken] = []  # what is to be evaluated of them

    def add(self, text: ScoredText, fork: int) -> None:
        """Add a text that leaves the trunk at position `fork`."""
        self.texts.append(text)
        self.forks.append(fork)
        self.last_fork = fork


class Scorer:
    """Scores the texts of one group.

    Args:
        tree: An empty tree.
        requests: Each with the tokens of its prompt. A prompt with any completion must fit into the decoder's cells.
    """

    def __init__(self, tree: PrefixTree, vocabulary: Vocabulary, requests: Sequence[tuple[list[int], Score]]):
        self.tree, self.decoder = tree, tree.decoder
        self._requests = [request for _, request in requests]
        self._texts = [
            [ScoredText(prompt, ids) for ids in request.ids or map(vocabulary.completion, request.completions)]
            for prompt, request in requests
        ]

    def answer(self) -> list[list[Sample]]:
        """Return the samples of each request. Raises EexpError if the memory is too small for one text."""
        for texts in self._texts:
            self.tree.counts["text[s] scored"] += len(texts)
        self._score(sorted((text for texts in self._texts for text in texts), key=lambda text: text.ids))
        return [
            [scored.sample(text) for text, scored in zip(request.completions, texts)]
            for request, texts in zip(self._requests, self._texts)
        ]

    def _score(self, texts: list[ScoredText]) -> None:
        """Score texts, which are sorted, in waves."""
        waiting = deque(texts)
        most = self.decoder.sequences - 1
        while waiting:
            wave = self._next_wave(waiting, most)
            if self._evaluate_wave(wave):
                most = self.decoder.sequences - 1
                continue
            if most == 1 and not self.tree.trunk:
                raise EexpError(TOO_SMALL)
            if most == 1:
                self.tree.clear()
            waiting.extendleft(reversed(wave.texts))
            most = 1

    def _next_wave(self, waiting: deque[ScoredText], most: int) -> _Wave:
        """Take the texts of the next wave, at most `most`, and cut the trunk back to what the first one needs."""
        trunk = self.tree.trunk
        wave = _Wave(len(trunk))
        path: list[_SharedToken] = []  # of the last text, from the trunk on
        before: Sequence[int] = trunk
        while waiting and len(wave.texts) < most:
            text = waiting[0]
            shared = len(os.path.commonprefix([before, text.ids]))
            fork = min(wave.last_fork, shared, text.start - 1)  # the prompt's last token is evaluated for its logits
            common = path[: max(0, shared - fork)] if wave.texts and fork == wave.last_fork else []
            new = len(text.ids) - 1 - fork - len(common)
            if wave.texts:
                if len(wave.tokens) + new > min(self.decoder.batch, self.decoder.cells - len(trunk)):
                    break
            else:
                self.tree.cut_back(fork)
            path = common + [_SharedToken(text.ids[i], i) for i in range(len(text.ids) - 1 - new, len(text.ids) - 1)]
            for token in path:
                token.texts.append(text)
            wave.tokens += path[len(common) :]
            wave.add(text, fork)
            before = waiting.popleft().ids
        return wave

    def _evaluate_wave(self, wave: _Wave) -> bool:
        """Evaluate a wave and leave its last text in the trunk; return False, with no change, if there is no room."""
        last = wave.texts[-1]
        if len(wave.texts) == 1:
            sequences = {last: TRUNK}
        else:
            sequences = {text: i for i, text in enumerate(wave.texts, TRUNK + 1)}
            for text, fork in zip(wave.texts, wave.forks):
                if fork:
                    self.decoder.fork(TRUNK, sequences[text], fork)
        room = self._evaluate_tokens(wave.tokens, sequences)
        if len(wave.texts) == 1:
            self.decoder.trim(TRUNK, len(last.ids) - 1 if room else len(self.tree.trunk))
        elif room:
            self.decoder.trim(TRUNK, 0)
            self.decoder.fork(sequences[last], TRUNK, len(last.ids) - 1)
        if room:
            self.tree.trunk = list(last.ids[:-1])
        for sequence in sequences.values():
            if sequence != TRUNK:
                self.decoder.trim(sequence, 0)
        return room

    def _evaluate_tokens(self, tokens: list[_SharedToken], sequences: dict[ScoredText, int]) -> bool:
        """Evaluate the tokens of a wave and score the tokens after them; return False if there is no room."""
        start = 0
        while start < len(tokens):
            part, outputs = [], 0
            for token in tokens[start : start + self.decoder.batch]:
                outputs += token.needs_logits
                if outputs > self.decoder.outputs:
                    break
                part.append(token)
            items = [
                Item(token.token, token.position, [sequences[text] for text in token.texts], token.needs_logits)
                for token in part
            ]
            try:
                rows = self.decoder.decode(items)
            except Full:
                return False
            for token, row in zip((token for token in part if token.needs_logits), rows):
                token.score(TokenDistribution(row))
            prompt = sum(token.in_prompt for token in part)
            self.tree.counts["prompt tokens evaluated"] += prompt
            self.tree.counts["text tokens evaluated"] += len(part) - prompt
            start += len(part)
        return True
