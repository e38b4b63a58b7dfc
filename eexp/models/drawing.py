"""Drawing texts from a language model, one next-token distribution at a time; any backend can drive it.

A search holds the texts of one request as a tree of tokens. It says which nodes it wants the model evaluated at
(`frontier`), is told the logits there (`tell`), and so goes on until it has what was asked for. What two texts have in
common is one path of the tree and is evaluated once.

`Independent` is ancestral sampling. `WithoutReplacement` draws *different* texts: the top k of Gumbel-perturbed
log-probabilities over all complete texts, which is sampling without replacement in order of draws (Kool, van Hoof,
Welling, "Stochastic beams and where to find them", ICML 2019). Two things differ from the beam search of that paper.
Children are drawn from the largest perturbed value downwards, as in A* sampling (Maddison, Tarlow, Minka 2014), so a
node costs a few random numbers rather than one for every vocabulary entry. And nodes are opened best first rather than
level by level: a node's value is the largest in its subtree, so a complete text at the top of the queue is the next
draw, and what lies below the last draw is never evaluated. If a text is refused (it is the expert's action, say), the
next one comes from the same tree at no cost but its own tokens.

Both can be kept out of the tail. `top_p` leaves improbable tokens out of every distribution. `min_p`, for drawing
without replacement, leaves out improbable texts: a second search on the same tree (`MostProbable`) finds the most
probable text that contends, and whatever is less than `min_p` times as probable is cut off. The perturbed values of
texts are independent of each other, so cutting some off leaves a draw without replacement from the others.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from typing import Any, Protocol

from eexp.errors import EexpError
from eexp.models.base import Draw, Sample
from eexp.records import seed_of

BLOCK = 256  # entries of a distribution that are summed together; a draw looks at all sums and at one block
#: A node this far (in nats) below the best open one is not evaluated beside it: few such are drawn in the end.
REACH = 5.0
#: How many beginnings of texts the search for the most probable text looks at: this many, or this many for each token
#: that a text may have.
LEAST_LOOKS, LOOKS_A_TOKEN = 64, 3
_NUCLEUS = 1024  # tokens that are sorted to find a nucleus; all of them where those are too few
_LEAST = 1e-30  # the weight of an allowed token, beside 1 for the most probable
_MASK = (1 << 64) - 1


class Vocabulary(Protocol):
    """What a search must know of tokens."""

    def is_end(self, token: int) -> bool:
        """Whether the token ends a text."""

    def text(self, ids: Sequence[int]) -> str:
        """What the tokens spell."""

    def completion(self, text: str) -> list[int]:
        """The tokens of a text with the one that ends it."""


class Uniforms:
    """Random numbers decided by a seed alone, on every platform and version (SplitMix64, Steele et al. 2014)."""

    def __init__(self, seed: int):
        self._state = seed & _MASK

    def bits(self) -> int:
        """64 random bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def uniform(self) -> float:
        """In [0, 1)."""
        return (self.bits() >> 11) * 2.0**-53

    def log_exponential(self) -> float:
        """The logarithm of a standard exponential variate."""
        return math.log(-math.log1p(-(self.bits() >> 11) * 2.0**-53 - 2.0**-54))


