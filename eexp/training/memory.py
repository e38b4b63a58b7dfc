"""The memory of a training run: what it takes, what is free, and how it is kept from one pass to the next."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from eexp.errors import EexpError
from eexp.models.backends import hf
from eexp.models.devices import local_device
from eexp.system.terminal import format_bytes
from eexp.training.distributed import asks_for_sharding, local_process_count, local_rank
from eexp.training.job import Job


def estimate_job(job: Job) -> dict[str, int]:
    """Return about how many bytes a job takes, by what they hold."""
    trained, settings = job.run["trained"], job.settings
    return estimate(
        job.model,
        trained["largest_pass"],
        trained["target_tokens"] / trained["computed_tokens"],
        job.dtype,
        four_bit=settings.load_in_4bit,
        checkpointing=settings.gradient_checkpointing,
    )


def estimate(
    model: PreTrainedModel,
    tokens: int,
    target_share: float,
    dtype: torch.dtype,
    *,
    four_bit: bool = False,
    checkpointing: bool = False,
) -> dict[str, int]:
    """Return about how many bytes a run takes: weights, gradients, AdamW's two moments, and the activations of a pass.

    For each token, the backward pass needs of a layer what its norms read, in float32; and the normalised vectors,
    queries, keys, values, the outputs of attention (twice), and four vectors of the feed-forward part, in the type that
    is computed in. If all weights are trained, norms keep what they multiply with their weights as well; in bfloat16,
    every linear layer keeps its own copy of what it reads and of its weights, which are held in float32. With
    checkpointing, a layer keeps one vector of its width, and one layer at a time keeps everything. At the end come
    either the logits, a target of which takes about five vectors, or the gradients of the last layer.

    Args:
        model: The model, with its adapter if it has one; its weights may be on the device `meta`.
        tokens: Tokens of the largest pass.
        target_share: The share of them that are targets.
        dtype: The type that is computed in, and that frozen weights are held in.
        four_bit: Whether the base's linear layers are held in 4 bits.
        checkpointing: Whether activations are computed again in the backward pass.
    """
    config = model.config.get_text_config()
    width, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * width
    inner = max(inner) if isinstance(inner, (list, tuple)) else inner  # one for each layer
    heads = getattr(config, "num_attention_heads", None) or 1
    head = getattr(config, "head_dim", None) or width // heads
    keys = (getattr(config, "num_key_value_heads", None) or heads) * head
    size = dtype.itemsize
    frozen, trained = weight_bytes(model, dtype, four_bit)
    kept = 4 * 2 * width + size * (5 * width + 2 * keys + 4 * inner)
    copies = 0
    if not frozen:
        kept += 4 * 2 * width
        if size < 4:
            kept += size * 4 * width
            copies = trained * size // 4
    layer = tokens * kept
    activations = layers * tokens * width * size + layer if checkpointing else layers * layer
    logits = int(tokens * min(1.0, target_share) * config.vocab_size * 4 * 5)
    gradients_of_layer = tokens * size * 3 * inner
    return {
        "weights": frozen + trained,
        "gradients": trained,
        "optimiser": 2 * trained,
        "activations": activations + copies + max(logits, gradients_of_layer),
    }


def weight_bytes(model: PreTrainedModel, dtype: torch.dtype, four_bit: bool) -> tuple[int, int]:
    """Return how many bytes the weights of a model take: those that are frozen, and those that are trained.

    The latter are float32. NF4 takes half a byte for a weight, a byte for the scale of 64, and 4 for the scale of 256
    scales. The layer that gives the logits is not in 4 bits.

    Args:
        model: The model; its weights may be of another type, or on the device `meta`.
        dtype: The type that frozen weights are held in.
        four_bit: Whether the base's linear layers are held in 4 bits.
    """
    in_four_bits: dict[int, int] = {}
    if four_bit:
        output = model.get_output_embeddings()
        in_four_bits = {
            id(module.weight): module.in_features * module.out_features
            for module in model.modules()
            if isinstance(module, torch.nn.Linear) and module is not output and not module.weight.requires_grad
        }
    frozen = trained = 0
    for weight in model.parameters():
        if weight.requires_grad:
            trained += weight.numel() * 4
        elif id(weight) in in_four_bits:
            frozen += round(in_four_bits[id(weight)] * (1 / 2 + 1 / 64 + 4 / 64 / 256))
        else:
            frozen += weight.numel() * dtype.itemsize
    return frozen, trained


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
    model.requires_grad_(full)
    count = sum(p.numel() for p in model.parameters())
    frozen, trained = weight_bytes(model, dtype, four_bit)
    sizes = {"weights": frozen + trained, **({"gradients": trained, "optimiser": 2 * trained} if full else {})}
    available = free()
    if sum(sizes.values()) <= available:
        return
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items())
    advice = "train an adapter instead of --full" if full else "take a smaller model"
    if not full and not four_bit:
        advice = "give --load-in-4bit" + (" or --dtype bfloat16" if dtype == torch.float32 else "")
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
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_TRIM_DEFAULT, _MMAP_THRESHOLD_DEFAULT, _MMAP_DEFAULT = 128 * 1024, 128 * 1024, 65536

PLENTY = 3.0  # how many times its estimate has to be free for a run to keep the memory that it frees


def has_plenty(needed: dict[str, int]) -> bool:
    """Return whether a run, whose model is loaded, may keep the memory that it frees for its next allocations."""
    return sum(needed.values()) * PLENTY <= free() + needed["weights"]


@contextmanager
def freed_memory(*, kept: bool) -> Iterator[None]:
    """Keep what is freed within the block for the next allocation, or return it to the system at once.

    Each pass allocates the same gigabytes anew. By default glibc returns some of them to the system in between, which
    has to fill them with zeros again, page by page. On a CPU that is a fifth of the time of training a small model.
    What is kept has holes, though, so that the process may hold twice what is in use. Returned at once, it holds what
    is in use and no more. With another C library than glibc this does nothing.

    Args:
        kept: Whether to keep it until the end of the block.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    if kept:
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)
    else:
        libc.mallopt(_MMAP_THRESHOLD, _MMAP_THRESHOLD_DEFAULT)  # which otherwise rises with what is freed
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _MMAP_DEFAULT)
        libc.mallopt(_TRIM_THRESHOLD, _TRIM_DEFAULT)
        libc.malloc_trim(0)
