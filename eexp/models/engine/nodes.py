"""The texts of one request while they are drawn: a tree of tokens, to which logits are told one node at a time.

- A **node** is a beginning of a text. The root is the empty one; texts that begin alike go through the same nodes.
- To **evaluate** a node is to compute the model's logits after it. The **frontier** is the nodes to evaluate now.
- A node is **open** while the model may be evaluated there, now or later.
- A text is **complete** when it has a token that ends it, or as many tokens as the request allows. Complete texts are
  **judged** in an order that the draws decide: the request accepts or refuses each, until it has enough.

A schedule (drawer.py, in_flight.py) asks a search for its frontier, evaluates it and tells the search the logits, until
it is done. Which texts are drawn is the subject of sampling.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from eexp.models.base import Draw, Sample
from eexp.models.engine.distribution import Logits, TokenDistribution


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


class Node:
    """A beginning of a text.

    Args:
        parent: The beginning without the last token; None for the root.
        token: The last token.
        logprob: Log-probability of that token, at temperature 1.

    Attributes:
        depth: Number of tokens.
        logprob: Log-probability of all its tokens, at temperature 1.
        allowed: Tokens that may follow, each with those that may follow it; None allows all.
    """

    def __init__(self, parent: Node | None = None, token: int = -1, logprob: float = 0.0):
        self.parent, self.token = parent, token
        self.allowed: dict[int, dict] | None
        if parent is None:
            self.depth, self.logprob, self.allowed = 0, 0.0, None
        else:
            self.depth, self.logprob = parent.depth + 1, parent.logprob + logprob
            self.allowed = None if parent.allowed is None else parent.allowed[token]

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
        root: The node before all tokens.
        accepted: The accepted samples so far.
        judged: Number of samples judged so far.
        most: Maximum number of samples to judge.
        done: Whether the request is answered.
        without_floor: Whether `min_p` has no effect, because the most probable text was not found.
    """

    def __init__(self, request: Draw, vocabulary: Vocabulary):
        self.request, self.vocabulary = request, vocabulary
        self.root = Node()
        if request.allowed is not None:
            self.root.allowed = allowed_tokens(request.allowed, vocabulary)
        self.accepted: list[Sample] = []
        self.judged = 0
        self.most = request.most or request.n
        self.done = request.n < 1 or (request.allowed is not None and not request.allowed)
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
        return node.depth > 0 and (self.vocabulary.is_end(node.token) or node.depth >= self.request.max_tokens)

    def _sample(self, node: Node) -> Sample:
        ids = [n.token for n in node.path()]
        ended = self.vocabulary.is_end(node.token)
        ids = ids[:-1] if ended else ids
        return Sample(self.vocabulary.text(ids), node.logprob, len(ids), ended)

    def _judge(self, node: Node) -> None:
        """Judge a complete text."""
        sample = self._sample(node)
        self.judged += 1
        if self.request.accept is None or self.request.accept(sample):
            self.accepted.append(sample)
        self.done = len(self.accepted) >= self.request.n or self.judged >= self.most