class Weights:
    """A next-token distribution at a temperature, possibly over some tokens only, to draw from.

    logits: float32 [vocabulary], read only while this is made. only: the tokens there are. top_p: leave out all but the
    most probable tokens, as few as have this share of the probability at the temperature.
    """

    def __init__(
        self, logits: Any, temperature: float = 1.0, only: Sequence[int] | None = None, top_p: float | None = None
    ):
        import numpy as np

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
            kept = self._shifted[list(only)]
            weights = np.zeros_like(self._weights)
            weights[list(only)] = np.exp((kept - kept.max()) / np.float32(temperature)).clip(_LEAST)
            self._set(weights)
        elif temperature != 1:
            self._set(np.exp(self._shifted / np.float32(temperature)))
        if top_p is not None:
            self._keep_nucleus(top_p)

    def _keep_nucleus(self, share: float) -> None:
        import numpy as np

        size = len(self._weights)
        for n in (min(_NUCLEUS, size), size):
            likely = self._likely(n)
            sums = self._weights[likely].cumsum(dtype=np.float64)
            if sums[-1] >= share * self.mass:
                break
        kept = likely[: int(sums.searchsorted(share * self.mass)) + 1]
        weights = np.zeros_like(self._weights)
        weights[kept] = self._weights[kept]
        self._set(weights)

    def _likely(self, n: int) -> Any:
        """The `n` most probable tokens in order; of equals the smaller id first."""
        import numpy as np

        found = np.arange(len(self._weights))
        if n < len(found):
            found = np.sort(np.argpartition(-self._weights, n - 1)[:n])
        return found[np.argsort(-self._weights[found], kind="stable")]

    def likely(self, n: int) -> list[tuple[float, int]]:
        """(log-probability at temperature 1, token) of the `n` most probable tokens, or of fewer where there are."""
        tokens = self._likely(min(n, len(self._weights)))
        return [(self.logprob(token), token) for token in tokens[self._weights[tokens] > 0].tolist()]

    def highest(self) -> float:
        """The largest log-probability at temperature 1 of what is left."""
        return self.logprob(self.greedy())

    def reaching(self, location: float, floor: float) -> int:
        """How many tokens are left whose log-probability at temperature 1, added to `location`, is `floor` at least."""
        logprobs = location + (self._shifted.astype("float64") - self._norm)
        return int(((self._weights > 0) & (logprobs >= floor)).sum())

    def _set(self, weights: Any) -> None:
        import numpy as np

        self._weights = weights
        self._sums = weights.reshape(-1, BLOCK).sum(1).astype(np.float64)
        self.mass = float(self._sums.sum())  # of what is left, where `take` has taken

    def logprob(self, token: int) -> float:
        """Natural log-probability at temperature 1, among all tokens."""
        return float(self._shifted[token]) - self._norm

    def greedy(self) -> int:
        """The most probable token."""
        return int(self._weights.argmax())

    def pick(self, u: float) -> int:
        """The token at `u` (in [0, 1)) of the distribution function of what is left."""
        import numpy as np

        sums = self._sums.cumsum()
        at = u * sums[-1]
        block = min(int(sums.searchsorted(at, side="right")), len(sums) - 1)
        while self._sums[block] <= 0:  # rounding at the very end
            block -= 1
        within = self._weights[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64)
        at = min(max(0.0, at - (sums[block] - self._sums[block])), np.nextafter(within[-1], 0))
        return block * BLOCK + int(within.searchsorted(at, side="right"))

    def take(self, token: int) -> None:
        """Leave a token out from now on."""
        block = token // BLOCK
        self._weights[token] = 0
        self._sums[block] = self._weights[block * BLOCK : (block + 1) * BLOCK].sum()
        self.mass = float(self._sums.sum())

    def descending(
        self, key: float, location: float, seed: int, given: Sequence[int] = ()
    ) -> Iterator[tuple[float, float, int]]:
        """(perturbed log-probability, log-probability, token) from the largest perturbed one downwards.

        location: log-probability of the node. given: the tokens that came before; it goes on after them as if it had
        never stopped. key: the largest perturbed value of the rest.
        """
        whole = self.mass
        for token in given:
            self.take(token)
        return self._descending(key, location, seed, len(given), whole)

    def _descending(
        self, key: float, location: float, seed: int, given: int, whole: float
    ) -> Iterator[tuple[float, float, int]]:
        for i in count(given):
            if self.mass <= 0:
                return
            random = Uniforms(seed_of(seed, i))
            token = self.pick(random.uniform())
            yield key, location + math.log(float(self._weights[token]) / whole), token
            self.take(token)
            if self.mass > 0:  # a Gumbel variate at the location of what is left, truncated at the value before
                rest = location + math.log(self.mass / whole)
                key = rest - _log_add(rest - key, random.log_exponential())


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))


class Node:
    """A beginning of a text: its last token, what came before, and its log-probability at temperature 1."""

    def __init__(self, parent: Node | None, token: int, logprob: float, allowed: dict | None):
        self.parent, self.token, self.logprob = parent, token, logprob
        self.allowed = allowed  # the tokens that may follow, each with what may follow it; None: all
        self.depth: int = parent.depth + 1 if parent else 0

    def path(self) -> list[Node]:
        """The nodes from the first token to this one; none for the root."""
        node: Node | None = self
        found = []
        while node is not None and node.depth:
            found.append(node)
            node = node.parent
        return found[::-1]

    def below(self, other: Node) -> bool:
        """Whether the path to this node goes through another one."""
        node: Node | None = self.parent
        while node is not None and node.depth > other.depth:
            node = node.parent
        return node is other


