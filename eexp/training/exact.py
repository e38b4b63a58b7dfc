"""For which models a tree gives exactly what its rows would.

That takes attention that looks only where it is told to, by transformers' interface, and positions that are told, too.
What is known to break it is refused by name; what nobody thought of, by computing a small tree both ways.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from eexp.errors import EexpError, UsageError
from eexp.training import attention
from eexp.training.data import Row
from eexp.training.packing import PACKINGS, target_losses

_WINDOWS = {"full_attention": None, "sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


def prepare(model: Any, rows: list[Row]) -> None:
    """Set the model's attention to trees. Raises UsageError where that would not be exact."""
    for why in obstacles(model, max(len(row.ids) for row in rows)):
        raise UsageError(f"{model.config.model_type}: {why}, so that examples cannot share tokens exactly; "
                         "give --packing none")  # fmt: skip
    attention.register()
    try:
        apart = _difference(model, rows)
    except EexpError:  # of attention.py, which was not told of the tree
        apart = math.inf
    if not apart <= (1e-5 if model.dtype.itemsize > 2 else 0.02):
        raise UsageError(f"{model.config.model_type}: computes a tree otherwise than its rows (off by {apart:.1g}); "
                         "give --packing none")  # fmt: skip


def obstacles(model: Any, longest: int) -> Iterator[str]:
    """What keeps a model from computing trees of rows of up to `longest` tokens."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if getattr(inner, "_is_stateful", False) or set(kinds or []) - set(_WINDOWS):
        yield "its layers carry a state from token to token"
    if getattr(config, "is_encoder_decoder", False) or not getattr(config, "is_causal", True):
        yield "its tokens see what comes after them"
    if not getattr(inner, "_supports_attention_backend", False):
        yield "its attention does not go through the interface of transformers"
    for kind in sorted(set(kinds or ["sliding_attention"]) & set(_WINDOWS)):
        window = getattr(config, _WINDOWS[kind] or "", None)
        if window and window < longest:
            yield f"its attention reaches back {window} tokens, and the longest example has {longest}"
    for name, value in _random_parts(inner, config):
        yield f"it is trained with {name} {value:g}"


def check_positions(model: Any, rows: list[Row], alone: bool) -> None:
    """Raises UsageError where a position means something else beside a longer row: LongRoPE and dynamic NTK look at the
    longest text that is computed at once. alone: whether every row is computed by itself."""
    config = model.config.get_text_config()
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in [ropes] if "rope_type" in ropes else ropes.values():
        border = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        long = {len(row.ids) > border for row in rows}
        if rope.get("rope_type") == "dynamic" and True in long:  # it remembers the longest text so far, too
            way = f"--max-length {border}"
        elif rope.get("rope_type") == "longrope" and len(long) > 1 and not alone:
            way = f"--packing none --tokens-per-batch 1, or --max-length {border}"
        else:
            continue
        raise UsageError(f"{model.config.model_type}: reads positions otherwise beyond {border} tokens, so that longer "
                         f"and shorter examples cannot be computed together; give {way}")  # fmt: skip


def _random_parts(model: Any, config: Any) -> Iterator[tuple[str, float]]:
    """What is drawn anew at every token while training; of heads for other tasks nothing."""
    import torch

    for name, value in config.to_dict().items():
        drawn = ("drop" in name or "jitter" in name) and not name.startswith(("classifier", "summary"))
        if drawn and isinstance(value, float) and value > 0:
            yield name, value
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and module.p > 0:
            yield ("lora_dropout" if "lora" in name else "dropout"), module.p


def _difference(model: Any, rows: list[Row]) -> float:
    """How far losses in a small tree are from those of its rows, relatively; sets the model's attention to trees."""
    import torch

    tokens = (list(dict.fromkeys(max(rows, key=lambda row: len(row.ids)).ids)) * 12)[:12]
    branches = [tokens[:8], tokens[:6] + tokens[8:], tokens[:4] + tokens[6:11]]
    sample = [Row(ids, len(ids) - 1, 1.0) for ids in sorted(branches)]
    training = model.training
    model.eval()
    found = []
    with torch.no_grad():
        for packing in ("none", "tree"):
            if packing == "tree":
                model.set_attn_implementation(attention.TREE)
            found.append(target_losses(model, PACKINGS[packing].part(sample, model.device)))
    model.train(training)
    return float((found[0] - found[1]).norm() / found[0].norm())
