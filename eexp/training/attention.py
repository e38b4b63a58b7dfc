"""Attention within trees (trie.py): each token sees itself and its ancestors.

It is registered with transformers under the name TREE, so it serves every model whose attention goes through that
interface. Which ancestors a token sees is the model's own rule: transformers gives each kind of layer a function of two
positions (everything before, a window, a chunk), which is asked for depths here, since a token's depth is its position
in each of its rows.

A dense mask costs the square of the tree. Here queries go in blocks of consecutive tokens, and a block looks only at
the keys that at least one of its tokens sees, which are the block itself and the path above it, as far as the layer
reaches: time follows the number of tokens times the length of a path (or of a window), and memory the number of tokens.

On CUDA, attention is fastest without a mask, as FlashAttention computes it for sequences of several lengths. A long
line (a stretch in which each token follows the one before) is such a sequence: its queries are the last ones of a path.
Short lines stay in blocks, where many of them look at the same keys together.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from inspect import signature
from itertools import accumulate
from typing import Any, cast

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, sliding_window_causal_mask_function

from eexp.errors import EexpError
from eexp.training.data import Row
from eexp.training.recurrence import Walk, plan_walk
from eexp.training.trie import Tree, build_tree, lines_of

TREE = "eexp_tree"
BLOCK = 256  # queries that look at keys together
LINE = 128  # tokens of a line that is a sequence of its own, about what a kernel of FlashAttention computes together
LINE_KEYS = 65536  # most keys that are copied for a call of it, beyond those of one line

#: (first query, one past the last, keys [K], mask [queries, K]): what a block of queries sees.
Block = tuple[int, int, torch.Tensor, torch.Tensor]


@dataclass
class LineBatch:
    """Lines that attention computes in one call, as S sequences of Q queries and K keys in all.

    Attributes:
        query_ends, key_ends: [S + 1] where each sequence ends, after a 0; int32.
        most_queries, most_keys: Lengths of the longest sequence.
    """

    queries: torch.Tensor  # [Q] tokens, line by line
    keys: torch.Tensor  # [K] tokens of the paths to the ends of the lines, as far as the layer reaches
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    most_queries: int
    most_keys: int
    window: int | None  # how many keys each query sees at most; None if all of its path


@dataclass
class AttentionPlan:
    """How layers of one kind attend within a tree of T tokens."""

    lines: list[LineBatch]  # lines that need no mask
    blocks: list[Block]  # all other queries
    #: [T] where the output of each token is among those of `lines` and `blocks`; None if in order.
    places: torch.Tensor | None
    #: Whether autograd gathers keys and values again. Not with activation checkpointing, which keeps nothing, and whose
    #: own hooks must see all.
    regather: bool


@dataclass(eq=False)
class LayerMask:
    """What one kind of layer sees, in place of the mask that transformers would make for it."""

    #: (batch index, head index, position of the query, position of the key) -> whether it is seen.
    function: Callable[..., Any]


class TreeInput:
    """A tree of T tokens as its model's layers need it; each part is computed when the first layer asks for it."""

    def __init__(
        self, tree: Tree, device: torch.device | str = "cpu", block: int | None = None, checkpointing: bool = False
    ) -> None:
        """Take a tree, the number of queries of a block, BLOCK by default, and whether activations are checkpointed."""
        self._tree, self._device, self._block, self._regather = tree, device, block or BLOCK, not checkpointing
        self._plans: dict[tuple[LayerMask, bool], AttentionPlan] = {}

    def __len__(self) -> int:
        return len(self._tree.tokens)

    @cached_property
    def walk(self) -> Walk:
        """The order in which layers with a state compute the tree."""
        return plan_walk(self._tree, self._device)

    @cached_property
    def _last(self) -> torch.Tensor:
        return torch.tensor(self._tree.last, device=self._device)

    @cached_property
    def _depths(self) -> torch.Tensor:
        return torch.tensor(self._tree.positions, device=self._device)

    def plan(self, layer_mask: LayerMask, with_lines: bool) -> AttentionPlan:
        """Return how layers of one kind attend; `with_lines` says whether lines may go without a mask."""
        if (layer_mask, with_lines) not in self._plans:
            self._plans[layer_mask, with_lines] = self._make_plan(layer_mask, with_lines)
        return self._plans[layer_mask, with_lines]

    def _make_plan(self, layer_mask: LayerMask, with_lines: bool) -> AttentionPlan:
        lines = [(start, end) for start, end in lines_of(self._tree) if end - start >= LINE] if with_lines else []
        longest = max(self._tree.positions) + 1
        window = self._window(layer_mask, longest) if lines else None
        if window is None:
            return AttentionPlan([], list(self._blocks(layer_mask, 0, len(self))), None, self._regather)
        batches = list(self._line_batches(lines, window, longest))
        blocks: list[Block] = []
        for start, end in zip([0, *(end for _, end in lines)], [*(start for start, _ in lines), len(self)]):
            blocks += self._blocks(layer_mask, start, end)
        index = torch.arange(len(self), device=self._device)
        order = [*(batch.queries for batch in batches), *(index[start:end] for start, end, _, _ in blocks)]
        return AttentionPlan(batches, blocks, torch.cat(order).argsort(), self._regather)

    def _blocks(self, layer_mask: LayerMask, first: int, stop: int) -> Iterator[Block]:
        """Yield the blocks of the queries first <= i < stop."""
        index = torch.arange(stop, device=self._device)
        for start in range(first, stop, self._block):
            end = min(start + self._block, stop)
            keys = (self._last[:end] >= start).nonzero().flatten()
            queries = index[start:end, None]
            mask = (keys <= queries) & (self._last[keys] >= queries)
            mask &= layer_mask.function(0, 0, self._depths[start:end, None], self._depths[keys])
            reached = mask.any(0)
            yield start, end, keys[reached], mask[:, reached]

    def _window(self, layer_mask: LayerMask, longest: int) -> int | None:
        """Return how many keys a query sees at most, in a row of `longest` tokens; None unless these are the last."""
        depths = torch.arange(longest, device=self._device)
        window = int(layer_mask.function(0, 0, depths[-1:, None], depths).sum())
        is_window = torch.ones((), dtype=torch.bool, device=self._device)
        for queries in depths[:, None].split(self._block):
            seen = layer_mask.function(0, 0, queries, depths)
            is_window &= (seen == ((depths <= queries) & (depths > queries - window))).all()
        return window if is_window else None

    def _line_batches(self, lines: list[tuple[int, int]], window: int, longest: int) -> Iterator[LineBatch]:
        """Yield lines (start, end) in batches of at most LINE_KEYS keys, or of one line."""
        batch: list[tuple[torch.Tensor, torch.Tensor]] = []  # queries, keys
        for start, end in lines:
            queries = torch.arange(start, end, device=self._device)
            path = (self._last[:start] >= start).nonzero().flatten()
            keys = torch.cat([path[max(0, len(path) - window + 1) :], queries])
            if batch and sum(len(k) for _, k in batch) + len(keys) > LINE_KEYS:
                yield self._line_batch(batch, window, longest)
                batch = []
            batch.append((queries, keys))
        yield self._line_batch(batch, window, longest)

    def _line_batch(self, batch: list[tuple[torch.Tensor, torch.Tensor]], window: int, longest: int) -> LineBatch:
        """Return one batch, of (queries, keys) of its lines."""
        queries, keys = zip(*batch)

        def ends(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
            return torch.tensor([0, *accumulate(map(len, parts))], dtype=torch.int32, device=self._device)

        return LineBatch(
            torch.cat(queries),
            torch.cat(keys),
            ends(queries),
            ends(keys),
            max(map(len, queries)),
            max(map(len, keys)),
            window if window < longest else None,
        )


def register() -> None:
    """Make the name TREE known to transformers. Safe to call twice."""
    AttentionInterface.register(TREE, _attend)
    AttentionMaskInterface.register(TREE, _layer_mask)


def _layer_mask(*args: Any, mask_function: Callable, use_vmap: bool = False, **kwargs: Any) -> LayerMask:
    """Return what transformers asks for when a model makes the mask of one kind of layer.

    Args:
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
        query: [1, heads, T, D].
        key, value: [1, kv heads, T, D].
        scaling: Of the scores; 1 / sqrt(D) by default.
        dropout: 0 (exact.py refuses other models).
        tree: The tree, of T tokens.
        softcap: Limit of the scores, as in Gemma 2.
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
    plan = tree.plan(attention_mask, softcap is None and s_aux is None and takes_lines(query))
    return _attend_plan(plan, query, key, value, scaling, softcap, s_aux), None


def _attend_plan(
    plan: AttentionPlan,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Compute the attention of a plan, with the arguments of `_attend`; returns [1, T, heads, D]."""
    parts = [_attend_lines(query, key, value, lines, scaling, plan.regather) for lines in plan.lines]
    for start, end, keys, mask in plan.blocks:
        queries = query[:, :, start:end]
        parts.append(_attend_block(queries, key, value, keys, mask, scaling, softcap, sinks, plan.regather))
    out = torch.cat(parts, 2).transpose(1, 2)
    return out.contiguous() if plan.places is None else out.index_select(1, plan.places)


@cache
def varlen_attention() -> Callable[..., torch.Tensor] | None:
    """Return PyTorch's attention for sequences of several lengths, which is FlashAttention; None if it lacks that."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    complete = {"window_size", "enable_gqa"} <= signature(varlen_attn).parameters.keys()
    return cast(Callable[..., torch.Tensor], varlen_attn) if complete else None  # without `return_aux`


def _half_type(query: torch.Tensor) -> torch.dtype:
    """Return the type that attention computes in, which autocast chooses where it is on."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def takes_lines(query: torch.Tensor) -> bool:
    """Return whether FlashAttention computes queries of this type and head size, [..., D], on their device."""
    return (
        query.is_cuda
        and torch.version.cuda is not None
        and _half_type(query) in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= 192
        and query.shape[-1] % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and varlen_attention() is not None
        and lines_are_exact(query.device, _half_type(query), query.shape[-1])
    )


@cache
def lines_are_exact(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Return whether attention without a mask gives lines what attention with a mask gives them, gradient included.

    The queries of a line are the last ones of its path. Kernels differ in where they put queries that are fewer than
    the keys, so one small tree is computed both ways.

    Args:
        size: Numbers of a head.
    """
    texts = array("i", range(1, 2 * LINE + 8)), array("i", [*range(1, LINE + 4), *range(LINE)])
    tree = TreeInput(build_tree([Row(text, 0, 1.0) for text in texts]), device)
    generator = torch.Generator().manual_seed(0)
    heads = [torch.randn(1, n, len(tree), size, generator=generator) for n in (4, 2, 2, 4)]
    query, key, value, direction = (tensor.to(device, dtype).requires_grad_() for tensor in heads)
    for rule in (causal_mask_function, sliding_window_causal_mask_function(LINE // 2)):
        results = []
        for with_lines in (True, False):
            try:
                with torch.enable_grad():
                    plan = tree.plan(LayerMask(rule), with_lines)
                    out = _attend_plan(plan, query, key, value, None, None, None)
                gradients = torch.autograd.grad(out, (query, key, value), direction.detach().transpose(1, 2))
            except RuntimeError:  # from a kernel that is not made for this device, type or size
                return False
            results.append([out.detach(), *gradients])
        for a, b in zip(*results, strict=True):
            if not float((a - b).float().norm()) <= 0.03 * float(b.float().norm()):
                return False
    return True


def _attend_lines(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lines: LineBatch,
    scaling: float | None,
    regather: bool,
) -> torch.Tensor:
    """Compute the attention of a batch of lines, with tensors as in `_attend`; returns [1, heads, Q, D]."""
    attend = varlen_attention()
    assert attend is not None
    dtype = _half_type(query)

    def gather(source: torch.Tensor) -> torch.Tensor:
        return source[0].transpose(0, 1).index_select(0, lines.keys).to(dtype)

    k, v = gather(key), gather(value)
    with regathered([(k, key), (v, value)], gather) if regather else nullcontext():
        out = attend(
            query[0].transpose(0, 1).index_select(0, lines.queries).to(dtype),
            k,
            v,
            lines.query_ends,
            lines.key_ends,
            lines.most_queries,
            lines.most_keys,
            scale=scaling,
            window_size=(-1 if lines.window is None else lines.window - 1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return out.transpose(0, 1)[None].to(value.dtype)


@contextmanager
def regathered(
    copies: list[tuple[torch.Tensor, torch.Tensor]], gather: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Let autograd keep the sources of copies rather than the copies, and gather them again.

    Without it, every part of a tree would keep its own copy of the path above it for the backward pass.

    Args:
        copies: (copy, source) of tensors that are computed with in the context.
        gather: Makes the copy of a source.
    """

    def pack(tensor: torch.Tensor) -> Any:
        for copy, source in copies:
            if (tensor.data_ptr(), tensor.shape, tensor.stride()) == (copy.data_ptr(), copy.shape, copy.stride()):
                return (source.detach(),)
        return tensor

    def unpack(packed: Any) -> torch.Tensor:
        return gather(packed[0]) if isinstance(packed, tuple) else packed

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
    copies.clear()  # autograd holds on to `pack`


def _attend_block(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
    regather: bool,
) -> torch.Tensor:
    """Compute the attention of one block.

    Args:
        query: [1, heads, Q, D].
        key, value: [1, kv heads, T, D].
        keys: [K] indices of those that the block looks at.
        mask: [Q, K] which of these each query sees.
        scaling, softcap: As in `_attend`.
        sinks: [heads], as `s_aux` there.
        regather: As in `AttentionPlan`.

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

    with regathered([(k, key), (v, value)], gather) if regather else nullcontext():
        return torch.nn.functional.scaled_dot_product_attention(
            query, k, v, attn_mask=mask, scale=scaling, enable_gqa=group > repeated
        )