def allowed_tokens(texts: Sequence[str], vocabulary: Vocabulary) -> dict[int, dict]:
    """A trie over the tokens of `texts`, the ends included."""
    root: dict[int, dict] = {}
    for text in texts:
        here = root
        for token in vocabulary.completion(text):
            here = here.setdefault(token, {})
    return root


class Search(ABC):
    """The texts of one request while they are written."""

    def __init__(self, request: Draw, vocabulary: Vocabulary):
        self.request, self.vocabulary = request, vocabulary
        allowed = None if request.allowed is None else allowed_tokens(request.allowed, vocabulary)
        self.root = Node(None, -1, 0.0, allowed)
        self.accepted: list[Sample] = []
        self.judged = 0
        self.most = request.most or request.n
        self.done = request.n < 1 or (request.allowed is not None and not request.allowed)
        #: Whether `min_p` was asked for and has no effect, because the most probable text was not found.
        self.without_floor = False

    @abstractmethod
    def frontier(self) -> list[Node]:
        """The nodes at which the model is to be evaluated now, the most urgent first; before all, the root."""

    @abstractmethod
    def tell(self, node: Node, logits: Any) -> None:
        """What the model says after `node`: float32 logits [vocabulary], read before this returns."""

    def needs(self, node: Node) -> bool:
        """Whether what the model has in memory for an evaluated node may be needed again."""
        return True

    def _weights(self, node: Node, logits: Any) -> Weights:
        only = None if node.allowed is None else list(node.allowed)
        return Weights(logits, self.request.temperature or 1.0, only, self.request.top_p)

    def _complete(self, node: Node) -> bool:
        return self.vocabulary.is_end(node.token) or node.depth >= self.request.max_tokens

    def _sample(self, node: Node) -> Sample:
        ids = [n.token for n in node.path()]
        ended = self.vocabulary.is_end(node.token)
        ids = ids[:-1] if ended else ids
        return Sample(self.vocabulary.text(ids), node.logprob, len(ids), ended)

    def _judge(self, node: Node) -> bool:
        """Show a complete text to the one who asked; whether it was accepted."""
        sample = self._sample(node)
        self.judged += 1
        accept = self.request.accept
        accepted = accept is None or accept(sample)
        if accepted:
            self.accepted.append(sample)
        self.done = len(self.accepted) >= self.request.n or self.judged >= self.most
        return accepted


class _Walk:
    """One independent draw: where it stands, and its own random numbers."""

    def __init__(self, seed: int, at: Node):
        self.random, self.at = Uniforms(seed), at
        self.complete = False


class Independent(Search):
    """Ancestral sampling; at temperature 0 the one most probable next token every time.

    Draw i has random numbers of its own, decided by the request's seed and i. Texts are judged in the order of draws,
    whichever ends first; as many are being written as may still be accepted.
    """

    def __init__(self, request: Draw, vocabulary: Vocabulary):
        super().__init__(request, vocabulary)
        if request.temperature == 0:  # all draws are the same text
            self.most = 1
        self._walks: list[_Walk] = []  # started and not judged, in order
        self._started = 0
        self._first: Weights | None = None  # after the prompt, kept for draws that start later

    def frontier(self) -> list[Node]:
        if self.done:
            return []
        if self._first is None:
            return [self.root]
        return list(dict.fromkeys(walk.at for walk in self._walks if not walk.complete))

    def tell(self, node: Node, logits: Any) -> None:
        weights = self._weights(node, logits)
        if node is self.root:
            self._first = weights
        else:
            self._move([walk for walk in self._walks if walk.at is node], weights)
        self._settle()

    def needs(self, node: Node) -> bool:
        return any(walk.at.below(node) for walk in self._walks if not walk.complete)

    def _start(self) -> None:
        """As many draws as may still be accepted, but those that run."""
        assert self._first is not None
        at_once = 1 if self.request.temperature == 0 else self.request.n
        room = min(self.most - self._started, at_once - len(self.accepted) - len(self._walks))
        new = [_Walk(seed_of(self.request.seed, self._started + i), self.root) for i in range(room)]
        self._started += len(new)
        self._move(new, self._first)
        self._walks += new

    def _move(self, walks: list[_Walk], weights: Weights) -> None:
        children: dict[int, Node] = {}
        for walk in walks:
            token = weights.greedy() if self.request.temperature == 0 else weights.pick(walk.random.uniform())
            if token not in children:
                children[token] = Node(
                    walk.at,
                    token,
                    walk.at.logprob + weights.logprob(token),
                    None if walk.at.allowed is None else walk.at.allowed[token],
                )
            walk.at = children[token]
            walk.complete = self._complete(walk.at)

    def _settle(self) -> None:
        self._start()
        while not self.done and self._walks[0].complete:
            self._judge(self._walks.pop(0).at)
            if not self.done:
                self._start()
        if self.done and self.request.temperature == 0 and not self.request.accept:
            self.accepted *= self.request.n


