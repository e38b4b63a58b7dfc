"""Draw the texts of a group's requests in one prefix tree (tree.py).

The prompts follow each other in the trunk: the tokens that a prompt shares with the one before are in it already, and
several prompts of which each begins the next are one run of tokens. Admitting a request is evaluating its prompt; at
its end the first chain of the request begins. A step evaluates one node of each text of all admitted requests, in one
batch. When a request is done, its branch is removed, and the next one takes its room.

The schedule follows from the requests and the draws alone, never from time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eexp.errors import EexpError
from eexp.models.base import Draw, Sample
from eexp.models.engine.decoder import TOO_SMALL, Full, Item
from eexp.models.engine.distribution import Logits
from eexp.models.engine.nodes import Node, Search, Vocabulary
from eexp.models.engine.sampling import open_search
from eexp.models.engine.tree import TRUNK, Branch, Chain, PrefixTree


@dataclass(eq=False)
class DrawJob:
    """A request that is being answered."""

    request: Draw
    search: Search
    branch: Branch  # its prompt, and what the tree holds of its texts
    evictions: int = 0  # number of times that it lost all its chains
    #: Those of its search since the latest step, for a schedule that needs them (states.py).
    open_nodes: list[Node] | None = None

    @property
    def prompt(self) -> list[int]:
        """Tokens of its prompt."""
        return self.branch.prompt

    @property
    def texts(self) -> int:
        """Number of texts that are written side by side at its beginning."""
        return 1 if self.request.temperature == 0 else self.request.n

    @property
    def texts_now(self) -> int:
        """Number of texts that are written side by side now, which falls towards its end."""
        return len(self.search.frontier()) if self.branch.chains else self.texts


class PlannedNode(NamedTuple):
    """The tokens that a step evaluates for `node`: the next `nodes` of its path, which `chain` goes on with."""

    job: DrawJob
    chain: Chain
    node: Node
    nodes: list[Node]
    items: list[Item]


class Drawer:
    """Draws the texts of one group.

    Args:
        tree: An empty tree.
        requests: Each with the tokens of its prompt. A prompt with the longest text that its request allows must fit
            into the decoder's cells.
    """

    def __init__(self, tree: PrefixTree, vocabulary: Vocabulary, requests: Sequence[tuple[list[int], Draw]]):
        self.tree, self.decoder = tree, tree.decoder
        self._jobs = [DrawJob(request, open_search(request, vocabulary), Branch(ids)) for ids, request in requests]
        self._waiting = deque(self._jobs)
        self._live: list[DrawJob] = []  # admitted and not done, in the order of `tree.branches`
        self._ended_texts = self._ended_tokens = 0

    def answer(self) -> list[list[Sample]]:
        """Return the samples of each request. Raises EexpError if the memory is too small for one text."""
        while self._waiting or self._live:
            if self._waiting and self._has_room(self._waiting[0]):
                self._admit()
            elif self._live:
                self._step()
            for job in [job for job in self._live if job.search.done]:
                self._finish(job)
        return [job.search.accepted for job in self._jobs]

    # -- admitting requests --------------------------------------------------------------------------------------

    def _has_room(self, job: DrawJob) -> bool:
        """Return whether a request can be admitted without evicting another one, by an estimate."""
        live = self._live
        if not live:
            return True
        if job.evictions > 1:  # or requests that need more than expected would evict each other forever
            return False
        chains = sum(max(self._width(other), len(other.branch.chains)) for other in live) + self._width(job)
        if chains > self.decoder.sequences - 1:
            return False
        if sum(other.texts_now for other in live) + job.texts > self.decoder.step:
            return False
        new = len(job.prompt) - self.tree.shared(job.prompt)
        texts = sum(self._width(other) * self._expected_tokens(other) for other in [*live, job])
        return self.tree.prompt_cells() + new + texts <= self.decoder.cells

    def _width(self, job: DrawJob) -> int:
        """Return the approximate number of chains that a request keeps at a time."""
        return job.texts + (2 if job.request.distinct else 0)

    def _expected_tokens(self, job: DrawJob) -> int:
        """Return the expected tokens of a text: 1.5 times those of finished texts; the limit until one has finished."""
        most, texts = job.request.max_tokens, self._ended_texts
        longest = max((len(chain.nodes) for chain in job.branch.chains), default=0)
        return min(most, max(longest, self._ended_tokens * 3 // (2 * texts)) + 1) if texts else most

    def _admit(self) -> None:
        """Extend the trunk by the next prompts and begin their texts.

        As many prompts as have room and continue each other are evaluated as one run of tokens.
        """
        run = [self._next_job()]
        self._cut_back_for(run[0])
        while self._waiting and _continues(run[-1], self._waiting[0]) and self._has_room(self._waiting[0]):
            run.append(self._next_job())
        self._extend(run)

    def _next_job(self) -> DrawJob:
        job = self._waiting.popleft()
        self._live.append(job)
        self.tree.branches.append(job.branch)
        return job

    def _cut_back_for(self, job: DrawJob) -> None:
        """Cut the trunk back to the tokens it shares with a prompt, less the last one if its logits are needed."""
        shared, frontier = self.tree.shared(job.prompt), job.search.frontier()
        if not (frontier and frontier[0].depth):
            shared = min(shared, len(job.prompt) - 1)
        length = self.decoder.reach(TRUNK, shared)
        if length < len(self.tree.trunk):
            self.tree.cut_back(length)

    def _extend(self, run: list[DrawJob]) -> None:
        """Evaluate the trunk up to the end of the last prompt, and begin the texts of each request at its own end."""
        whole = run[-1].prompt
        ends = {len(job.prompt): job for job in run}
        start = len(self.tree.trunk)
        for job in run:  # one that was evicted, and has the logits at the end of its prompt
            if len(job.prompt) <= start:
                self.tree.begin_chain(job.branch)
        while start < len(whole):
            part = whole[start : start + self.decoder.batch]
            reached = [p for p in range(start + 1, start + len(part) + 1) if p in ends]
            items = [Item(token, start + i, (TRUNK,), start + i + 1 in ends) for i, token in enumerate(part)]
            if len(reached) > self.decoder.outputs:
                reached = reached[: self.decoder.outputs]
                items = items[: reached[-1] - start]
            rows = self.tree.extend(items)
            start += len(items)
            for end, row in zip(reached, rows):
                self._begin(ends[end], row)

    def _begin(self, job: DrawJob, row: Logits) -> None:
        """Begin the texts of a request with the logits at the end of its prompt."""
        frontier = job.search.frontier()
        if frontier and frontier[0].depth == 0:
            job.search.tell(frontier[0], row)
        if not job.search.done:
            self.tree.begin_chain(job.branch)

    def _finish(self, job: DrawJob) -> None:
        search, counts = job.search, self.tree.counts
        counts["text[s] written"] += search.judged
        counts["draw[s] to which --min-p was not applied: the most probable text was not found"] += search.without_floor
        self._ended_texts += len(search.accepted)
        self._ended_tokens += sum(sample.tokens for sample in search.accepted)
        self.tree.remove(job.branch)
        self._live.remove(job)

    # -- writing -------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Evaluate the nodes that all requests need now, in one batch."""
        for job in [job for job in reversed(self._live) if not job.branch.chains]:  # to be admitted again
            self._live.remove(job)
            self.tree.remove(job.branch)
            self._waiting.appendleft(job)
            job.evictions += 1
        plan = self._plan()
        rows = iter(self._evaluate(plan))
        for planned in plan:
            if planned.items[-1].needs_logits:
                row = next(rows)
                if not planned.job.search.done:
                    planned.job.search.tell(planned.node, row)
        for job in dict.fromkeys(planned.job for planned in plan):
            self._drop_unneeded(job)

    def _plan(self) -> list[PlannedNode]:
        plan: list[PlannedNode] = []
        room = self.decoder.batch
        for job in self._live:
            for node in job.search.frontier() if job.branch.chains else []:
                if room == 0 or len(plan) == self.decoder.outputs:
                    return plan
                if planned := self._place(job, node, room, plan):
                    plan.append(planned)
                    room -= len(planned.items)
        return plan

    def _place(self, job: DrawJob, node: Node, room: int, plan: list[PlannedNode]) -> PlannedNode | None:
        """Return the tokens to evaluate next for `node`, at most `room`; None if it must wait."""
        path = node.path()
        depth = len(path) - 1
        while (source := job.branch.holding(depth, path[depth - 1])) is None and depth:
            depth -= 1  # evicted: evaluated again from the tokens
        if source is None or any(path[depth] in planned.nodes for planned in plan):
            return None  # the second case: the evicted nodes are being evaluated for another node
        busy = [planned.chain for planned in plan]
        if len(source.nodes) != depth or source in busy:
            if not self.tree.free and not self.tree.evict([*busy, source], job.branch):
                return None
            source = self.tree.fork(job.branch, source, depth)
        return self._planned(job, source, node, path[depth : depth + room])

    def _planned(self, job: DrawJob, chain: Chain, node: Node, nodes: list[Node]) -> PlannedNode:
        before = len(job.prompt) - 1
        items = [Item(one.token, before + one.depth, (chain.sequence,), one is node) for one in nodes]
        return PlannedNode(job, chain, node, nodes, items)

    def _evaluate(self, plan: list[PlannedNode]) -> list[Logits]:
        """Return the logits for a plan, after removing entries from its end that do not fit in.

        Raises:
            EexpError: Not one fits in.
        """
        while plan:
            items = [item for planned in plan for item in planned.items]
            try:
                rows = self.tree.decode(items, [planned.chain for planned in plan])
            except Full:
                if len(plan) > 1:
                    plan.pop()
                elif self.tree.trunk:
                    self.tree.release_trunk()
                else:
                    raise EexpError(TOO_SMALL) from None
            else:
                self.tree.counts["text tokens evaluated"] += len(items)
                for planned in plan:
                    planned.chain.nodes += planned.nodes
                return rows
        return []

    def _drop_unneeded(self, job: DrawJob) -> None:
        """Drop chains that no text continues; the last one is kept as far as the prompt."""
        branch = job.branch
        for chain in list(branch.chains):
            if chain.nodes and not job.search.needs(chain.nodes[-1]):
                if len(branch.chains) > 1:
                    self.tree.drop(branch, chain)
                else:
                    self.tree.shorten(branch, chain)


def _continues(job: DrawJob, after: DrawJob) -> bool:
    """Return whether the prompt of a job begins that of another, which is longer."""
    return len(after.prompt) > len(job.prompt) and after.prompt[: len(job.prompt)] == job.prompt
