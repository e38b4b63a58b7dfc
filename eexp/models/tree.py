"""Answer a group of requests in one memory of keys and values, evaluating every shared token once.

The prompts of a group follow each other in one sequence, the trunk: the tokens that a prompt shares with the one before
are in it already, and several prompts of which each begins the next are one run of tokens. At the end of each prompt,
the texts of its request are written as chains that branch off the trunk and off each other without copying. All chains
of all requests advance together, one batch a step. When a request is done, the next one takes its room.

The schedule follows from the requests and the draws alone, never from time, and each group begins with an empty memory.
So a group's answers are the same bytes, whatever was answered before it.

When the memory is full, the chains of the latest requests are evicted, and evaluated again later from their tokens,
which costs time and changes nothing (but rounding).
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from eexp.errors import EexpError
from eexp.models.base import Draw, Sample, Score
from eexp.models.drawing import Logits, Node, Search, TokenDistribution, Vocabulary, open_search


class Item(NamedTuple):
    """A token to evaluate: its position, the sequences it belongs to, and whether its logits are needed."""

    token: int
    position: int
    sequences: Sequence[int]
    needs_logits: bool


class Full(Exception):
    """Error raised when there is no room for a batch; nothing has been evaluated."""


class Decoder(Protocol):
    """A model's memory, and the evaluation of tokens in it.

    Attributes:
        sequences: Number of sequences, which are numbered from 0.
        cells: Number of tokens that fit in; a token that several sequences share counts once.
        batch: Maximum number of items evaluated at once.
        outputs: Maximum number of items of a batch whose logits are returned.
        step: Number of texts that are written side by side most efficiently.
        cuts: Whether a sequence can be cut at any of its tokens. If not, because layers hold a state of all tokens so
            far (`states.py`), a sequence is forked at its end alone, is trimmed to nothing or to a mark, and shares
            tokens with no other in a batch.
    """

    sequences: int
    cells: int
    batch: int
    outputs: int
    step: int
    cuts: bool

    def decode(self, items: Sequence[Item]) -> list[Logits]:
        """Evaluate items, which come in ascending position within each sequence.

        Returns:
            Float32 logits [vocabulary] of each item that is `needs_logits`, in order; read them before the next call.

        Raises:
            Full: There is no room for the items.
        """
        ...

    def fork(self, source: int, target: int, end: int) -> None:
        """Let `target`, which is empty, share the first `end` tokens of `source`."""

    def trim(self, sequence: int, start: int) -> None:
        """Forget the tokens of a sequence from position `start` on, which is one that `reach` returns."""

    def mark(self, sequence: int) -> None:
        """Keep the state at the end of a sequence, so that it can be trimmed to it; nothing to do where it `cuts`."""

    def reach(self, sequence: int, most: int) -> int:
        """Return the largest number of tokens, at most `most`, to which a sequence can be trimmed."""
        ...

    def clear(self) -> None:
        """Forget everything."""

    def close(self) -> None:
        """Free the memory."""


TRUNK = 0
TOO_SMALL = "the model's memory is too small for one text: give a larger --context"


@dataclass(eq=False)
class Chain:
    """A sequence with a prompt and the evaluated nodes of a text."""

    sequence: int
    nodes: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class TreeJob:
    """A request that is being answered."""

    index: int
    prompt: list[int]
    request: Draw | Score
    search: Search | None = None
    chains: list[Chain] = field(default_factory=list)
    answer: list[Sample] = field(default_factory=list)
    scored: list[ScoredText] = field(default_factory=list)
    aside: int = 0  # cells of the prompt that the trunk no longer holds
    evictions: int = 0  # number of times that it lost all its chains
    open_nodes: list[Node] | None = None  # of its search, since the latest step; None before the first one

    def holding(self, depth: int, node: Node | None) -> Chain | None:
        """Return a chain with `node`, the last of a path of `depth`; if possible, one that ends there."""
        longer = None
        for chain in self.chains:
            if not depth or (len(chain.nodes) >= depth and chain.nodes[depth - 1] is node):
                if len(chain.nodes) == depth:
                    return chain
                longer = longer or chain
        return longer


class PlannedNode(NamedTuple):
    """The tokens that a step evaluates for `node`: the next `nodes` of its path, which `chain` goes on with."""

    job: TreeJob
    chain: Chain
    node: Node
    nodes: list[Node]
    items: list[Item]


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
    """Texts that are scored together.

    Attributes:
        forks: Position at which each text leaves the trunk.
        last_fork: Position at which the last text does.
    """

    def __init__(self, trunk: int):
        self.last_fork = trunk
        self.forks: list[int] = []
        self.texts: list[ScoredText] = []
        self.tokens: list[_SharedToken] = []

    def add(self, text: ScoredText, fork: int) -> None:
        """Add a text that leaves the trunk at position `fork`."""
        self.texts.append(text)
        self.forks.append(fork)
        self.last_fork = fork


class PrefixTree:
    """Answers groups of requests, one group at a time, on a decoder.

    Args:
        counts: Receives the cost of the answers (see `Model.counts`).
    """

    def __init__(self, decoder: Decoder, vocabulary: Vocabulary, counts: Counter[str]):
        self.decoder, self.vocabulary, self.counts = decoder, vocabulary, counts

    def answer(self, requests: Sequence[tuple[list[int], Draw | Score]]) -> list[list[Sample]]:
        """Answer requests.

        Args:
            requests: Each with the tokens of its prompt. A prompt with the longest text that its request allows must
                fit into the decoder's cells.
        """
        jobs = [TreeJob(i, prompt, request) for i, (prompt, request) in enumerate(requests)]
        self._score([job for job in jobs if isinstance(job.request, Score)])
        self._clear()
        waiting, live = deque(job for job in jobs if isinstance(job.request, Draw)), []
        self._free = list(range(self.decoder.sequences - 1, TRUNK, -1))  # taken from the end: the smallest first
        self._ended = [0, 0]  # texts that came to their end, and their tokens
        while waiting or live:
            if waiting and self._has_room(waiting[0], live):
                self._admit(waiting, live)
            elif live:
                self._step(live, waiting)
            for job in [job for job in live if job.search and job.search.done]:
                self._finish(job, live)
        return [job.answer for job in jobs]

    def _clear(self) -> None:
        self.decoder.clear()
        self._trunk: list[int] = []

    # -- admitting requests --------------------------------------------------------------------------------------

    def _has_room(self, job: TreeJob, live: list[TreeJob]) -> bool:
        """Return whether a request can be admitted without evicting another one, by an estimate."""
        if not live:
            return True
        if job.evictions > 1:  # or requests that need more than expected would evict each other forever
            return False
        chains = sum(max(self._width(j), len(j.chains)) for j in live) + self._width(job)
        if chains > self.decoder.sequences - 1:
            return False
        if sum(map(self._open_texts, live)) + self._texts(job) > self.decoder.step:
            return False
        grows = len(job.prompt) - self._shared(job.prompt)
        texts = sum(self._width(j) * self._expected_tokens(j) for j in [*live, job])
        aside = sum(j.aside for j in live)
        return len(self._trunk) + grows + aside + texts <= self.decoder.cells

    def _width(self, job: TreeJob) -> int:
        """Return the approximate number of chains that a request keeps at a time."""
        return self._texts(job) + (2 if isinstance(job.request, Draw) and job.request.distinct else 0)

    def _texts(self, job: TreeJob) -> int:
        """Return the number of texts that a request writes side by side at its beginning."""
        request = job.request
        assert isinstance(request, Draw)
        return 1 if request.temperature == 0 else request.n

    def _open_texts(self, job: TreeJob) -> int:
        """Return the number of texts that a request is writing now, which falls towards its end."""
        return len(job.search.frontier()) if job.search and job.chains else self._texts(job)

    def _expected_tokens(self, job: TreeJob) -> int:
        """Return the expected tokens of a text: 1.5 times those of finished texts; the limit until one has finished."""
        texts, tokens = self._ended
        assert isinstance(job.request, Draw)
        most = job.request.max_tokens
        longest = max((len(chain.nodes) for chain in job.chains), default=0)
        return min(most, max(longest, tokens * 3 // (2 * texts)) + 1) if texts else most

    def _shared(self, prompt: list[int]) -> int:
        return len(os.path.commonprefix([prompt, self._trunk]))

    def _admit(self, waiting: deque[TreeJob], live: list[TreeJob]) -> None:
        """Extend the trunk by the next prompts and begin their requests.

        As many prompts as have room and continue each other are evaluated as one run of tokens.
        """
        run = [waiting.popleft()]
        self._rewind(run[0], live)
        live.append(run[0])
        while waiting and self._continues(run[-1], waiting[0]) and self._has_room(waiting[0], live):
            run.append(waiting.popleft())
            live.append(run[-1])
        self._extend(run, live, waiting)

    def _continues(self, job: TreeJob, after: TreeJob) -> bool:
        return len(after.prompt) > len(job.prompt) and after.prompt[: len(job.prompt)] == job.prompt

    def _rewind(self, job: TreeJob, live: list[TreeJob]) -> None:
        """Cut the trunk back to the tokens it shares with a prompt, less the last one if its logits are needed."""
        keep = self._shared(job.prompt)
        if not (job.search and job.search.frontier()[0].depth):
            keep = min(keep, len(job.prompt) - 1)
        keep = self.decoder.reach(TRUNK, keep)
        if keep == len(self._trunk):
            return
        holders = [j for j in live if j.chains and len(j.prompt) > keep]
        if holders:
            longest = max(holders, key=lambda j: len(j.prompt))
            longest.aside = max(longest.aside, len(longest.prompt) - keep)
        self.decoder.trim(TRUNK, keep)
        del self._trunk[keep:]

    def _extend(self, run: list[TreeJob], live: list[TreeJob], waiting: Sequence[TreeJob]) -> None:
        """Evaluate the trunk up to the end of the last prompt, and begin each request where its prompt ends.

        Args:
            waiting: The requests that follow, in order.
        """
        whole = run[-1].prompt
        ends = {len(job.prompt): job for job in run}
        start = len(self._trunk)
        for job in run:  # one that was evicted, and has the logits at the end of its prompt
            if len(job.prompt) <= start:
                self._anchor(job)
        while start < len(whole):
            part = whole[start : start + self.decoder.batch]
            reached = [p for p in range(start + 1, start + len(part) + 1) if p in ends]
            items = [Item(token, start + i, (TRUNK,), start + i + 1 in ends) for i, token in enumerate(part)]
            if len(reached) > self.decoder.outputs:
                reached = reached[: self.decoder.outputs]
                items = items[: reached[-1] - start]
            rows = self._decode(items, live)
            start += len(items)
            self._trunk += [item.token for item in items]
            self.counts["prompt tokens evaluated"] += len(items)
            for end, row in zip(reached, rows):
                self._begin(ends[end], row)

    def _begin(self, job: TreeJob, row: Logits) -> None:
        if job.search is None:
            assert isinstance(job.request, Draw)
            job.search = open_search(job.request, self.vocabulary)
        root = job.search.frontier()
        if root and root[0].depth == 0:
            job.search.tell(root[0], row)
        if not job.search.done:
            self._anchor(job)

    def _anchor(self, job: TreeJob) -> Chain:
        """Return a new chain at the end of the job's prompt, which the trunk holds."""
        chain = Chain(self._free.pop())
        self.decoder.fork(TRUNK, chain.sequence, len(job.prompt))
        job.chains.append(chain)
        return chain

    def _finish(self, job: TreeJob, live: list[TreeJob]) -> None:
        assert job.search
        job.answer = job.search.accepted
        self.counts["text[s] written"] += job.search.judged
        self.counts["draw[s] to which --min-p was not applied: the most probable text was not found"] += (
            job.search.without_floor
        )
        self._ended[0] += len(job.answer)
        self._ended[1] += sum(sample.tokens for sample in job.answer)
        for chain in list(job.chains):
            self._drop(job, chain)
        live.remove(job)

    # -- writing -------------------------------------------------------------------------------------------------

    def _step(self, live: list[TreeJob], waiting: deque[TreeJob]) -> None:
        """Evaluate the nodes that all requests need now, in one batch."""
        for job in [job for job in reversed(live) if not job.chains]:  # evicted: admitted again when there is room
            live.remove(job)
            waiting.appendleft(job)
            job.evictions += 1
        plan = self._plan(live)
        rows = iter(self._evaluate(plan, live))
        for planned in plan:
            if planned.items[-1].needs_logits:
                row, search = next(rows), planned.job.search
                assert search
                if not search.done:
                    search.tell(planned.node, row)
        for job in {planned.job.index: planned.job for planned in plan}.values():
            self._drop_unneeded(job)

    def _plan(self, live: list[TreeJob]) -> list[PlannedNode]:
        plan: list[PlannedNode] = []
        room = self.decoder.batch
        for job in live:
            assert job.search
            for node in job.search.frontier() if job.chains else []:
                if room == 0 or len(plan) == self.decoder.outputs:
                    return plan
                if planned := self._place(job, node, room, live, plan):
                    plan.append(planned)
                    room -= len(planned.items)
        return plan

    def _place(
        self, job: TreeJob, node: Node, room: int, live: list[TreeJob], plan: list[PlannedNode]
    ) -> PlannedNode | None:
        """Return the tokens to evaluate next for `node`; None if it must wait."""
        path = node.path()
        depth = len(path) - 1
        while (source := job.holding(depth, path[depth - 1])) is None and depth:
            depth -= 1  # evicted: evaluated again from the tokens
        if source is None or any(path[depth] in planned.nodes for planned in plan):
            return None  # the second case: the evicted nodes are being evaluated for another node
        busy = [planned.chain for planned in plan]
        if len(source.nodes) != depth or source in busy:
            if not self._free and not self._evict(live, [*busy, source], job):
                return None
            source = self._fork(job, source, depth)
        nodes = path[depth : depth + room]
        items = [Item(n.token, len(job.prompt) + n.depth - 1, (source.sequence,), n is node) for n in nodes]
        return PlannedNode(job, source, node, nodes, items)

    def _fork(self, job: TreeJob, source: Chain, depth: int) -> Chain:
        chain = Chain(self._free.pop(), source.nodes[:depth])
        self.decoder.fork(source.sequence, chain.sequence, len(job.prompt) + depth)
        job.chains.append(chain)
        return chain

    def _evaluate(self, plan: list[PlannedNode], live: list[TreeJob]) -> list[Logits]:
        """Return the logits for a plan, after removing entries from its end that do not fit in."""
        while plan:
            items = [item for planned in plan for item in planned.items]
            try:
                rows = self._decode(items, live, [planned.chain for planned in plan])
                self.counts["text tokens evaluated"] += len(items)
                for planned in plan:
                    planned.chain.nodes += planned.nodes
                return rows
            except Full:
                if len(plan) > 1:
                    plan.pop()
                elif self._trunk:  # the chain holds the part that is still in use
                    self.decoder.trim(TRUNK, 0)
                    self._trunk.clear()
                else:
                    raise EexpError(TOO_SMALL) from None
        return []

    def _decode(self, items: list[Item], live: list[TreeJob], busy: Sequence[Chain] = ()) -> list[Logits]:
        """Evaluate items; while there is no room, evict the latest chains."""
        while True:
            try:
                return self.decoder.decode(items)
            except Full:
                if not self._evict(live, busy):
                    raise

    def _evict(self, live: list[TreeJob], busy: Sequence[Chain], but: TreeJob | None = None) -> bool:
        """Evict one chain that is not busy: the last of the last request, and never the only one of `but`."""
        for job in reversed(live):
            for chain in reversed(job.chains):
                if chain not in busy and not (job is but and len(job.chains) == 1):
                    self._drop(job, chain)
                    self.counts["text[s] evaluated again, for want of memory"] += 1
                    return True
        return False

    def _drop(self, job: TreeJob, chain: Chain) -> None:
        self.decoder.trim(chain.sequence, 0)
        self._free.append(chain.sequence)
        job.chains.remove(chain)
        if not job.chains:
            job.aside = 0

    def _drop_unneeded(self, job: TreeJob) -> None:
        """Drop chains that no text continues; the last one is kept as far as the prompt."""
        assert job.search
        for chain in list(job.chains):
            if chain.nodes and not job.search.needs(chain.nodes[-1]):
                if len(job.chains) > 1:
                    self._drop(job, chain)
                else:
                    self.decoder.trim(chain.sequence, len(job.prompt))
                    chain.nodes.clear()

    # -- scoring -------------------------------------------------------------------------------------------------

    def _score(self, jobs: list[TreeJob]) -> None:
        """Score completions: with their prompts, they form one trie of tokens, which is evaluated branch by branch."""
        for job in jobs:
            assert isinstance(job.request, Score)
            ids = job.request.ids or map(self.vocabulary.completion, job.request.completions)
            job.scored = [ScoredText(job.prompt, completion) for completion in ids]
            self.counts["text[s] scored"] += len(job.scored)
        self._clear()
        self._score_texts(sorted((text for job in jobs for text in job.scored), key=lambda text: text.ids))
        for job in jobs:
            assert isinstance(job.request, Score)
            job.answer = [
                Sample(
                    text,
                    sum(scored.logprobs),
                    len(scored.logprobs) - 1,
                    True,
                    scored.ids[scored.start :],
                    scored.logprobs,
                )
                for text, scored in zip(job.request.completions, job.scored)
            ]

    def _score_texts(self, texts: list[ScoredText]) -> None:
        """Score texts, which are in order, in waves.

        A wave is as many texts as fit into one batch. The trunk holds the last text of the wave before, and so the
        tokens that the next texts share with it.
        """
        waiting = deque(texts)
        most = self.decoder.sequences - 1
        while waiting:
            wave = self._next_wave(waiting, most)
            if self._evaluate_wave(wave):
                most = self.decoder.sequences - 1
                continue
            if most == 1 and not self._trunk:
                raise EexpError(TOO_SMALL)
            if most == 1:
                self._clear()
            waiting.extendleft(reversed(wave.texts))
            most = 1

    def _next_wave(self, waiting: deque[ScoredText], most: int) -> _Wave:
        """Take the texts of the next wave, at most `most`, and cut the trunk back to what the first one needs."""
        wave = _Wave(len(self._trunk))
        path: list[_SharedToken] = []  # of the last text, from the trunk on
        before = self._trunk
        while waiting and len(wave.texts) < most:
            text = waiting[0]
            shared = len(os.path.commonprefix([before, text.ids]))
            fork = min(wave.last_fork, shared, text.start - 1)  # the prompt's last token is evaluated for its logits
            common = path[: max(0, shared - fork)] if wave.texts and fork == wave.last_fork else []
            new = len(text.ids) - 1 - fork - len(common)
            if wave.texts:
                if len(wave.tokens) + new > min(self.decoder.batch, self.decoder.cells - len(self._trunk)):
                    break
            else:
                self.decoder.trim(TRUNK, fork)
                del self._trunk[fork:]
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
            sequences = {id(last): TRUNK}
        else:
            sequences = {id(text): i for i, text in enumerate(wave.texts, TRUNK + 1)}
            for text, fork in zip(wave.texts, wave.forks):
                if fork:
                    self.decoder.fork(TRUNK, sequences[id(text)], fork)
        room = self._evaluate_tokens(wave.tokens, sequences)
        if len(wave.texts) == 1:
            self.decoder.trim(TRUNK, len(last.ids) - 1 if room else len(self._trunk))
        elif room:
            self.decoder.trim(TRUNK, 0)
            self.decoder.fork(sequences[id(last)], TRUNK, len(last.ids) - 1)
        if room:
            self._trunk = list(last.ids[:-1])
        for sequence in sequences.values():
            if sequence != TRUNK:
                self.decoder.trim(sequence, 0)
        return room

    def _evaluate_tokens(self, tokens: list[_SharedToken], sequences: dict[int, int]) -> bool:
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
                Item(token.token, token.position, [sequences[id(text)] for text in token.texts], token.needs_logits)
                for token in part
            ]
            try:
                rows = self.decoder.decode(items)
            except Full:
                return False
            for token, row in zip((token for token in part if token.needs_logits), rows):
                token.score(TokenDistribution(row))
            prompt = sum(token.in_prompt for token in part)
            self.counts["prompt tokens evaluated"] += prompt
            self.counts["text tokens evaluated"] += len(part) - prompt
            start += len(part)
        return True
