"""Attention within trees (trie.py): each token sees itself and its ancestors.

Registered with transformers under the name TREE, so it serves every model whose attention goes through that interface.
A dense mask costs the square of the tree. Here queries go in blocks of consecutive tokens, and a block looks only at
the keys that at least one of its tokens may see, which are the block itself and the path above it: time follows the
number of tokens times the length of a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eexp.errors import EexpError

if TYPE_CHECKING:
    import torch

    from eexp.training.trie import Tree

TREE = "eexp_tree"
BLOCK = 256  # queries that are looked up together


@dataclass
class Plan:
    """Which keys each block of queries sees: (first query, one past the last, keys [K], mask [queries, K])."""

    blocks: list[tuple[int, int, torch.Tensor, torch.Tensor]]


def plan(tree: Tree, device: Any = "cpu", block: int | None = None) -> Plan:
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
    return Plan(blocks)


def register() -> None:
    """Make the name TREE known to transformers. Safe to call twice."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(TREE, _attend)
    AttentionMaskInterface.register(TREE, lambda *args, **kwargs: None)


def _attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None,
            dropout: float = 0.0, tree: Plan | None = None, softcap: float | None = None,
            sliding_window: int | None = None, **_: Any) -> tuple[Any, None]:  # fmt: skip
    """query [1, heads, T, D], key and value [1, kv heads, T, D]; returns [1, T, heads, D]."""
    import torch

    if tree is None:
        raise EexpError("attention within trees was asked of a batch that is none")
    shared = query.shape[1] // key.shape[1]
    parts = []
    for start, end, keys, mask in tree.blocks:
        k, v = key.index_select(2, keys), value.index_select(2, keys)
        q = query[:, :, start:end]
        if softcap is None:
            part = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=0.0, scale=scaling, enable_gqa=shared > 1
            )
        else:
            k, v = (x.repeat_interleave(shared, 1) for x in (k, v))
            scores = q @ k.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
            scores = torch.tanh(scores / softcap) * softcap
            part = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
        parts.append(part)
    out = torch.cat(parts, 2)
    return out.transpose(1, 2).contiguous(), None
