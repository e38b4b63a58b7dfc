"""A prefix tree in the KV cache: the tokens of a group of requests in one decoder, with every shared prefix once.

- The **trunk** is sequence 0. It holds the tokens of a prompt, and is cut back to what the next prompt shares with it.
- A **branch** is the part of the tree that belongs to one request: its prompt, and the chains that begin with it.
- A **chain** is another sequence: a branch's prompt and evaluated nodes of its texts, one below the other (a node is a
  beginning of a text, see nodes.py). Chains are forked from the trunk at the end of a prompt, and from each other
  where texts part, so they share cells with both.
- Cells of a prompt that the trunk no longer holds, but chains still do, are **detached** from it.
- Where there is no room, chains are **evicted**, the latest of the latest branch first. Their nodes are evaluated again
  from the tokens when they are needed, which costs time and changes nothing (but rounding).

One update of the tree. The prompts are "a b c" and "a b d"; two texts of the first have begun with x. The trunk is cut
back to "a b" and d is evaluated, at whose end the second prompt's chain is forked; the cell of c is now detached. Then
the next node of each of three texts is evaluated in one batch: y and z after x, u after the second prompt. Since y goes
on with the chain of x, that of z is forked from it.

    sequence     before      prompt a b d      a step
    0 (trunk)    a b c       a b d             a b d
    1            a b c x     a b c x           a b c x y
    2                        a b d             a b d u
    3                                          a b c x z
    cells        a b c x     a b c x d         a b c x d y z u

drawer.py decides which texts are drawn side by side in such a tree, and scorer.py scores given texts along its trunk.
Where sequences cannot be cut, states.py takes the place of both.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from eexp.models.engine.decoder import Decoder, Full, Item
from eexp.models.engine.distribution import Logits
from eexp.models.engine.nodes import Node

TRUNK = 0


@dataclass(eq=False)
class Chain:
    """A sequence with a prompt and the evaluated nodes of a text."""

    sequence: int
    nodes: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Branch:
    """The part of a tree that belongs to one request."""

    prompt: list[int]  # tokens of its prompt
    chains: list[Chain] = field(default_factory=list)  # its chains, in the order in which they were forked
    #: Number of cells of the prompt that are detached from the trunk; where several branches share them, those with the
    #: longest prompt count.
    detached: int = 0

    def holding(self, depth: int, node: Node | None) -> Chain | None:
        """Return a chain with `node`, the last of a path of `depth`; if possible, one that ends there."""
        longer = None
        for chain in self.chains:
            if not depth or (len(chain.nodes) >= depth and chain.nodes[depth - 1] is node):
                if len(chain.nodes) == depth:
                    return chain
                longer = longer or chain
        return longer


class PrefixTree:
    """The tree of one group on a decoder.

    Args:
        counts: Receives the cost of all evaluations (see `Model.counts`).

    Attributes:
        trunk: Tokens that the trunk holds.
        branches: The branches, in the order in which their requests were admitted.
        free: Sequences without tokens.
    """

    def __init__(self, decoder: Decoder, counts: Counter[str]):
        self.decoder, self.counts = decoder, counts
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.decoder.clear()
        self.trunk: list[int] = []
        self.branches: list[Branch] = []
        self.free = list(range(self.decoder.sequences - 1, TRUNK, -1))  # taken from the end: the smallest first

    # -- the trunk -----------------------------------------------------------------------------------------------

    def shared(self, prompt: list[int]) -> int:
        """Return the number of tokens that a prompt shares with the trunk."""
        return len(os.path.commonprefix([prompt, self.trunk]))

    def cut_back(self, length: int) -> None:
        """Cut the trunk back to its first tokens; chains keep the cells that they share with it.

        Args:
            length: Number of tokens that stay, which the decoder can reach.
        """
        holders = [branch for branch in self.branches if branch.chains and len(branch.prompt) > length]
        if holders:
            longest = max(holders, key=lambda branch: len(branch.prompt))
            longest.detached = max(longest.detached, len(longest.prompt) - length)
        self.decoder.trim(TRUNK, length)
        del self.trunk[length:]

    def extend(self, items: Sequence[Item]) -> list[Logits]:
        """Evaluate items that continue the trunk; return their logits."""
        rows = self.decode(items)
        self.trunk += [item.token for item in items]
        self.counts["prompt tokens evaluated"] += len(items)
        return rows

    def prompt_cells(self) -> int:
        """Return the number of cells of prompts, those that are detached included."""
        return len(self.trunk) + sum(branch.detached for branch in self.branches)

    # -- chains --------------------------------------------------------------------------------------------------

    def begin_chain(self, branch: Branch) -> Chain:
        """Return a new chain at the end of a branch's prompt, which the trunk holds."""
        return self._fork(branch, TRUNK, len(branch.prompt), [])

    def fork(self, branch: Branch, source: Chain, depth: int) -> Chain:
        """Return a new chain with the first `depth` nodes of another one of the same branch."""
        return self._fork(branch, source.sequence, len(branch.prompt) + depth, source.nodes[:depth])

    def _fork(self, branch: Branch, source: int, end: int, nodes: list[Node]) -> Chain:
        chain = Chain(self.free.pop(), nodes)
        self.decoder.fork(source, chain.sequence, end)
        branch.chains.append(chain)
        return chain

    def shorten(self, branch: Branch, chain: Chain) -> None:
        """Cut a chain back to the prompt."""
        self.decoder.trim(chain.sequence, len(branch.prompt))
        chain.nodes.clear()

    def drop(self, branch: Branch, chain: Chain) -> None:
        """Forget a chain."""
        self.decoder.trim(chain.sequence, 0)
        self.free.append(chain.sequence)
        branch.chains.remove(chain)
        if not branch.chains:
            branch.detached = 0

    def remove(self, branch: Branch) -> None:
        """Forget a branch with all its chains."""
        for chain in list(branch.chains):
            self.drop(branch, chain)
        self.branches.remove(branch)

    # -- room ----------------------------------------------------------------------------------------------------

    def decode(self, items: Sequence[Item], busy: Sequence[Chain] = ()) -> list[Logits]:
        """Evaluate items; while there is no room, evict chains.

        Args:
            busy: The chains that the items continue, which are not evicted.

        Raises:
            Full: There is no room, and no chain is left to evict; nothing has been evaluated.
        """
        while True:
            try:
                return self.decoder.decode(items)
            except Full:
                if not self.evict(busy):
                    raise

    def evict(self, busy: Sequence[Chain], but: Branch | None = None) -> bool:
        """Evict one chain that is not busy, and never the only one of `but`; return False where there is none."""
        for branch in reversed(self.branches):
            for chain in reversed(branch.chains):
                if chain not in busy and not (branch is but and len(branch.chains) == 1):
                    self.drop(branch, chain)
                    self.counts["text[s] evaluated again, for want of memory"] += 1
                    return True
        return False

    def release_trunk(self) -> None:
        """Free the cells that only the trunk holds, where a chain has what is still needed of it."""
        self.decoder.trim(TRUNK, 0)
        self.trunk.clear()
