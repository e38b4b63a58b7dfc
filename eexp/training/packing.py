"""How the rows of an update go through the model: as trees, or padded side by side; the same losses either way.

Rows are cut into parts that fit a budget of tokens, and each part is one forward and one backward pass. The vocabulary
is looked at only where a target follows, so a part takes at most budget * vocabulary logits, and mostly a fraction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eexp.models import hf
from eexp.training import attention, trie
from eexp.training.data import Row

if TYPE_CHECKING:
    import torch


@dataclass
class Part:
    """One pass: what the model is given, and which of its logits predict what.

    inputs: input_ids [rows, tokens] and what belongs to them. keep: [K] columns whose logits are wanted. at: [N] the
    place of a target's logits among the flattened [rows * K]. tokens, weights: [N]. of_rows: for each row, in the order
    given, which of the N are its targets; rows of a tree may share them.
    """

    inputs: dict[str, Any]
    keep: torch.Tensor
    at: torch.Tensor
    tokens: torch.Tensor
    weights: torch.Tensor
    of_rows: list[Sequence[int]]


@dataclass(frozen=True)
class Packing:
    """cut: rows in parts of at most so many tokens. size: tokens computed for the rows of a part. part: its tensors."""

    cut: Callable[[Sequence[Row], int], Iterator[list[Row]]]
    size: Callable[[Sequence[Row]], int]
    part: Callable[[Sequence[Row], Any], Part]


def target_losses(model: Any, part: Part) -> torch.Tensor:
    """-log p of each target of a part, [N]. Targets that follow the same token share one normaliser."""
    if accepts_keep(model):
        logits = model(**part.inputs, logits_to_keep=part.keep, use_cache=False).logits
    else:
        logits = model(**part.inputs, use_cache=False).logits[:, part.keep]
    logits = logits.flatten(0, 1).float()
    return logits.logsumexp(-1)[part.at] - logits[part.at, part.tokens]


def accepts_keep(model: Any) -> bool:
    """Whether a model can be asked for some of its logits; wrapped ones are looked into."""
    from inspect import signature

    while hasattr(model, "module"):
        model = model.module
    return "logits_to_keep" in signature(hf.base_model(model).forward).parameters


def _tree(rows: Sequence[Row], device: Any) -> Part:
    import torch

    tree = trie.grow(rows)
    before = [i for i, _, _ in tree.targets]
    keep = sorted(set(before))
    where = {i: k for k, i in enumerate(keep)}
    inputs = {
        "input_ids": torch.tensor([tree.tokens], device=device),
        "position_ids": torch.tensor([tree.positions], device=device),
        "tree": attention.plan(tree, device),
    }
    targets = [(where[i], token, weight) for i, token, weight in tree.targets]
    return _part(inputs, keep, targets, tree.of_rows, device)


def _part(
    inputs: dict, keep: list[int], targets: list[tuple[int, int, float]], of_rows: list[Sequence[int]], device: Any
) -> Part:
    import torch

    at, tokens, weights = zip(*targets)
    return Part(
        inputs,
        torch.tensor(keep, device=device),
        torch.tensor(at, device=device),
        torch.tensor(tokens, device=device),
        torch.tensor(weights, device=device),
        of_rows,
    )


def _padded(rows: Sequence[Row], device: Any) -> Part:
    """Padding is on the right, where causal attention and recurrent states never come back from."""
    import torch

    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
    keep = sorted({j - 1 for row in rows for j in row.targets})
    where = {j: k for k, j in enumerate(keep)}
    targets: list[tuple[int, int, float]] = []
    of_rows: list[Sequence[int]] = []
    for i, row in enumerate(rows):
        start = len(targets)
        targets += [(i * len(keep) + where[j - 1], row.ids[j], weight) for j, weight in row.weighted()]
        of_rows.append(range(start, len(targets)))
    return _part({"input_ids": ids.to(device), "attention_mask": mask.to(device)}, keep, targets, of_rows, device)


def _cut_padded(rows: Sequence[Row], budget: int) -> Iterator[list[Row]]:
    """The shortest first, so that little is padded."""
    part: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if part and _padded_size([*part, row]) > budget:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def _padded_size(rows: Sequence[Row]) -> int:
    return len(rows) * max(len(row.ids) for row in rows)


PACKINGS = {"tree": Packing(trie.cut, trie.size, _tree), "none": Packing(_cut_padded, _padded_size, _padded)}
