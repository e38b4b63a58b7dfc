"""The memory of a training run: what it takes, what is free, and how it is kept from one pass to the next."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from eexp.errors import EexpError
from eexp.models import hf
from eexp.models.devices import local_device
from eexp.terminal import format_bytes
from eexp.training.distributed import asks_for_sharding, local_process_count, local_rank
from eexp.training.job import Job


def estimate_job(job: Job) -> dict[str, int]:
    """Return about how many bytes a job takes, by what they hold."""
    trained = job.run["trained"]
    return estimate(
        job.model,
        trained["largest_pass"],
        trained["target_tokens"] / trained["computed_tokens"],
        job.dtype.itemsize,
        job.settings.gradient_checkpointing,
    )


def estimate(
    model: PreTrainedModel, tokens: int, target_share: float, itemsize: int, checkpointing: bool
) -> dict[str, int]:
    """Return about how many bytes a run takes: weights, gradients, AdamW's two moments, and the activations of a pass.

    A layer keeps about 10 vectors of its width and 4 of its feed-forward part for each token (attention keeps no
    scores); with checkpointing it keeps one, and one layer at a time keeps all of them. A target has three vectors of
    logits in the backward pass.

    Args:
        model: The model, loaded.
        tokens: Tokens of the largest pass.
        target_share: The share of them that are targets.
        itemsize: Bytes of a number that is computed.
        checkpointing: Whether activations are computed again in the backward pass.
    """
    config = model.config.get_text_config()
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * width
    inner = max(inner) if isinstance(inner, (list, tuple)) else inner  # one for each layer
    layer = tokens * (10 * width + 4 * inner) * itemsize
    layers = config.num_hidden_layers
    activations = layers * tokens * width * itemsize + layer if checkpointing else layers * layer
    logits = int(tokens * min(1.0, target_share) * config.vocab_size * 4 * 3)
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    trained = sum(size for size, requires_grad in sizes if requires_grad)
    return {
        "weights": sum(size for size, _ in sizes),
        "gradients": trained,
        "optimiser": 2 * trained,
        "activations": activations + logits,
    }


def check(base: str, dtype: torch.dtype, *, full: bool, four_bit: bool, trust_remote_code: bool = False) -> None:
    """Raise EexpError if a run takes more memory before its first pass than is free.

    The model's configuration suffices for this, so nothing is loaded in vain. An adapter's own weights are few, and not
    counted. Models whose weights are split over processes (FSDP) are not checked.
    """
    if asks_for_sharding():
        return
    config = hf.load_config(base, trust_remote_code)
    try:
        with torch.device("meta"):  # not accelerate's init_empty_weights, which counts tied weights twice
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception:  # loading the model fails too, with a better message
        return
    count = sum(p.numel() for p in model.parameters())
    weights = count // 2 if four_bit else count * dtype.itemsize
    sizes = {"weights": weights, **({"gradients": weights, "optimiser": 2 * weights} if full else {})}
    available = free()
    if sum(sizes.values()) <= available:
        return
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items())
    advice = "train an adapter instead of --full" if full else "take a smaller model"
    if not full and not four_bit:
        advice = "give --load-in-4bit"
    raise EexpError(
        f"{base}: to train {count:,} weights takes at least "
        f"{format_bytes(sum(sizes.values()))} ({parts}), and {format_bytes(available)} are free; {advice}"
    )


def shortage_warning(needed: dict[str, int], tokens_per_batch: int) -> str | None:
    """Return a warning if a run is going to take more memory than there is, by its estimate; else None.

    Args:
        needed: The estimate, of a model that is loaded.
        tokens_per_batch: The setting of this name, for the message.
    """
    if asks_for_sharding():
        return None
    available = free() + needed["weights"]  # these are loaded already
    if sum(needed.values()) <= available:
        return None
    return (
        f"by a rough estimate {format_bytes(sum(needed.values()))} will be taken, and {format_bytes(available)} are "
        f"free; --tokens-per-batch below {tokens_per_batch} and --gradient-checkpointing take less"
    )


def free() -> int:
    """Return the bytes that this process may take, on its GPU if that has memory of its own, else of the main memory.

    Processes on one machine have equal shares of the latter.
    """
    device = local_device(local_rank())
    if device.type in ("cpu", "mps"):
        return psutil.virtual_memory().available // local_process_count()
    return torch.get_device_module(device).mem_get_info(device)[0]


# The numbers of options of glibc's mallopt, in malloc.h, and their values when a process starts.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_TRIM_DEFAULT, _MMAP_DEFAULT = 128 * 1024, 65536


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what is freed within the block for the next allocation, and give it back to the system at the end.

    Each pass allocates the same gigabytes anew. By default glibc returns them to the system in between, which has to
    fill them with zeros again, page by page. On a CPU that is a fifth of the time of training a small model. With
    another C library than glibc this does nothing.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _MMAP_DEFAULT)
        libc.mallopt(_TRIM_THRESHOLD, _TRIM_DEFAULT)
        libc.malloc_trim(0)
