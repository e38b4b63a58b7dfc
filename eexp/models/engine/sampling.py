"""The searches: which texts of a request are drawn, independently or without replacement.

`Independent` is ancestral sampling. `WithoutReplacement` draws *different* texts: the top k of Gumbel-perturbed
log-probabilities over all complete texts, which is sampling without replacement in order of draws (Kool, van Hoof,
Welling, "Stochastic beams and where to find them", ICML 2019). Two things differ from the beam search of that paper.
Children are drawn from the largest perturbed value downwards, as in A* sampling (Maddison, Tarlow, Minka 2014), so a
node costs a few random numbers rather than one for every vocabulary entry. And nodes are expanded best first rather
than level by level: a node's value is the largest in its subtree, so a complete text at the top of the queue is the
next draw, and nodes below the last draw are never evaluated. If a text is refused (it is the expert's action, say), the
next one comes from the same tree at no cost but its own tokens.

Both can leave out the improbable tail. `top_p` leaves improbable tokens out of every distribution. `min_p`, for drawing
without replacement, leaves out improbable texts: a second search on the same tree (`MostProbable`) finds the most
probable text that contends, and texts less than `min_p` times as probable are cut off. The perturbed values of texts
are independent of each other, so cutting some off leaves a draw without replacement from the others.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from itertools import chain

from eexp.models.base import Draw
from eexp.models.engine.distribution import Logits, TokenDistribution, Uniforms
from eexp.models.engine.nodes import Node, Search, Vocabulary
from eexp.records.record import seed_of

#: A node this far (in nats) below the best open one is not evaluated beside it: few such nodes are ever drawn.
REACH = 5.0
#: Beginnings of texts that the search for the most probable text examines: this many, or this many for each token that
#: a text may have, if that is more.
LEAST_LOOKS, LOOKS_A_TOKEN = 64, 3


class _IndependentDraw:
    """One independent draw: the node it has reached, and its own random numbers."""

    def __init__(self, seed: int, node: Node):
        self.random, self.node = Uniforms(seed), node
        self.complete = False


class Independent(Search):
    """Ancestral sampling; at temperature 0 the most probable next token every time.

    Draw i has random numbers of its own, which the request's seed and i decide. Texts are judged in the order of the
    draws, not of their ends; as many are being written as may still be accepted.
    """

    def __init__(self, request: Draw, vocabulary: Vocabulary):
        super().__init__(request, vocabulary)
        if request.temperature == 0:  # all draws are the same text
            self.most = 1
        self._draws: list[_IndependentDraw] = []  # started and not judged yet, in order
        self._started = 0
        self._first: TokenDistribution | None = None  # after the prompt, kept for draws that start later

    def frontier(self) -> list[Node]:
        if self.done:
            return []
        if self._first is None:
            return [self.root]
        return list(dict.fromkeys(draw.node for draw in self._draws if not draw.complete))

    def tell(self, node: Node, logits: Logits) -> None:
        distribution = self._distribution(node, logits)
        if node is self.root:
            self._first = distribution
        else:
            self._move([draw for draw in self._draws if draw.node is node], distribution)
        self._settle()

    def needs(self, node: Node) -> bool:
        return any(draw.node.below(node) for draw in self._draws if not draw.complete)

    def open_nodes(self, most: int) -> list[Node]:
        starts_more = not self.done and self._started < self.most
        return [*self.frontier()[:most], *([self.root] if starts_more and self._first is not None else [])]

    def _start(self) -> None:
        """Start draws until as many are being written as may still be accepted."""
        assert self._first is not None
        at_once = 1 if self.request.temperature == 0 else self.request.n
        room = min(self.most - self._started, at_once - len(self.accepted) - len(self._draws))
        new = [_IndependentDraw(seed_of(self.request.seed, self._started + i), self.root) for i in range(room)]
        self._started += len(new)
        self._move(new, self._first)
        self._draws += new

    def _move(self, draws: list[_IndependentDraw], distribution: TokenDistribution) -> None:
        children: dict[int, Node] = {}
        for draw in draws:
            token = distribution.greedy() if self.request.temperature == 0 else distribution.pick(draw.random.uniform())
            if token not in children:
                children[token] = Node(draw.node, token, distribution.logprob(token))
            draw.node = children[token]
            draw.complete = self._complete(draw.node)

    def _settle(self) -> None:
        self._start()
        while not self.done and self._draws[0].complete:
            self._judge(self._draws.pop(0).node)
            if not self.done:
                self._start()
        if self.done and self.request.temperature == 0 and not self.request.accept:
            self.accepted *= self.request.n


class _GumbelNode(Node):
    """A node of a search without replacement.

    Attributes:
        location: Its log-probability at the sampling temperature.
        key: Largest perturbed log-probability of a text below it; after its evaluation, of those texts that go on with
            none of the tokens in `drawn`.
        bound: Log-probability at temperature 1 that no such text exceeds.
        seed: Decides the draws of its children.
        drawn: Tokens of the children that were drawn.
        likely: Its most probable children, as (log-probability, token), after its evaluation for `MostProbable`.
    """

    def __init__(self, parent: Node | None = None, token: int = -1, logprob: float = 0.0):
        super().__init__(parent, token, logprob)
        self.key = self.location = 0.0
        self.seed = 0
        self.bound = self.logprob
        self.drawn: list[int] = []
        self.likely: list[tuple[float, int]] | None = None
        self.children: dict[int, _GumbelNode] = {}

    def place(self, key: float, location: float, seed: int) -> _GumbelNode:
        """Set its perturbed value; return the node."""
        self.key, self.location, self.seed = key, location, seed
        return self

    def child(self, token: int, logprob: float) -> _GumbelNode:
        """Return the node of a token after this one, the same each time; `logprob` is that of the token."""
        if token not in self.children:
            self.children[token] = _GumbelNode(self, token, logprob)
        return self.children[token]


class MostProbable:
    """The search for the most probable text that contends, by its log-probability at temperature 1.

    Beginnings of texts are examined in the order of their probability. No text is more probable than its beginnings, so
    the first text that contends is the most probable one. A policy with a sharp distribution has few beginnings that
    are more probable, and most of them are evaluated for the draws as well. Where no contending text is among the first
    `limit` beginnings and texts, the search gives up: the distribution of such a policy is so flat that it has no tail.
    """

    def __init__(
        self, root: _GumbelNode, limit: int, complete: Callable[[Node], bool], contends: Callable[[Node], bool]
    ):
        self._complete, self._contends = complete, contends
        self._limit = self._remaining = limit
        self._open: list[tuple[float, tuple[int, ...], _GumbelNode, float, int]] = []  # a heap; the most probable first
        self.node = root  # where to evaluate the model next
        self.settled = False
        self.logprob: float | None = None  # of the most probable text, if it was found

    def tell(self, node: _GumbelNode, distribution: TokenDistribution) -> None:
        """Take the distribution after `node`, which may be needed now, later or never."""
        if node.likely is None:
            node.likely = distribution.likely(self._limit)
        while not self.settled and self.node.likely is not None:
            beginning = tuple(n.token for n in self.node.path())
            for logprob, token in self.node.likely:
                order = -(self.node.logprob + logprob), (*beginning, token)
                heapq.heappush(self._open, (*order, self.node, logprob, token))
            self._examine()

    def open_nodes(self, most: int) -> list[_GumbelNode]:
        """Return the `most` most probable beginnings that have not been evaluated, the one to evaluate next first."""
        if self.settled:
            return []
        beginnings = heapq.nsmallest(most, self._open)
        nodes = [parent.child(token, logprob) for *_, parent, logprob, token in beginnings]
        return [node for node in [self.node, *nodes] if node.depth and not self._complete(node)]

    def _examine(self) -> None:
        """Examine the most probable beginnings up to one that needs an evaluation."""
        while self._open and self._remaining:
            *_, parent, logprob, token = heapq.heappop(self._open)
            self._remaining -= 1
            child = parent.child(token, logprob)
            if not self._complete(child):
                self.node = child
                return
            if self._contends(child):
                self.logprob = child.logprob
                break
        self.settled = True


class WithoutReplacement(Search):
    """Sampling without replacement: different complete texts, in the order of their perturbed values."""

    def __init__(self, request: Draw, vocabulary: Vocabulary):
        super().__init__(request, vocabulary)
        self._queue: list[tuple[float, int, _GumbelNode]] = []  # a heap; the largest key first
        self._pushed = 0
        random = Uniforms(request.seed)
        root = _GumbelNode()
        root.allowed = self.root.allowed
        self.root = root.place(-random.log_exponential(), 0.0, random.bits())
        self._floor = -math.inf  # texts with a smaller log-probability at temperature 1 are not drawn
        self._reference: MostProbable | None = None
        self._rest_of_root: tuple[TokenDistribution, Iterator[tuple[float, float, int]]] | None = None
        if request.min_p:
            limit = max(LEAST_LOOKS, LOOKS_A_TOKEN * request.max_tokens)
            self._reference = MostProbable(self.root, limit, self._complete, self._contends)
        self._push(self.root)

    def _contends(self, node: Node) -> bool:
        return self.request.contends is None or self.request.contends(self._sample(node))

    def _push(self, node: _GumbelNode) -> None:
        heapq.heappush(self._queue, (-node.key, self._pushed, node))
        self._pushed += 1

    def frontier(self) -> list[Node]:
        if self.done:
            return []
        if self._reference and not self._reference.settled:
            return [self._reference.node]
        refusals = 1 if self.request.accept else 0  # at least one is usual: the expert's own action
        missing = min(self.request.n - len(self.accepted) + refusals, self.most - self.judged)
        best = heapq.nsmallest(missing, self._queue)  # the first is never a complete text, which would have been judged
        open_nodes = [(minus_key, node) for minus_key, _, node in best if not self._complete(node)]
        return [node for minus_key, node in open_nodes if minus_key <= best[0][0] + REACH and not self._kept(node)]

    def open_nodes(self, most: int) -> list[Node]:
        if self.done:
            return []
        examined = self._reference.open_nodes(most) if self._reference else []
        drawn = [node for *_, node in heapq.nsmallest(most, self._queue) if node.depth and not self._complete(node)]
        return [*list(dict.fromkeys([*examined, *drawn]))[:most], self.root]

    def _kept(self, node: _GumbelNode) -> bool:
        return node is self.root and self._rest_of_root is not None

    def tell(self, node: Node, logits: Logits) -> None:
        assert isinstance(node, _GumbelNode)
        distribution = self._distribution(node, logits)
        if self._reference and not self._reference.settled:
            self._reference.tell(node, distribution)
            if self._reference.settled:
                self._set_floor(self._reference.logprob)
        waiting = len(self._queue)
        self._queue = [entry for entry in self._queue if entry[2] is not node]
        heapq.heapify(self._queue)
        if len(self._queue) < waiting:
            self._expand(node, distribution, distribution.descending(node.key, node.location, node.seed, node.drawn))
        self._settle()

    def _set_floor(self, most_probable: float | None) -> None:
        """Cut off the texts that are too improbable beside the most probable one, if that is known."""
        self.without_floor = most_probable is None
        if most_probable is not None and self.request.min_p:
            self._floor = most_probable + math.log(self.request.min_p)
            self._queue = [entry for entry in self._queue if entry[2].bound >= self._floor]
            heapq.heapify(self._queue)

    def _expand(
        self, node: _GumbelNode, distribution: TokenDistribution, children: Iterator[tuple[float, float, int]]
    ) -> None:
        """Replace a node in the queue by its children, those with the largest keys first."""
        # Rarely are more texts drawn from below one node than are missing plus some refusals. If they are, the node
        # returns to the queue with the key of the rest and is evaluated again; the root's distribution is kept instead.
        room = self.most - self.judged
        if node.depth:
            room = min(room, self.request.n - len(self.accepted) + 2)
        remaining = math.inf if self._floor == -math.inf else distribution.reaching(node.logprob, self._floor)
        for key, location, token in children:
            if not remaining:
                break
            if not room:
                node.key = key
                if self._reference:
                    node.bound = node.logprob + distribution.highest()
                if self._reference and not node.depth:
                    self._rest_of_root = distribution, chain([(key, location, token)], children)
                self._push(node)
                break
            node.drawn.append(token)
            child = node.child(token, distribution.logprob(token))
            if child.logprob >= self._floor:
                self._push(child.place(key, location, seed_of(node.seed, "child", token)))
                room -= 1
                remaining -= 1

    def _settle(self) -> None:
        if self._reference and not self._reference.settled:
            return
        while not self.done and self._queue:
            node = self._queue[0][2]
            if self._complete(node):
                self._judge(heapq.heappop(self._queue)[2])
            elif node is self.root and self._rest_of_root is not None:
                heapq.heappop(self._queue)
                self._expand(node, *self._rest_of_root)
            else:
                return
        self.done = True  # enough were accepted, or every text has been judged


def open_search(request: Draw, vocabulary: Vocabulary) -> Search:
    """Return the search that serves a request."""
    if request.distinct and request.temperature > 0:
        return WithoutReplacement(request, vocabulary)
    return Independent(request, vocabulary)
