"""Draw texts from a language model, one next-token distribution at a time; any backend can drive it.

A search holds the texts of one request as a tree of tokens. The backend asks it for the nodes at which to evaluate the
model (`frontier`) and tells it the logits there (`tell`), until it has the samples of the request. The beginning that
two texts share is one path of the tree, and is evaluated once.

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
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from typing import Protocol

import numpy as np
import numpy.typing as npt

from eexp.errors import EexpError
from eexp.models.base import Draw, Sample
from eexp.records import seed_of

#: float32 [vocabulary], the next-token logits of a model.
Logits = npt.NDArray[np.float32]

BLOCK = 256  # entries of a distribution that are summed together; a draw reads all sums and one block
#: A node this far (in nats) below the best open one is not evaluated beside it: few such nodes are ever drawn.
REACH = 5.0
#: Beginnings of texts that the search for the most probable text examines: this many, or this many for each token that
#: a text may have, if that is more.
LEAST_LOOKS, LOOKS_A_TOKEN = 64, 3
_NUCLEUS = 1024  # tokens that are sorted to find a nucleus; all of them where these are too few
_LEAST = 1e-30  # the weight of an allowed token, beside 1 for the most probable
_MASK = (1 << 64) - 1


class Vocabulary(Protocol):
    """The tokens of a model, as a search needs them."""

    def is_end(self, token: int) -> bool:
        """Return whether the token ends a text."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of the tokens."""
        ...

    def completion(self, text: str) -> list[int]:
        """Return the tokens of a text with the one that ends it."""
        ...


