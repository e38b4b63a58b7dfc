"""Rows of tokens as trees: what examples share is computed once, with the same loss and gradient as one at a time.

All examples of a trajectory share its history, and a trainer that packs rows side by side computes it again for each.
Here rows are sorted by their tokens and written down depth first, every distinct beginning once:

    rows     a b c d      tree     a - b - c - d       tokens     a b c d e f
             a b c e                        ` e        positions  0 1 2 3 3 2
             a b f                      ` f            last       5 5 4 3 4 5

A token attends to itself and its ancestors alone, and its position is its depth, so the model computes for it what it
would compute in each of its rows. `last` is the last token of the subtree below a token; in this order, j is an
ancestor of i (or i itself) exactly if j <= i <= last[j]: a mask in one number a token.

A target counts as often as rows have it, times their weights. Sharing is found in the token ids, never declared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from eexp.training.data import Row


@dataclass
class Tree:
    """Rows written down as one tree (or several side by side), of T tokens.

    Attributes:
        tokens, positions, last: [T], as above.
        targets: (index of the token before, the token to predict, its weight), in the order of their tokens.
        row_targets: For each row, in the order given, the indices of its targets in `targets`.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    targets: list[tuple[int, int, float]] = field(default_factory=list)
    row_targets: list[list[int]] = field(default_factory=list)


class TreeSegment(NamedTuple):
    """Tokens of a tree that follow each other and have no branch before the last of them.

    Attributes:
        start, end: Its tokens are start <= i < end.
        parent: Index of the segment that it continues, which ends where it branches off; None at the root.
    """

    start: int
    end: int
    parent: int | None


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two rows have in common at their beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # by halves: slices are compared at the speed of memory, single tokens are not
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def build_tree(rows: Sequence[Row]) -> Tree:
    """Return the tree of some rows."""
    tree = Tree()
    path: list[int] = []  # the tokens of the previous row, as indices of the tree
    previous: Sequence[int] = ()
    weights: dict[int, float] = {}  # of the tokens that are targets
    parent: dict[int, int] = {}
    nodes: list[list[int]] = [[] for _ in rows]  # the targets of each row, as indices of the tree
    for n in sorted(range(len(rows)), key=lambda n: rows[n].ids):
        row = rows[n]
        common = shared_length(row.ids, previous)
        _close(tree, path, common)
        for depth in range(common, len(row.ids)):
            path.append(len(tree.tokens))
            tree.tokens.append(row.ids[depth])
            tree.positions.append(depth)
            tree.last.append(-1)
        for depth, weight in row.target_weights():
            weights[path[depth]] = weights.get(path[depth], 0.0) + weight
            parent[path[depth]] = path[depth - 1]
            nodes[n].append(path[depth])
        previous = row.ids
    _close(tree, path, 0)
    order = sorted(weights)
    tree.targets = [(parent[i], tree.tokens[i], weights[i]) for i in order]
    target_index = {i: n for n, i in enumerate(order)}
    tree.row_targets = [[target_index[i] for i in row_nodes] for row_nodes in nodes]
    return tree


def _close(tree: Tree, path: list[int], depth: int) -> None:
    """Set `last` of the tokens of `path` from `depth` on, whose subtrees are complete, and take them off the path."""
    for i in path[depth:]:
        tree.last[i] = len(tree.tokens) - 1
    del path[depth:]


def segments_of(tree: Tree) -> list[TreeSegment]:
    """Return the segments of a tree, in the order of their tokens, so that a parent comes before its children."""
    path: list[int] = []  # the last token of each depth
    starts: dict[int, int] = {}  # the first token of each segment, and the token that it follows; -1 at the root
    children: dict[int, int] = {}  # the next token of each that has one
    for i, depth in enumerate(tree.positions):
        parent = path[depth - 1] if depth else -1
        if parent < 0:
            starts[i] = parent
        elif parent in children:
            starts[i] = starts[children[parent]] = parent
        else:
            children[parent] = i
        del path[depth:]
        path.append(i)
    firsts = sorted(starts)
    segments = [(start, end) for start, end in zip(firsts, [*firsts[1:], len(tree.tokens)])]
    last_tokens = {end - 1: n for n, (_, end) in enumerate(segments)}
    return [TreeSegment(start, end, last_tokens.get(starts[start])) for start, end in segments]


def lines_of(tree: Tree) -> list[tuple[int, int]]:
    """Return the lines of a tree: (start, end) of the longest stretches in which each token follows the one before it.

    A line goes on where others branch off, so each ends at the end of a row.
    """
    starts = [i for i, depth in enumerate(tree.positions) if not i or depth != tree.positions[i - 1] + 1]
    return list(zip(starts, [*starts[1:], len(tree.tokens)]))


def cut(rows: Sequence[Row], budget: int) -> Iterator[list[Row]]:
    """Yield rows in parts whose trees have at most `budget` tokens each (or one row, where that alone is longer).

    Rows are taken in sorted order, so that a cut repeats one row's beginning and no more.
    """
    part: list[Row] = []
    part_size = 0
    for row in sorted(rows, key=lambda row: row.ids):
        new_tokens = len(row.ids) - (shared_length(row.ids, part[-1].ids) if part else 0)
        if part and part_size + new_tokens > budget:
            yield part
            part, part_size, new_tokens = [], 0, len(row.ids)
        part.append(row)
        part_size += new_tokens
    if part:
        yield part


def size(rows: Sequence[Row]) -> int:
    """Return the number of tokens of the tree of some rows."""
    ids = sorted(row.ids for row in rows)
    return sum(map(len, ids)) - sum(shared_length(a, b) for a, b in pairwise(ids))
