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
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Protocol

from eexp.models.base import Draw, Sample
from eexp.records import seed_of

BLOCK = 256  # entries of a distribution that are summed together; a draw looks at all sums and at one block
#: A node this far (in nats) below the best open one is not evaluated beside it: few such are drawn in the end.
REACH = 5.0
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

    logits: float32 [vocabulary], read only while this is made.
    """

    def __init__(self, logits: Any, temperature: float = 1.0, only: Sequence[int] | None = None):
        import numpy as np

        top = float(logits.max())
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

    def descending(self, key: float, location: float, seed: int,
                   given: Sequence[int] = ()) -> Iterator[tuple[float, float, int]]:  # fmt: skip
        """(perturbed log-probability, log-probability, token) from the largest perturbed one downwards.

        location: log-probability of the node. given: the tokens that came before; it goes on after them as if it had
        never stopped. key: the largest perturbed value of the rest.
        """
        whole = self.mass
        for token in given:
            self.take(token)
        for i in count(len(given)):
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
        return Weights(logits, self.request.temperature or 1.0, None if node.allowed is None else list(node.allowed))

    def _complete(self, node: Node) -> bool:
        return self.vocabulary.is_end(node.token) or node.depth >= self.request.max_tokens

    def _judge(self, node: Node) -> bool:
        """Show a complete text to the one who asked; whether it was accepted."""
        ids = [n.token for n in node.path()]
        ended = self.vocabulary.is_end(node.token)
        ids = ids[:-1] if ended else ids
        sample = Sample(self.vocabulary.text(ids), node.logprob, len(ids), ended)
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
                children[token] = Node(walk.at, token, walk.at.logprob + weights.logprob(token),
                                       None if walk.at.allowed is None else walk.at.allowed[token])  # fmt: skip
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
    below it (of those that begin with none of the tokens in `given`, once it was evaluated).
    """

    def __init__(self, parent: Node | None, token: int, logprob: float, allowed: dict | None, key: float,
                 location: float, seed: int):  # fmt: skip
        super().__init__(parent, token, logprob, allowed)
        self.key, self.location, self.seed = key, location, seed
        self.given: list[int] = []


class WithoutReplacement(Search):
    """Different complete texts, in the order in which sampling without replacement would draw them."""

    def __init__(self, request: Draw, vocabulary: Vocabulary):
        super().__init__(request, vocabulary)
        self._queue: list[tuple[float, int, _Scored]] = []  # a heap; the largest key first
        self._pushed = 0
        random = Uniforms(request.seed)
        self.root = _Scored(None, -1, 0.0, self.root.allowed, -random.log_exponential(), 0.0, random.bits())
        self._push(self.root)

    def _push(self, node: _Scored) -> None:
        heapq.heappush(self._queue, (-node.key, self._pushed, node))
        self._pushed += 1

    def frontier(self) -> list[Node]:
        if self.done:
            return []
        refusals = 1 if self.request.accept else 0  # one at least, the expert's own action most of the time
        wanted = min(self.request.n - len(self.accepted) + refusals, self.most - self.judged)
        best = heapq.nsmallest(wanted, self._queue)  # the first of them is no complete text, or it would be judged
        return [node for minus_key, _, node in best if not self._whole(node) and minus_key <= best[0][0] + REACH]

    def _whole(self, node: _Scored) -> bool:
        return node.depth > 0 and self._complete(node)

    def tell(self, node: Node, logits: Any) -> None:
        assert isinstance(node, _Scored)
        self._queue = [entry for entry in self._queue if entry[2] is not node]
        heapq.heapify(self._queue)
        weights = self._weights(node, logits)
        # More texts than are wanted, and some refused, are rarely taken from below one node. If they are, the node
        # comes up again with the key of the rest, and is evaluated again; but never the root.
        room = self.most - self.judged
        if node.depth:
            room = min(room, self.request.n - len(self.accepted) + 2)
        given: list[int] = []
        for key, location, token in weights.descending(node.key, node.location, node.seed, node.given):
            if len(given) == room:
                node.key = key
                self._push(node)
                break
            given.append(token)
            self._push(_Scored(node, token, node.logprob + weights.logprob(token),
                               None if node.allowed is None else node.allowed[token],
                               key, location, seed_of(node.seed, "child", token)))  # fmt: skip
        node.given += given
        self._settle()

    def _settle(self) -> None:
        while not self.done and self._queue and self._whole(self._queue[0][2]):
            self._judge(heapq.heappop(self._queue)[2])
        if not self._queue:  # every text there is has been judged
            self.done = True


def search(request: Draw, vocabulary: Vocabulary) -> Search:
    """The search that serves a request."""
    if request.distinct and request.temperature > 0:
        return WithoutReplacement(request, vocabulary)
    return Independent(request, vocabulary)
