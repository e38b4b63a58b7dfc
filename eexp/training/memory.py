"""How much memory a training run takes, and whether there is as much."""

from __future__ import annotations

import os
from typing import Any

from eexp.errors import EexpError
from eexp.models import hf


def estimate(model: Any, tokens: int, targets: float, itemsize: int, checkpointing: bool) -> dict[str, int]:
    """Bytes, about: weights, gradients, AdamW's two moments, and what a pass of `tokens` keeps for its way back.

    targets: their share of the tokens. itemsize: of what is computed in. A layer keeps about 10 vectors of its width
    and 4 of its feed-forward part for each token (attention keeps no scores); checkpointing keeps one, and all of one
    layer at a time. A target has three vectors of logits, on its way back.
    """
    config = model.config.get_text_config()
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * width
    inner = max(inner) if isinstance(inner, (list, tuple)) else inner  # one a layer
    layer = tokens * (10 * width + 4 * inner) * itemsize
    layers = config.num_hidden_layers
    kept = layers * tokens * width * itemsize + layer if checkpointing else layers * layer
    logits = int(tokens * min(1.0, targets) * config.vocab_size * 4 * 3)
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    trained = sum(size for size, learns in sizes if learns)
    return {
        "weights": sum(size for size, _ in sizes),
        "gradients": trained,
        "optimiser": 2 * trained,
        "activations": kept + logits,
    }


def check(base: str, dtype: Any, *, full: bool, four_bit: bool, trust_remote_code: bool = False) -> None:
    """Raises EexpError if what a run takes in any case, before its first pass, is more than is free.

    Looks at the model's configuration alone, so that nothing is loaded in vain. An adapter's own weights are few, and
    not counted. Models split over processes (FSDP) are let pass.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if is_split():
        return
    config = hf.load_config(base, trust_remote_code)
    try:
        with torch.device("meta"):  # not accelerate's init_empty_weights, which counts tied weights twice
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception:  # loading says what is wrong, in a better line
        return
    count = sum(p.numel() for p in model.parameters())
    weights = count // 2 if four_bit else count * dtype.itemsize
    sizes = {"weights": weights, **({"gradients": weights, "optimiser": 2 * weights} if full else {})}
    there = free()
    if sum(sizes.values()) <= there:
        return
    parts = ", ".join(f"{name} {in_words(size)}" for name, size in sizes.items())
    way = "train an adapter instead of --full" if full else "take a smaller model"
    if not full and not four_bit and torch.cuda.is_available():
        way = "give --load-in-4bit"
    raise EexpError(
        f"{base}: to train {count:,} weights takes at least "
        f"{in_words(sum(sizes.values()))} ({parts}), and {in_words(there)} are free; {way}"
    )


def doubt(needed: dict[str, int], tokens_per_batch: int) -> str | None:
    """What to tell if a loaded model is, by the estimate, going to take more than there is."""
    if is_split():
        return None
    there = free() + needed["weights"]  # which are loaded
    if sum(needed.values()) <= there:
        return None
    return (
        f"by a rough estimate {in_words(sum(needed.values()))} will be taken, and {in_words(there)} are free; "
        f"--tokens-per-batch below {tokens_per_batch} and --gradient-checkpointing take less"
    )


def is_split() -> bool:
    """Whether processes hold a part of the weights each (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def free() -> int:
    """Bytes that this process may take, on the GPU if there is one."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info(int(os.environ.get("LOCAL_RANK", "0")))[0]
    return psutil.virtual_memory().available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def in_words(size: int) -> str:
    """1.5 GB, 20 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
