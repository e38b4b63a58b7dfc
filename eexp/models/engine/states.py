"""Draw and score texts on a decoder that does not cut its sequences (see decoder.py).

A recurrent layer keeps one state of all tokens so far, and no token can be taken out of it again. So a sequence is
followed exactly to the point where others leave it, and copied there. Two schedules do that:

- `StateDrawer`, a `Drawer` (drawer.py). All prompts are known, and so are the lengths at which one leaves the other:
  the trunk is marked at each of them. Texts that are drawn part at their last node, before which a chain is forked.
  Forks stay where the search has open nodes, as many as there is room for.
- `StateScorer`, a `Scorer` (scorer.py). One sequence holds the texts that are the same so far, and is forked where they
  part. There is no trunk.

What is needed and was not kept is evaluated again from the nearest state, which changes nothing but rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from eexp.errors import EexpError
from eexp.models.engine.decoder import TOO_SMALL, Full, Item
from eexp.models.engine.distribution import Logits, TokenDistribution
from eexp.models.engine.drawer import Drawer, DrawJob, PlannedNode
from eexp.models.engine.nodes import Node
from eexp.models.engine.scorer import ScoredText, Scorer
from eexp.models.engine.tree import TRUNK, Chain


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


class StateDrawer(Drawer):
    """Draws the texts of one group on a decoder that does not cut."""

    # -- admitting requests --------------------------------------------------------------------------------------

    def _width(self, job: DrawJob) -> int:
        return super()._width(job) + 1  # the end of the prompt

    def _extend(self, run: list[DrawJob]) -> None:
        whole, trunk = run[-1].prompt, self.tree.trunk
        ends = {len(job.prompt): job for job in run}
        points = branch_points(whole, (job.prompt for job in self._waiting))
        if len(trunk) in points:
            self.decoder.mark(TRUNK)
        if len(trunk) in ends:  # one that was evicted, and has the logits at the end of its prompt
            self.tree.begin_chain(ends[len(trunk)].branch)
        for stop in sorted({*ends, *points}):
            if stop > len(trunk):
                rows = self._extend_to(whole[:stop], stop in ends)
                if stop in ends:
                    self._begin(ends[stop], rows[0])
                if stop in points and stop < len(whole):  # at the end, the trunk itself has the state
                    self.decoder.mark(TRUNK)

    def _extend_to(self, prompt: list[int], needs_logits: bool) -> list[Logits]:
        """Evaluate the trunk up to the end of a prompt; return the logits there where they are needed."""
        rows: list[Logits] = []
        while (start := len(self.tree.trunk)) < len(prompt):
            part = prompt[start : start + self.decoder.batch]
            last = len(prompt) - 1 if needs_logits else None
            rows = self.tree.extend([Item(token, i, (TRUNK,), i == last) for i, token in enumerate(part, start)])
        return rows

    # -- writing -------------------------------------------------------------------------------------------------

    def _source(self, job: DrawJob, node: Node) -> Chain | None:
        """Return the chain of a job with the most tokens of those before `node`, and no others."""
        before = node.path()[:-1]
        chains = [
            chain
            for chain in job.branch.chains
            if len(chain.nodes) <= len(before) and (not chain.nodes or chain.nodes[-1] is before[len(chain.nodes) - 1])
        ]
        return max(chains, key=lambda chain: len(chain.nodes), default=None)

    def _step(self) -> None:
        for job in self._live:
            if not any(self._source(job, node) for node in job.search.frontier()):  # its prompt is evaluated again
                for chain in list(job.branch.chains):
                    self.tree.drop(job.branch, chain)
        super()._step()

    def _place(self, job: DrawJob, node: Node, room: int, plan: list[PlannedNode]) -> PlannedNode | None:
        source = self._source(job, node)
        if source is None:
            return None
        path, depth = node.path(), len(source.nodes)
        if any(path[depth] in planned.nodes for planned in plan):
            return None  # it is being evaluated for another node
        busy = [planned.chain for planned in plan]
        if source in busy and not self.tree.free and not self.tree.evict(busy, job.branch):
            return None
        if source in busy or self._begins_others(job, source, node, plan):
            if self.tree.free:
                source = self.tree.fork(job.branch, source, depth)
            else:
                self.tree.counts["text[s] evaluated again, for want of memory"] += 1
        return self._planned(job, source, node, path[depth : depth + room])

    def _begins_others(self, job: DrawJob, chain: Chain, node: Node, plan: list[PlannedNode]) -> bool:
        """Return whether an open node other than `node` and those of the plan is to be evaluated from a chain."""
        placed = [node, *(planned.node for planned in plan)]
        others = [other for other in self._open_nodes(job) if other not in placed]
        return any(self._source(job, other) is chain for other in others)

    def _open_nodes(self, job: DrawJob) -> list[Node]:
        if job.open_nodes is None:
            job.open_nodes = job.search.open_nodes(self._width(job))
        return job.open_nodes

    def _drop_unneeded(self, job: DrawJob) -> None:
        job.open_nodes = None
        sources = [self._source(job, node) for node in self._open_nodes(job)]
        for chain in [chain for chain in job.branch.chains if chain not in sources]:
            self.tree.drop(job.branch, chain)


@dataclass(eq=False)
class _SharedSequence:
    """A sequence with the first `length` tokens of some texts, which are the same in all of them."""

    texts: list[ScoredText]
    sequence: int
    length: int

    def by_next_token(self) -> list[list[ScoredText]]:
        """Return the texts of which more is to be evaluated, in lists with the same next token."""
        longer = (text for text in self.texts if len(text.ids) - 1 > self.length)
        return [list(same) for _, same in groupby(longer, key=lambda text: text.ids[self.length])]

    def end(self) -> int:
        """Return the length up to which all texts are the same; they are in order, and go on with the same token."""
        first, last = self.texts[0].ids, self.texts[-1].ids
        return min(len(os.path.commonprefix([first, last])), len(last) - 1)


class StateScorer(Scorer):
    """Scores the texts of one group on a decoder that does not cut."""

    def _score(self, texts: list[ScoredText]) -> None:
        """Score texts, which are sorted: tokens of several sequences in a batch, the longest sequences first."""
        self._free = list(range(self.decoder.sequences - 1, -1, -1))
        self._held: list[_SharedSequence] = []
        later = texts
        while self._held or later:
            if not self._held:
                self._held.append(_SharedSequence(sorted(later, key=lambda text: text.ids), self._free.pop(), 0))
                later = []
            later += self._split()
            plan = self._plan()
            rows: list[Logits] = []
            while plan:
                try:
                    rows = self.decoder.decode([item for _, items in plan for item in items])
                    break
                except Full:
                    if len(plan) > 1:
                        plan.pop()
                        continue
                    others = [held for held in self._held if held is not plan[0][0]]
                    if not others:
                        raise EexpError(TOO_SMALL) from None
                    later += [text for held in others for text in held.texts]
                    for held in others:
                        self._close(held)
            self._take_rows(plan, rows)

    def _split(self) -> list[ScoredText]:
        """Fork sequences whose texts differ in the next token, and close those whose texts are complete.

        Returns:
            Texts for which there was no sequence, to be evaluated from their beginning.
        """
        for held in list(self._held):
            *others, own = held.by_next_token() or [[]]
            while others and self._free:
                texts, sequence = others.pop(0), self._free.pop()
                if held.length:
                    self.decoder.fork(held.sequence, sequence, held.length)
                self._held.append(_SharedSequence(texts, sequence, held.length))
            held.texts = [text for texts in [*others, own] for text in texts]
            if not held.texts:
                self._close(held)
        if not self._held or any(len(held.by_next_token()) == 1 for held in self._held):
            return []
        *others, self._held[-1].texts = self._held[-1].by_next_token()
        return [text for texts in others for text in texts]

    def _close(self, held: _SharedSequence) -> None:
        self.decoder.trim(held.sequence, 0)
        self._free.append(held.sequence)
        self._held.remove(held)

    def _plan(self) -> list[tuple[_SharedSequence, list[Item]]]:
        """Return the tokens of one batch: those in which the texts of a sequence are the same, and no others."""
        plan: list[tuple[_SharedSequence, list[Item]]] = []
        room, outputs = self.decoder.batch, self.decoder.outputs
        for held in reversed(self._held):
            if len(held.by_next_token()) != 1:
                continue
            items: list[Item] = []
            scored_from = min(text.start for text in held.texts) - 1
            for position in range(held.length, min(held.end(), held.length + room)):
                needs_logits = position >= scored_from
                if needs_logits and not outputs:
                    break
                outputs -= needs_logits
                items.append(Item(held.texts[0].ids[position], position, (held.sequence,), needs_logits))
            room -= len(items)
            if items:
                plan.append((held, items))
        return plan

    def _take_rows(self, plan: list[tuple[_SharedSequence, list[Item]]], rows: list[Logits]) -> None:
        """Record the log-probabilities of the tokens that follow those of a plan."""
        remaining = iter(rows)
        for held, items in plan:
            for item in items:
                following = item.position + 1
                distribution = TokenDistribution(next(remaining)) if item.needs_logits else None
                for text in held.texts:
                    if distribution and text.start <= following < len(text.ids):
                        text.logprobs[following - text.start] = distribution.logprob(text.ids[following])
            prompt = sum(any(item.position < text.start for text in held.texts) for item in items)
            self.tree.counts["prompt tokens evaluated"] += prompt
            self.tree.counts["text tokens evaluated"] += len(items) - prompt
            held.length += len(items)
