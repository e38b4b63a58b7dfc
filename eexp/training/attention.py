"""Attention within trees (trie.py): each token sees itself and its ancestors.

Registered with transformers under the name TREE, so it serves every model whose attention goes through that interface.
A dense mask costs the square of the tree. Here queries go in blocks of consecutive tokens, and a block looks only at
the keys that at least one of its tokens may see, which are the block itself and the path above it: time follows the
number of tokens times the length of a path, and memory the number of tokens.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eexp.errors import EexpError

if TYPE_CHECKING:
    import torch

    from eexp.training.trie import Tree

TREE = "eexp_tree"
BLOCK = 256  # queries that are looked up together
REGATHER = True  # False under activation checkpointing, which keeps nothing, and whose own hooks must see all


@dataclass
class TreeBlocks:
    """Which keys each block of queries sees: (first query, one past the last, keys [K], mask [queries, K])."""

    blocks: list[tuple[int, int, torch.Tensor, torch.Tensor]]


def blocks_of(tree: Tree, device: Any = "cpu", block: int | None = None) -> TreeBlocks:
    """The blocks of a tree, of BLOCK queries if nothing else is said."""
    import torch

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
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(TREE, _attend)
    AttentionMaskInterface.register(TREE, lambda *args, **kwargs: None)


def _attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: TreeBlocks | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Any, None]:
    """query [1, heads, T, D], key and value [1, kv heads, T, D]; returns [1, T, heads, D]."""
    import torch

    if tree is None:
        raise EexpError("its attention is not told of the tree")
    unknown = sorted(name for name in _MORE if more.get(name) is not None)
    if attention_mask is not None or unknown:
        raise EexpError(f"its attention is given {', '.join(unknown) or 'a mask'}, too")
    out = torch.cat(
        [
            _block(query[:, :, start:end], key, value, keys, mask, scaling, softcap)
            for start, end, keys, mask in tree.blocks
        ],
        2,
    )
    return out.transpose(1, 2).contiguous(), None


# What some layers hand to their attention beside queries, keys and values, and a tree knows nothing of.
_MORE = ("s_aux", "position_bias", "sparse_indices", "head_mask")


def _block(query: Any, key: Any, value: Any, keys: Any, mask: Any, scaling: float | None, softcap: float | None) -> Any:
    """query [1, heads, Q, D] looks at those of `key` and `value` that `keys` [K] names, by `mask` [Q, K]."""
    import torch

    group = query.shape[1] // key.shape[1]  # heads that share keys
    # CUDA's fast kernels take a mask or groups, not both.
    repeated = group if group > 1 and (softcap is not None or query.is_cuda) else 1

    def seen(source: torch.Tensor) -> torch.Tensor:
        part = source.index_select(2, keys)
        return part.repeat_interleave(repeated, 1) if repeated > 1 else part

    k, v = seen(key), seen(value)
    if softcap is not None:
        scores = query @ k.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = (torch.tanh(scores / softcap) * softcap).masked_fill(~mask, float("-inf"))
        return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v

    # For its way back a block would keep its own copies of the path above it. What they are copies of is kept instead.
    copies = [(k, key), (v, value)] if REGATHER else []

    def pack(kept: torch.Tensor) -> Any:
        for copy, source in copies:
            if (kept.data_ptr(), kept.shape, kept.stride()) == (copy.data_ptr(), copy.shape, copy.stride()):
                return (source.detach(),)
        return kept

    def unpack(kept: Any) -> torch.Tensor:
        return seen(kept[0]) if isinstance(kept, tuple) else kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack) if REGATHER else nullcontext():
        out = torch.nn.functional.scaled_dot_product_attention(
            query, k, v, attn_mask=mask, scale=scaling, enable_gqa=group > repeated
        )
    copies.clear()  # autograd holds on to `pack`
    return out
