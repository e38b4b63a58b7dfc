"""Attention within trees (trie.py): each token sees itself and its ancestors.

It is registered with transformers under the name TREE, so it serves every model whose attention goes through that
interface. A dense mask costs the square of the tree. Here queries go in blocks of consecutive tokens, and a block looks
only at the keys that at least one of its tokens may see, which are the block itself and the path above it: time follows
the number of tokens times the length of a path, and memory the number of tokens.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from eexp.errors import EexpError
from eexp.training.trie import Tree

TREE = "eexp_tree"
BLOCK = 256  # queries that look at keys together
REGATHER = True  # False under activation checkpointing, which keeps nothing, and whose own hooks must see all


@dataclass
class TreeBlocks:
    """The keys that each block of queries sees: (first query, one past the last, keys [K], mask [queries, K])."""

    blocks: list[tuple[int, int, torch.Tensor, torch.Tensor]]


def blocks_of(tree: Tree, device: torch.device | str = "cpu", block: int | None = None) -> TreeBlocks:
    """Return the blocks of a tree, of `block` queries each; BLOCK by default."""
    block = block or BLOCK
    last = torch.tensor(tree.last)
    index = torch.arange(len(last))
    blocks = []
    for start in range(0, len(last), block):
        end = min(start + block, len(last))
        keys = (last[:end] >= start).nonzero().flatten()
        queries = index[start:end, None]
        mask = (keys <= queries) & (last[keys] >= queries)
        blocks.append((start, end, keys.to(device), mask.to(device)))
    return TreeBlocks(blocks)


def register() -> None:
    """Make the name TREE known to transformers. Safe to call twice."""
    AttentionInterface.register(TREE, _attend)
    AttentionMaskInterface.register(TREE, lambda *args, **kwargs: None)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: TreeBlocks | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention within a tree, with the arguments of transformers' interface.

    Args:
        module: The layer; not used.
        query: [1, heads, T, D].
        key, value: [1, kv heads, T, D].
        attention_mask: None; the tree says what a token sees.
        scaling: Of the scores; 1 / sqrt(D) by default.
        dropout: 0 (exact.py refuses other models).
        tree: The blocks of the tree, [T] tokens.
        softcap: Limit of the scores, as in Gemma 2.
        sliding_window: At least the longest row (exact.py refuses shorter ones), so not used.
        more: What else a layer gives to its attention.

    Returns:
        [1, T, heads, D], and None for the scores.

    Raises:
        EexpError: The layer is not given the tree, or is given something that this attention does not compute.
    """
    if tree is None:
        raise EexpError("its attention is not told of the tree")
    unknown = sorted(name for name in _NOT_COMPUTED if more.get(name) is not None)
    if attention_mask is not None or unknown:
        raise EexpError(f"its attention is given {', '.join(unknown) or 'a mask'}, too")
    out = torch.cat(
        [
            _attend_block(query[:, :, start:end], key, value, keys, mask, scaling, softcap)
            for start, end, keys, mask in tree.blocks
        ],
        2,
    )
    return out.transpose(1, 2).contiguous(), None


#: Arguments that some layers give to their attention beside queries, keys and values, and that are not computed here.
_NOT_COMPUTED = ("s_aux", "position_bias", "sparse_indices", "head_mask")


def _attend_block(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """Compute the attention of one block.

    Args:
        query: [1, heads, Q, D].
        key, value: [1, kv heads, T, D].
        keys: [K] indices of those that the block looks at.
        mask: [Q, K] which of these each query sees.
        scaling, softcap: As in `_attend`.

    Returns:
        [1, heads, Q, D].
    """
    group = query.shape[1] // key.shape[1]  # heads that share keys
    # CUDA's fast kernels take a mask or groups, not both.
    repeated = group if group > 1 and (softcap is not None or query.is_cuda) else 1

    def gather(source: torch.Tensor) -> torch.Tensor:
        part = source.index_select(2, keys)
        return part.repeat_interleave(repeated, 1) if repeated > 1 else part

    k, v = gather(key), gather(value)
    if softcap is not None:
        scores = query @ k.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = (torch.tanh(scores / softcap) * softcap).masked_fill(~mask, float("-inf"))
        return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v

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
