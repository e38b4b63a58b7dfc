"""Attention within trees (trie.py): each token sees itself and its ancestors.

It is registered with transformers under the name TREE, so it serves every model whose attention goes through that
interface. Which ancestors a token sees is the model's own rule: transformers gives each kind of layer a function of two
positions (everything before, a window, a chunk), which is asked for depths here, since a token's depth is its position
in each of its rows.

A dense mask costs the square of the tree. Here queries go in blocks of consecutive tokens, and a block looks only at
the keys that at least one of its tokens sees, which are the block itself and the path above it, as far as the layer
reaches: time follows the number of tokens times the length of a path (or of a window), and memory the number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from eexp.errors import EexpError
from eexp.training.recurrence import Walk, plan_walk
from eexp.training.trie import Tree

TREE = "eexp_tree"
BLOCK = 256  # queries that look at keys together
REGATHER = True  # False under activation checkpointing, which keeps nothing, and whose own hooks must see all

#: (first query, one past the last, keys [K], mask [queries, K]): what a block of queries sees.
Block = tuple[int, int, torch.Tensor, torch.Tensor]


@dataclass(eq=False)
class LayerMask:
    """What one kind of layer sees, in place of the mask that transformers would make for it.

    Attributes:
        function: (batch index, head index, position of the query, position of the key) -> whether it is seen.
    """

    function: Callable[[int, int, torch.Tensor, torch.Tensor], torch.Tensor]


class TreeInput:
    """A tree of T tokens as its model's layers need it; each part is computed when the first layer asks for it."""

    def __init__(self, tree: Tree, device: torch.device | str = "cpu", block: int | None = None) -> None:
        """Take a tree, and the number of queries of a block; BLOCK by default."""
        self._tree, self._device, self._block = tree, device, block or BLOCK
        self._blocks: dict[LayerMask, list[Block]] = {}

    def __len__(self) -> int:
        return len(self._tree.tokens)

    @cached_property
    def walk(self) -> Walk:
        """The order in which layers with a state compute the tree."""
        return plan_walk(self._tree, self._device)

    def blocks(self, layer_mask: LayerMask) -> list[Block]:
        """Return the blocks for layers of one kind."""
        if layer_mask not in self._blocks:
            self._blocks[layer_mask] = list(self._compute_blocks(layer_mask))
        return self._blocks[layer_mask]

    def _compute_blocks(self, layer_mask: LayerMask):
        last = torch.tensor(self._tree.last, device=self._device)
        depths = torch.tensor(self._tree.positions, device=self._device)
        index = torch.arange(len(last), device=self._device)
        for start in range(0, len(last), self._block):
            end = min(start + self._block, len(last))
            keys = (last[:end] >= start).nonzero().flatten()
            queries = index[start:end, None]
            mask = (keys <= queries) & (last[keys] >= queries)
            mask &= layer_mask.function(0, 0, depths[start:end, None], depths[keys])
            reached = mask.any(0)
            yield start, end, keys[reached], mask[:, reached]


def register() -> None:
    """Make the name TREE known to transformers. Safe to call twice."""
    AttentionInterface.register(TREE, _attend)
    AttentionMaskInterface.register(TREE, _layer_mask)


def _layer_mask(*args: Any, mask_function: Callable, use_vmap: bool = False, **kwargs: Any) -> LayerMask:
    """Return what transformers asks for when a model makes the mask of one kind of layer.

    Args:
        args, kwargs: Sizes and types of the mask; not used.
        mask_function: As in LayerMask.
        use_vmap: Whether the model added a rule of its own, which may go by a token's place rather than its position.

    Raises:
        EexpError: It did.
    """
    if use_vmap:
        raise EexpError("its attention has a mask of its own")
    return LayerMask(mask_function)


#: Arguments that some layers give to their attention beside queries, keys and values, and that are not computed here.
_NOT_COMPUTED = ("position_bias", "sparse_indices", "indices", "head_mask")


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: LayerMask | torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: TreeInput | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: torch.Tensor | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention within a tree, with the arguments of transformers' interface.

    Args:
        module: The layer; not used.
        query: [1, heads, T, D].
        key, value: [1, kv heads, T, D].
        attention_mask: What the layer sees.
        scaling: Of the scores; 1 / sqrt(D) by default.
        dropout: 0 (exact.py refuses other models).
        tree: The tree, of T tokens.
        softcap: Limit of the scores, as in Gemma 2.
        sliding_window: Not used; `attention_mask` has it.
        s_aux: [heads] the scores of sinks, which take their share of the softmax and have no value, as in GPT-OSS.
        more: What else a layer gives to its attention.

    Returns:
        [1, T, heads, D], and None for the scores.

    Raises:
        EexpError: The layer is not given the tree, or is given something that this attention does not compute.
    """
    if tree is None:
        raise EexpError("its attention is not told of the tree")
    if unknown := sorted(name for name in _NOT_COMPUTED if more.get(name) is not None):
        raise EexpError(f"its attention is given {', '.join(unknown)}, too")
    if not isinstance(attention_mask, LayerMask):
        raise EexpError(f"its attention is given {'no mask' if attention_mask is None else 'a mask of its own'}")
    out = torch.cat(
        [
            _attend_block(query[:, :, start:end], key, value, keys, mask, scaling, softcap, s_aux)
            for start, end, keys, mask in tree.blocks(attention_mask)
        ],
        2,
    )
    return out.transpose(1, 2).contiguous(), None


def _attend_block(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Compute the attention of one block.

    Args:
        query: [1, heads, Q, D].
        key, value: [1, kv heads, T, D].
        keys: [K] indices of those that the block looks at.
        mask: [Q, K] which of these each query sees.
        scaling, softcap: As in `_attend`.
        sinks: [heads], as `s_aux` there.

    Returns:
        [1, heads, Q, D].
    """
    group = query.shape[1] // key.shape[1]  # heads that share keys
    has_scores = softcap is not None or sinks is not None
    # CUDA's fast kernels take a mask or groups, not both.
    repeated = group if group > 1 and (has_scores or query.is_cuda) else 1

    def gather(source: torch.Tensor) -> torch.Tensor:
        part = source.index_select(2, keys)
        return part.repeat_interleave(repeated, 1) if repeated > 1 else part

    k, v = gather(key), gather(value)
    if has_scores:
        scores = query @ k.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.masked_fill(~mask, float("-inf"))
        if sinks is not None:
            column = sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, column], -1)
        weights = scores.softmax(-1, dtype=torch.float32)[..., : len(keys)]
        return weights.to(v.dtype) @ v

    # For its backward pass a block would keep its own copies of the path above it. Their sources are kept instead.
    copies = [(k, key), (v, value)] if REGATHER else []

    def pack(tensor: torch.Tensor) -> Any:
        for copy, source in copies:
            if (tensor.data_ptr(), tensor.shape, tensor.stride()) == (copy.data_ptr(), copy.shape, copy.stride()):
                return (source.detach(),)
        return tensor

    def unpack(packed: Any) -> torch.Tensor:
        return gather(packed[0]) if isinstance(packed, tuple) else packed

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack) if REGATHER else nullcontext():
        out = torch.nn.functional.scaled_dot_product_attention(
            query, k, v, attn_mask=mask, scale=scaling, enable_gqa=group > repeated
        )
    copies.clear()  # autograd holds on to `pack`
    return out