class Uniforms:
    """Random numbers that a seed alone decides, on every platform and version (SplitMix64, Steele et al. 2014)."""

    def __init__(self, seed: int):
        self._state = seed & _MASK

    def bits(self) -> int:
        """Return 64 random bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def uniform(self) -> float:
        """Return a random number in [0, 1)."""
        return (self.bits() >> 11) * 2.0**-53

    def log_exponential(self) -> float:
        """Return the logarithm of a standard exponential variate."""
        return math.log(-math.log1p(-(self.bits() >> 11) * 2.0**-53 - 2.0**-54))


class TokenDistribution:
    """A next-token distribution to draw from.

    Args:
        logits: The model's logits, which are not read after the distribution is made.
        temperature: Sampling temperature.
        only: The tokens that may be drawn; None for all.
        top_p: Keep only the most probable tokens, as few as have this share of the probability at the temperature.

    Raises:
        EexpError: The largest logit is not a finite number.
    """

    def __init__(
        self, logits: Logits, temperature: float = 1.0, only: Sequence[int] | None = None, top_p: float | None = None
    ):
        top = float(logits.max())
        if not math.isfinite(top):
            raise EexpError(
                "the model computes no probabilities: its weights, or those of its adapter, are not numbers"
            )
        self._shifted = np.full(-(-len(logits) // BLOCK) * BLOCK, -np.inf, np.float32)
        np.subtract(logits, top, out=self._shifted[: len(logits)])
        self._set(np.exp(self._shifted))
        self._norm = math.log(self.mass)
        if only is not None:  # none of them so improbable that it is lost to rounding: each can be drawn
            subset = self._shifted[list(only)]
            weights = np.zeros_like(self._weights)
            weights[list(only)] = np.exp((subset - subset.max()) / np.float32(temperature)).clip(_LEAST)
            self._set(weights)
        elif temperature != 1:
            self._set(np.exp(self._shifted / np.float32(temperature)))
        if top_p is not None:
            self._keep_nucleus(top_p)

    def _keep_nucleus(self, share: float) -> None:
        size = len(self._weights)
        for n in (min(_NUCLEUS, size), size):
            likely = self._likely(n)
            sums = self._weights[likely].cumsum(dtype=np.float64)
            if sums[-1] >= share * self.mass:
                break
        nucleus = likely[: int(sums.searchsorted(share * self.mass)) + 1]
        weights = np.zeros_like(self._weights)
        weights[nucleus] = self._weights[nucleus]
        self._set(weights)

    def _likely(self, n: int) -> npt.NDArray[np.int64]:
        """Return the `n` most probable tokens in order; of equally probable ones the smaller id first."""
        tokens = np.arange(len(self._weights))
        if n < len(tokens):
            tokens = np.sort(np.argpartition(-self._weights, n - 1)[:n])
        return tokens[np.argsort(-self._weights[tokens], kind="stable")]

    def likely(self, n: int) -> list[tuple[float, int]]:
        """Return (log-probability at temperature 1, token) of the `n` most probable tokens left, or of all of them."""
        tokens = self._likely(min(n, len(self._weights)))
        return [(self.logprob(token), token) for token in tokens[self._weights[tokens] > 0].tolist()]

    def highest(self) -> float:
        """Return the largest log-probability at temperature 1 among the tokens left."""
        return self.logprob(self.greedy())

    def reaching(self, location: float, floor: float) -> int:
        """Return the number of tokens left whose log-probability at temperature 1, plus `location`, reaches `floor`."""
        logprobs = location + (self._shifted.astype("float64") - self._norm)
        return int(((self._weights > 0) & (logprobs >= floor)).sum())

    def _set(self, weights: npt.NDArray[np.float32]) -> None:
        self._weights = weights
        self._sums = weights.reshape(-1, BLOCK).sum(1).astype(np.float64)
        self.mass = float(self._sums.sum())  # of the tokens left after `take`

    def logprob(self, token: int) -> float:
        """Return the natural log-probability of a token at temperature 1, among all tokens."""
        return float(self._shifted[token]) - self._norm

    def greedy(self) -> int:
        """Return the most probable token."""
        return int(self._weights.argmax())

    def pick(self, u: float) -> int:
        """Return the token at `u` (in [0, 1)) of the distribution function over the tokens left."""
        sums = self._sums.cumsum()
        at = u * sums[-1]
        block = min(int(sums.searchsorted(at, side="right")), len(sums) - 1)
        while self._sums[block] <= 0:  # rounding at the very end
            block -= 1
        within = self._weights[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64)
        at = min(max(0.0, at - (sums[block] - self._sums[block])), np.nextafter(within[-1], 0))
        return block * BLOCK + int(within.searchsorted(at, side="right"))

    def take(self, token: int) -> None:
        """Leave a token out of further draws."""
        block = token // BLOCK
        self._weights[token] = 0
        self._sums[block] = self._weights[block * BLOCK : (block + 1) * BLOCK].sum()
        self.mass = float(self._sums.sum())

    def descending(
        self, key: float, location: float, seed: int, drawn: Sequence[int] = ()
    ) -> Iterator[tuple[float, float, int]]:
        """Yield (perturbed log-probability, log-probability, token) from the largest perturbed value downwards.

        Args:
            key: The largest perturbed value of the tokens that are not in `drawn`.
            location: Log-probability of the node.
            drawn: The tokens that were drawn before; the sequence continues after them as if it had never stopped.
        """
        whole = self.mass
        for token in drawn:
            self.take(token)
        return self._descending(key, location, seed, len(drawn), whole)

    def _descending(
        self, key: float, location: float, seed: int, drawn: int, whole: float
    ) -> Iterator[tuple[float, float, int]]:
        for i in count(drawn):
            if self.mass <= 0:
                return
            random = Uniforms(seed_of(seed, i))
            token = self.pick(random.uniform())
            yield key, location + math.log(float(self._weights[token]) / whole), token
            self.take(token)
            if self.mass > 0:  # a Gumbel variate at the location of the tokens left, truncated at the value before
                rest = location + math.log(self.mass / whole)
                key = rest - _log_add(rest - key, random.log_exponential())


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))


class Node:
    """A beginning of a text.

    Attributes:
        parent: The beginning without the last token; None for the empty one.
        token: The last token.
        logprob: Log-probability at temperature 1.
        allowed: Tokens that may follow, each with those that may follow it; None allows all.
        depth: Number of tokens.
    """

    def __init__(self, parent: Node | None, token: int, logprob: float, allowed: dict | None):
        self.parent, self.token, self.logprob = parent, token, logprob
        self.allowed = allowed
        self.depth: int = parent.depth + 1 if parent else 0

    def path(self) -> list[Node]:
        """Return the nodes from the first token to this one; none for the root."""
        node: Node | None = self
        nodes = []
        while node is not None and node.depth:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def below(self, other: Node) -> bool:
        """Return whether the path to this node goes through another one."""
        node: Node | None = self.parent
        while node is not None and node.depth > other.depth:
            node = node.parent
        return node is other


def allowed_tokens(texts: Sequence[str], vocabulary: Vocabulary) -> dict[int, dict]:
    """Return a trie over the tokens of `texts`, their end tokens included."""
    root: dict[int, dict] = {}
    for text in texts:
        here = root
        for token in vocabulary.completion(text):
            here = here.setdefault(token, {})
    return root


class Search(ABC):
    """The texts of one request while they are drawn.

    Attributes:
        accepted: The accepted samples so far.
        judged: Number of samples judged so far.
        done: Whether the request is answered.
    """

    def __init__(self, request: Draw, vocabulary: Vocabulary):
        self.request, self.vocabulary = request, vocabulary
        allowed = None if request.allowed is None else allowed_tokens(request.allowed, vocabulary)
        self.root = Node(None, -1, 0.0, allowed)
        self.accepted: list[Sample] = []
        self.judged = 0
        self.most = request.most or request.n
        self.done = request.n < 1 or (request.allowed is not None and not request.allowed)
        #: Whether `min_p` has no effect, because the most probable text was not found.
        self.without_floor = False

    @abstractmethod
    def frontier(self) -> list[Node]:
        """Return the nodes at which to evaluate the model now, the most urgent first; before all, the root."""

    @abstractmethod
    def tell(self, node: Node, logits: Logits) -> None:
        """Take the model's logits after `node`; they are not read after this returns."""

    def needs(self, node: Node) -> bool:
        """Return whether the keys and values of an evaluated node may be needed again."""
        return True

    @abstractmethod
    def open_nodes(self, most: int) -> list[Node]:
        """Return nodes at which the model may be evaluated, now or later, those of the frontier among them.

        Args:
            most: Number of nodes beside the root to return, the most urgent ones.

        Returns:
            Different nodes; the root among them says that texts may begin there.
        """

    def _distribution(self, node: Node, logits: Logits) -> TokenDistribution:
        only = None if node.allowed is None else list(node.allowed)
        return TokenDistribution(logits, self.request.temperature or 1.0, only, self.request.top_p)

    def _complete(self, node: Node) -> bool:
        return self.vocabulary.is_end(node.token) or node.depth >= self.request.max_tokens

    def _sample(self, node: Node) -> Sample:
        ids = [n.token for n in node.path()]
        ended = self.vocabulary.is_end(node.token)
        ids = ids[:-1] if ended else ids
        return Sample(self.vocabulary.text(ids), node.logprob, len(ids), ended)

    def _judge(self, node: Node) -> bool:
        """Judge a complete text; return whether it was accepted."""
        sample = self._sample(node)
        self.judged += 1
        accept = self.request.accept
        accepted = accept is None or accept(sample)
        if accepted:
            self.accepted.append(sample)
        self.done = len(self.accepted) >= self.request.n or self.judged >= self.most
        return accepted


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
                children[token] = Node(
                    draw.node,
                    token,
                    draw.node.logprob + distribution.logprob(token),
                    None if draw.node.allowed is None else draw.node.allowed[token],
                )
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
        drawn: Tokens of the children that were drawn.
        likely: Its most probable children, as (log-probability, token), after its evaluation for `MostProbable`.
    """

    def __init__(self, parent: Node | None, token: int, logprob: float, allowed: dict | None):
        super().__init__(parent, token, logprob, allowed)
        self.key = self.location = 0.0
        self.seed = 0
        self.bound = logprob
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
            allowed = None if self.allowed is None else self.allowed[token]
            self.children[token] = _GumbelNode(self, token, self.logprob + logprob, allowed)
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
        self.root = _GumbelNode(None, -1, 0.0, self.root.allowed).place(-random.log_exponential(), 0.0, random.bits())
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
        open_nodes = [(minus_key, node) for minus_key, _, node in best if not self._whole(node)]
        return [node for minus_key, node in open_nodes if minus_key <= best[0][0] + REACH and not self._kept(node)]

    def open_nodes(self, most: int) -> list[Node]:
        if self.done:
            return []
        examined = self._reference.open_nodes(most) if self._reference else []
        drawn = [node for *_, node in heapq.nsmallest(most, self._queue) if node.depth and not self._whole(node)]
        return [*list(dict.fromkeys([*examined, *drawn]))[:most], self.root]

    def _kept(self, node: _GumbelNode) -> bool:
        return node is self.root and self._rest_of_root is not None

    def _whole(self, node: _GumbelNode) -> bool:
        return node.depth > 0 and self._complete(node)

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
            if self._whole(node):
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