class _Scored(Node):
    """A node of a search without replacement.

    location: its log-probability at the temperature of drawing. key: the largest perturbed log-probability of a text
    below it (of those that begin with none of the tokens in `given`, once it was evaluated). bound: the log-probability
    at temperature 1 that no such text exceeds. likely: its most probable children, as (log-probability, token), once it
    was evaluated for `MostProbable`.
    """

    def __init__(self, parent: Node | None, token: int, logprob: float, allowed: dict | None):
        super().__init__(parent, token, logprob, allowed)
        self.key = self.location = 0.0
        self.seed = 0
        self.bound = logprob
        self.given: list[int] = []
        self.likely: list[tuple[float, int]] | None = None
        self.children: dict[int, _Scored] = {}

    def place(self, key: float, location: float, seed: int) -> _Scored:
        """Give it its perturbed value."""
        self.key, self.location, self.seed = key, location, seed
        return self

    def child(self, token: int, logprob: float) -> _Scored:
        """The node of a token after this one, the same each time. logprob: of the token."""
        if token not in self.children:
            allowed = None if self.allowed is None else self.allowed[token]
            self.children[token] = _Scored(self, token, self.logprob + logprob, allowed)
        return self.children[token]


class MostProbable:
    """The search for the most probable text that contends, by its log-probability at temperature 1.

    Beginnings of texts are looked at in the order of their probability. No text is more probable than its beginnings,
    so the first one that contends is the most probable. A policy that is sure of itself has few beginnings that are
    more probable, and most of them are evaluated for the draws as well. Where no text that contends is among the first
    `limit` beginnings and texts, the search gives up: such a policy is so unsure that its draws are no tail.
    """

    def __init__(self, root: _Scored, limit: int, complete: Callable[[Node], bool], contends: Callable[[Node], bool]):
        self._complete, self._contends = complete, contends
        self._limit = self._looks = limit
        self._open: list[tuple[float, tuple[int, ...], _Scored, float, int]] = []  # a heap; the most probable first
        self.node = root  # where the model is to be evaluated next
        self.settled = False
        self.logprob: float | None = None  # of the text, once it is found

    def tell(self, node: _Scored, weights: Weights) -> None:
        """Go on with what the model says after `node`, which may be needed now, later or never."""
        if node.likely is None:
            node.likely = weights.likely(self._limit)
        while not self.settled and self.node.likely is not None:
            beginning = tuple(n.token for n in self.node.path())
            for logprob, token in self.node.likely:
                order = -(self.node.logprob + logprob), (*beginning, token)
                heapq.heappush(self._open, (*order, self.node, logprob, token))
            self._look()

    def _look(self) -> None:
        """Look at the most probable beginnings up to one that is to be evaluated."""
        while self._open and self._looks:
            *_, parent, logprob, token = heapq.heappop(self._open)
            self._looks -= 1
            child = parent.child(token, logprob)
            if not self._complete(child):
                self.node = child
                return
            if self._contends(child):
                self.logprob = child.logprob
                break
        self.settled = True


