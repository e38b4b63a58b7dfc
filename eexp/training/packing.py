"""Pack the rows of an update into passes through the model, as trees or padded side by side, with the same losses.

Rows are cut into parts that fit a budget of tokens, and each part is one forward and one backward pass. Logits are
computed only where a target follows, so a part takes at most budget * vocabulary logits, and mostly a fraction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any

import torch

from eexp.models.backends import hf
from eexp.training import attention, trie
from eexp.training.data import Row


@dataclass
class Part:
    """The tensors of one pass: R texts (one tree, or R padded rows), K columns with logits, N targets."""

    inputs: dict[str, Any]  # arguments of the model: input_ids [R, tokens] and what belongs to them
    keep: torch.Tensor  # [K] the columns whose logits are computed
    logit_index: torch.Tensor  # [N] the place of each target's logits among the flattened [R * K]
    tokens: torch.Tensor  # [N] the token to predict
    weights: torch.Tensor  # [N] the weight of its loss
    #: For each row, in the order given, which of the N are its targets; rows of a tree may share them.
    row_targets: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Packing:
    """A way to put rows into passes."""

    #: Yields rows in parts of at most so many tokens, or of one row that alone has more.
    cut: Callable[[Sequence[Row], int], Iterator[list[Row]]]
    size: Callable[[Sequence[Row]], int]  # returns the tokens that are computed for the rows of a part
    part: Callable[[Sequence[Row], torch.device | str], Part]  # returns the tensors of a part, on a device


def target_losses(model: torch.nn.Module, part: Part) -> torch.Tensor:
    """Return -log p of each target of a part, [N]. Targets that follow the same token share one normaliser."""
    if accepts_keep(model):
        logits = model(**part.inputs, logits_to_keep=part.keep, use_cache=False).logits
    else:
        logits = model(**part.inputs, use_cache=False).logits[:, part.keep]
    logits = logits.flatten(0, 1).float()
    return logits.logsumexp(-1)[part.logit_index] - logits[part.logit_index, part.tokens]


def accepts_keep(model: torch.nn.Module) -> bool:
    """Return whether a model can compute some of its logits only, also where it is wrapped or has an adapter."""
    wrapped: Any = model
    while hasattr(wrapped, "module"):
        wrapped = wrapped.module
    return "logits_to_keep" in signature(hf.base_model(wrapped).forward).parameters


def _tree_part(rows: Sequence[Row], device: torch.device | str, checkpointing: bool = False) -> Part:
    """Return the tensors of a pass in which the rows are one tree; `checkpointing` is that of `open_packing`."""
    tree = trie.build_tree(rows)
    keep = sorted({before for before, _, _ in tree.targets})
    column = {before: k for k, before in enumerate(keep)}
    inputs = {
        "input_ids": torch.tensor([tree.tokens], device=device),
        "position_ids": torch.tensor([tree.positions], device=device),
        "attention_mask": torch.ones(1, len(tree.tokens), dtype=torch.long, device=device),  # positions start no texts
        "tree": attention.TreeInput(tree, device, checkpointing=checkpointing),
    }
    targets = [(column[before], token, weight) for before, token, weight in tree.targets]
    return _part(inputs, keep, targets, tree.row_targets, device)


def _part(
    inputs: dict[str, Any],
    keep: list[int],
    targets: list[tuple[int, int, float]],
    row_targets: Sequence[Sequence[int]],
    device: torch.device | str,
) -> Part:
    """Return the tensors of a pass. `targets`: place of the logits, token and weight of each."""
    logit_index, tokens, weights = zip(*targets)
    return Part(
        inputs,
        torch.tensor(keep, device=device),
        torch.tensor(logit_index, device=device),
        torch.tensor(tokens, device=device),
        torch.tensor(weights, device=device),
        row_targets,
    )


def _padded_part(rows: Sequence[Row], device: torch.device | str) -> Part:
    """Return the tensors of a pass in which every row is a text of its own.

    Padding is on the right, where neither causal attention nor a recurrent state lets it change a target.
    """
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        mask[i, : len(row.ids)] = 1
    keep = sorted({j - 1 for row in rows for j in row.targets})
    column = {before: k for k, before in enumerate(keep)}
    targets: list[tuple[int, int, float]] = []
    row_targets: list[Sequence[int]] = []
    for i, row in enumerate(rows):
        start = len(targets)
        targets += [(i * len(keep) + column[j - 1], row.ids[j], weight) for j, weight in row.target_weights()]
        row_targets.append(range(start, len(targets)))
    return _part({"input_ids": ids.to(device), "attention_mask": mask.to(device)}, keep, targets, row_targets, device)


def _cut_padded(rows: Sequence[Row], budget: int) -> Iterator[list[Row]]:
    """Yield rows in parts, the shortest first, so that there is little padding."""
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


PACKINGS = {"tree": Packing(trie.cut, trie.size, _tree_part), "none": Packing(_cut_padded, _padded_size, _padded_part)}


def open_packing(name: str, checkpointing: bool) -> Packing:
    """Return a packing by its name in PACKINGS.

    Args:
        checkpointing: Whether activations are computed again in the backward pass rather than kept.
    """
    packing = PACKINGS[name]
    if name == "tree" and checkpointing:
        return replace(packing, part=partial(_tree_part, checkpointing=True))
    return packing
