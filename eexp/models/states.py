"""Answer a group of requests on a memory whose sequences cannot be cut.

A recurrent layer (Mamba, gated delta net, short convolution) holds one state of all tokens so far: no token can be
taken out of it again, but the state at the end of a sequence can be copied. So a text is followed exactly to the point
where others leave it, and copied there. `StateTree` does that for the schedule of `tree.PrefixTree`:

- All prompts are known, and so are the lengths at which one leaves the other. The trunk keeps a mark at each of them.
- Texts that are drawn leave each other at their last token, before which the sequence is copied. Copies stay where the
  search may go on (`Search.open_nodes`), as many as there is room for.
- What is needed and was not kept is evaluated again from the nearest state, which changes nothing but rounding.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Generic, TypeVar

from eexp.errors import EexpError
from eexp.models.drawing import Logits, Node, TokenDistribution, Vocabulary
from eexp.models.tree import TOO_SMALL, TRUNK, Chain, Decoder, Full, Item, PlannedNode, PrefixTree, ScoredText, TreeJob

#: Bytes of memory for the states of all sequences.
STATE_BYTES = 2 << 30
LEAST_SEQUENCES = 8
#: Marks of a sequence. Where there are more, the one that saves the fewest tokens is given up.
MARKS = 8

State = TypeVar("State")


def sequences_for(state_bytes: int, most: int) -> int:
    """Return the number of sequences, at most `most`, whose states take no more than STATE_BYTES."""
    return min(most, max(LEAST_SEQUENCES, STATE_BYTES // max(1, state_bytes)))


class Marks(Generic[State]):
    """The states that a decoder which cannot cut its sequences keeps of them, by sequence and number of tokens."""

    def __init__(self) -> None:
        self._states: defaultdict[int, dict[int, State]] = defaultdict(dict)

    def add(self, sequence: int, length: int, state: State) -> None:
        """Keep the state of a sequence after its first `length` tokens."""
        states = self._states[sequence]
        states[length] = state
        if len(states) > MARKS:
            lengths = sorted(states)
            saved = [length - before for before, length in zip([0, *lengths], lengths)]
            del states[lengths[saved.index(min(saved))]]

    def reach(self, sequence: int, length: int, most: int) -> int:
        """Return the largest number of tokens, at most `most`, at which there is a state.

        Args:
            length: Number of tokens of the sequence; at its end, there is one.
        """
        return length if length <= most else max((n for n in self._states[sequence] if n <= most), default=0)

    def cut(self, sequence: int, length: int) -> State | None:
        """Return the state after the first `length` tokens, None for 0, and forget those of more tokens."""
        states = self._states[sequence]
        for n in [n for n in states if n > length]:
            del states[n]
        return states[length] if length else None

    def clear(self) -> None:
        """Forget all states."""
        self._states.clear()


def branch_points(prompt: Sequence[int], following: Iterable[Sequence[int]]) -> set[int]:
    """Return the lengths at which the prompts after `prompt` leave it, as far as no prompt in between has left before.

    A length is at most that of the following prompt less one, since the logits after its last token are needed.
    """
    points, shared = set(), len(prompt)
    for other in following:
        if prompt[:shared] != other[:shared]:
            shared = len(os.path.commonprefix([list(prompt[:shared]), list(other)]))
        if not shared:
            break
        points.add(min(shared, len(other) - 1))
    return points - {0}


def open_tree(decoder: Decoder, vocabulary: Vocabulary, counts: Counter[str]) -> PrefixTree:
    """Return the schedule that a decoder needs."""
    return (PrefixTree if decoder.cuts else StateTree)(decoder, vocabulary, counts)


@dataclass(eq=False)
class _Branch:
    """Texts with the same beginning: the first `length` tokens, which `sequence` holds."""

    texts: list[ScoredText]
    sequence: int
    length: int

    def groups(self) -> list[list[ScoredText]]:
        """Return the texts of which more is to be evaluated, in groups with the same next token."""
        longer = (text for text in self.texts if len(text.ids) - 1 > self.length)
        return [list(group) for _, group in groupby(longer, key=lambda text: text.ids[self.length])]

    def run(self) -> int:
        """Return the length up to which all texts are the same; they are in order, and go on with the same token."""
        first, last = self.texts[0].ids, self.texts[-1].ids
        return min(len(os.path.commonprefix([first, last])), len(last) - 1)


class StateTree(PrefixTree):
    """Answers groups of requests on a decoder that does not cut."""

    # -- prompts -------------------------------------------------------------------------------------------------

    def _width(self, job: TreeJob) -> int:
        return super()._width(job) + 1  # the end of the prompt

    def _extend(self, run: list[TreeJob], live: list[TreeJob], waiting: Sequence[TreeJob]) -> None:
        whole = run[-1].prompt
        ends = {len(job.prompt): job for job in run}
        points = branch_points(whole, (job.prompt for job in waiting))
        if len(self._trunk) in points:
            self.decoder.mark(TRUNK)
        if len(self._trunk) in ends:  # one that was evicted, and has the logits at the end of its prompt
            self._anchor(ends[len(self._trunk)])
        for stop in sorted({*ends, *points}):
            if stop > len(self._trunk):
                rows = self._evaluate_trunk(whole, stop, stop in ends, live)
                if stop in ends:
                    self._begin(ends[stop], rows[0])
                if stop in points and stop < len(whole):  # at the end, the trunk itself has the state
                    self.decoder.mark(TRUNK)

    def _evaluate_trunk(self, prompt: list[int], stop: int, needs_logits: bool, live: list[TreeJob]) -> list[Logits]:
        """Evaluate the trunk up to a length; return the logits at its end where they are needed."""
        rows: list[Logits] = []
        while (start := len(self._trunk)) < stop:
            part = prompt[start : min(stop, start + self.decoder.batch)]
            items = [Item(token, start + i, (TRUNK,), False) for i, token in enumerate(part)]
            if start + len(part) == stop:
                items[-1] = items[-1]._replace(needs_logits=needs_logits)
            rows = self._decode(items, live)
            self._trunk += part
            self.counts["prompt tokens evaluated"] += len(part)
        return rows

    # -- writing -------------------------------------------------------------------------------------------------

    def _source(self, job: TreeJob, node: Node) -> Chain | None:
        """Return the chain of a job with the most tokens of those before `node`, and no others."""
        before = node.path()[:-1]
        chains = [
            chain
            for chain in job.chains
            if len(chain.nodes) <= len(before) and (not chain.nodes or chain.nodes[-1] is before[len(chain.nodes) - 1])
        ]
        return max(chains, key=lambda chain: len(chain.nodes), default=None)

    def _step(self, live: list[TreeJob], waiting: deque[TreeJob]) -> None:
        for job in live:
            assert job.search
            if not any(self._source(job, node) for node in job.search.frontier()):  # its prompt is evaluated again
                for chain in list(job.chains):
                    self._drop(job, chain)
        super()._step(live, waiting)

    def _place(
        self, job: TreeJob, node: Node, room: int, live: list[TreeJob], plan: list[PlannedNode]
    ) -> PlannedNode | None:
        source = self._source(job, node)
        if source is None:
            return None
        path, depth = node.path(), len(source.nodes)
        if any(path[depth] in planned.nodes for planned in plan):
            return None  # it is being evaluated for another node
        busy = [planned.chain for planned in plan]
        if source in busy and not self._free and not self._evict(live, busy, job):
            return None
        if source in busy or self._begins_others(job, source, node, plan):
            if self._free:
                source = self._fork(job, source, depth)
            else:
                self.counts["text[s] evaluated again, for want of memory"] += 1
        nodes = path[depth : depth + room]
        items = [Item(n.token, len(job.prompt) + n.depth - 1, (source.sequence,), n is node) for n in nodes]
        return PlannedNode(job, source, node, nodes, items)

    def _begins_others(self, job: TreeJob, chain: Chain, node: Node, plan: list[PlannedNode]) -> bool:
        """Return whether an open node other than `node` and those of the plan is to be evaluated from a chain."""
        placed = [node, *(planned.node for planned in plan)]
        others = [other for other in self._open_nodes(job) if other not in placed]
        return any(self._source(job, other) is chain for other in others)

    def _open_nodes(self, job: TreeJob) -> list[Node]:
        assert job.search
        if job.open_nodes is None:
            job.open_nodes = job.search.open_nodes(self._width(job))
        return job.open_nodes

    def _drop_unneeded(self, job: TreeJob) -> None:
        job.open_nodes = None
        sources = [self._source(job, node) for node in self._open_nodes(job)]
        for chain in [chain for chain in job.chains if chain not in sources]:
            self._drop(job, chain)

    # -- scoring -------------------------------------------------------------------------------------------------

    def _score_texts(self, texts: list[ScoredText]) -> None:
        """Score texts, which are in order: several branches of their trie in a batch, the deepest first."""
        self._free = list(range(self.decoder.sequences - 1, -1, -1))
        branches: list[_Branch] = []
        later = texts
        while branches or later:
            if not branches:
                branches, later = [_Branch(sorted(later, key=lambda text: text.ids), self._free.pop(), 0)], []
            later += self._split(branches)
            plan = self._plan_branches(branches)
            rows: list[Logits] = []
            while plan:
                try:
                    rows = self.decoder.decode([item for _, items in plan for item in items])
                    break
                except Full:
                    if len(plan) > 1:
                        plan.pop()
                        continue
                    others = [branch for branch in branches if branch is not plan[0][0]]
                    if not others:
                        raise EexpError(TOO_SMALL) from None
                    later += [text for branch in others for text in branch.texts]
                    for branch in others:
                        self._close(branch, branches)
            self._take_rows(plan, rows)

    def _split(self, branches: list[_Branch]) -> list[ScoredText]:
        """Divide branches whose texts differ in the next token, and close those that are complete.

        Returns:
            Texts for which there was no sequence, to be evaluated from their beginning.
        """
        for branch in list(branches):
            *others, own = branch.groups() or [[]]
            while others and self._free:
                group, sequence = others.pop(0), self._free.pop()
                if branch.length:
                    self.decoder.fork(branch.sequence, sequence, branch.length)
                branches.append(_Branch(group, sequence, branch.length))
            branch.texts = [text for group in [*others, own] for text in group]
            if not branch.texts:
                self._close(branch, branches)
        if not branches or any(len(branch.groups()) == 1 for branch in branches):
            return []
        *others, branches[-1].texts = branches[-1].groups()
        return [text for group in others for text in group]

    def _close(self, branch: _Branch, branches: list[_Branch]) -> None:
        self.decoder.trim(branch.sequence, 0)
        self._free.append(branch.sequence)
        branches.remove(branch)

    def _plan_branches(self, branches: list[_Branch]) -> list[tuple[_Branch, list[Item]]]:
        """Return the tokens of one batch: those in which the texts of a branch are the same, and no others."""
        plan: list[tuple[_Branch, list[Item]]] = []
        room, outputs = self.decoder.batch, self.decoder.outputs
        for branch in reversed(branches):
            if len(branch.groups()) != 1:
                continue
            items: list[Item] = []
            scored_from = min(text.start for text in branch.texts) - 1
            for position in range(branch.length, min(branch.run(), branch.length + room)):
                needs_logits = position >= scored_from
                if needs_logits and not outputs:
                    break
                outputs -= needs_logits
                items.append(Item(branch.texts[0].ids[position], position, (branch.sequence,), needs_logits))
            room -= len(items)
            if items:
                plan.append((branch, items))
        return plan

    def _take_rows(self, plan: list[tuple[_Branch, list[Item]]], rows: list[Logits]) -> None:
        """Record the log-probabilities of the tokens that follow those of a plan."""
        remaining = iter(rows)
        for branch, items in plan:
            for item in items:
                following = item.position + 1
                distribution = TokenDistribution(next(remaining)) if item.needs_logits else None
                for text in branch.texts:
                    if distribution and text.start <= following < len(text.ids):
                        text.logprobs[following - text.start] = distribution.logprob(text.ids[following])
            prompt = sum(any(item.position < text.start for text in branch.texts) for item in items)
            self.counts["prompt tokens evaluated"] += prompt
            self.counts["text tokens evaluated"] += len(items) - prompt
            branch.length += len(items)