class WithoutReplacement(Search):
    """Different complete texts, in the order in which sampling without replacement would draw them."""

    def __init__(self, request: Draw, vocabulary: Vocabulary):
        super().__init__(request, vocabulary)
        self._queue: list[tuple[float, int, _Scored]] = []  # a heap; the largest key first
        self._pushed = 0
        random = Uniforms(request.seed)
        self.root = _Scored(None, -1, 0.0, self.root.allowed).place(-random.log_exponential(), 0.0, random.bits())
        self._floor = -math.inf  # no text is drawn whose log-probability at temperature 1 is smaller
        self._reference: MostProbable | None = None
        self._rest_of_root: tuple[Weights, Iterator[tuple[float, float, int]]] | None = None
        if request.min_p:
            limit = max(LEAST_LOOKS, LOOKS_A_TOKEN * request.max_tokens)
            self._reference = MostProbable(self.root, limit, self._complete, self._contends)
        self._push(self.root)

    def _contends(self, node: Node) -> bool:
        return self.request.contends is None or self.request.contends(self._sample(node))

    def _push(self, node: _Scored) -> None:
        heapq.heappush(self._queue, (-node.key, self._pushed, node))
        self._pushed += 1

    def frontier(self) -> list[Node]:
        if self.done:
            return []
        if self._reference and not self._reference.settled:
            return [self._reference.node]
        refusals = 1 if self.request.accept else 0  # one at least, the expert's own action most of the time
        wanted = min(self.request.n - len(self.accepted) + refusals, self.most - self.judged)
        best = heapq.nsmallest(wanted, self._queue)  # the first of them is no complete text, or it would be judged
        open_nodes = [(minus_key, node) for minus_key, _, node in best if not self._whole(node)]
        return [node for minus_key, node in open_nodes if minus_key <= best[0][0] + REACH and not self._kept(node)]

    def _kept(self, node: _Scored) -> bool:
        return node is self.root and self._rest_of_root is not None

    def _whole(self, node: _Scored) -> bool:
        return node.depth > 0 and self._complete(node)

    def tell(self, node: Node, logits: Any) -> None:
        assert isinstance(node, _Scored)
        weights = self._weights(node, logits)
        if self._reference and not self._reference.settled:
            self._reference.tell(node, weights)
            if self._reference.settled:
                self._set_floor(self._reference.logprob)
        waiting = len(self._queue)
        self._queue = [entry for entry in self._queue if entry[2] is not node]
        heapq.heapify(self._queue)
        if len(self._queue) < waiting:
            self._expand(node, weights, weights.descending(node.key, node.location, node.seed, node.given))
        self._settle()

    def _set_floor(self, most_probable: float | None) -> None:
        """Cut off all texts that are too improbable beside the most probable one, if that is known."""
        self.without_floor = most_probable is None
        if most_probable is not None and self.request.min_p:
            self._floor = most_probable + math.log(self.request.min_p)
            self._queue = [entry for entry in self._queue if entry[2].bound >= self._floor]
            heapq.heapify(self._queue)

    def _expand(self, node: _Scored, weights: Weights, children: Iterator[tuple[float, float, int]]) -> None:
        """Put the children of a node in its place, those with the largest keys first."""
        # More texts than are wanted, and some refused, are rarely taken from below one node. If they are, the node
        # comes up again with the key of the rest, and is evaluated again; but never the root, which is kept for that.
        room = self.most - self.judged
        if node.depth:
            room = min(room, self.request.n - len(self.accepted) + 2)
        left = math.inf if self._floor == -math.inf else weights.reaching(node.logprob, self._floor)
        for key, location, token in children:
            if not left:
                break
            if not room:
                node.key = key
                if self._reference:
                    node.bound = node.logprob + weights.highest()
                if self._reference and not node.depth:
                    self._rest_of_root = weights, chain([(key, location, token)], children)
                self._push(node)
                break
            node.given.append(token)
            child = node.child(token, weights.logprob(token))
            if child.logprob >= self._floor:
                self._push(child.place(key, location, seed_of(node.seed, "child", token)))
                room -= 1
                left -= 1

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
        self.done = True  # there are enough, or every text there is has been judged


def search(request: Draw, vocabulary: Vocabulary) -> Search:
    """The search that serves a request."""
    if request.distinct and request.temperature > 0:
        return WithoutReplacement(request, vocabulary)
    return Independent(request, vocabulary)
