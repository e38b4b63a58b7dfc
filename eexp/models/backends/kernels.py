"""Try what computes in bfloat16 and in 4 bits on a CPU in a process of its own, before this process does.

The kernels of torch and of bitsandbytes for these types use instructions that not every processor has (AVX512-BF16,
AMX). One that is chosen wrongly ends the process without a word. A trial multiplies small matrices, forward and
backward. Nearly all of its time is the import of torch, and of bitsandbytes for 4 bits, so its result is remembered for
the processor, the builds of these libraries, and the variables that choose kernels. Computing in float32 alone is not
tried, nor is a GPU.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from eexp.errors import EexpError
from eexp.models.devices import local_device
from eexp.system.trial import processor, recall, remember, try_function

LIMIT = 300.0  # seconds for a trial on a busy machine
FOUR_BITS = "4 bits"
_SWITCHES = ("ATEN_", "DNNL_", "MKL_", "ONEDNN_", "BNB_")
_ROWS = (1, 2, 33, 128)  # of the matrices: from a single token on
_WIDTH = 256


@dataclass(frozen=True)
class KernelCrash:
    """What ends a process on this machine."""

    computing: str  # what it computes in: a type such as "bfloat16", or FOUR_BITS
    reason: str  # what ends, and by which signal, in words


def crash_of(dtype: torch.dtype, four_bit: bool = False) -> KernelCrash | None:
    """Return what ends a process that computes in this type on this machine; None where nothing does.

    Args:
        dtype: The type that is computed in.
        four_bit: Whether weights are bitsandbytes' NF4.
    """
    if (dtype == torch.float32 and not four_bit) or local_device().type != "cpu":
        return None
    name = str(dtype).removeprefix("torch.")
    key = {"computes": [name, four_bit], "processor": processor(), "libraries": _builds(four_bit)}
    match recall(key):
        case {"crash": None}:
            return None
        case {"computing": str(computing), "reason": str(reason)}:
            return KernelCrash(computing, reason)
    ended = try_function("eexp.models.backends.kernels:multiply", [name, four_bit], LIMIT, name)
    if ended.status == 0:
        remember(key, {"crash": None})
    # A trial that failed with an error says nothing: so will this process, with the reason. Nor does a slow import.
    if not ended.died or (ended.hung and not ended.reached):
        return None
    computing, library = (FOUR_BITS, "bitsandbytes") if ended.reached == "torch" else (name, "torch")
    end = f"does not end in {LIMIT:g} s" if ended.hung else f"ends with {ended.reason}"
    version = importlib.metadata.version(library)
    crash = KernelCrash(computing, f"computing in {computing} {end} on this processor ({library} {version})")
    if not ended.hung:
        remember(key, asdict(crash))
    return crash


def refuse_crash(dtype: torch.dtype, four_bit: bool) -> None:
    """Raise EexpError if what a command line asks to compute in ends the process; the arguments are those of above."""
    if crash := crash_of(dtype, four_bit):
        in_four_bits = crash.computing == FOUR_BITS
        option = "--load-in-4bit" if in_four_bits else f"--dtype {crash.computing}"
        raise EexpError(f"{option}: {crash.reason}; {'leave it out' if in_four_bits else 'give --dtype float32'}")


def _builds(four_bit: bool) -> list[object]:
    """Return what identifies the libraries, without importing bitsandbytes: a crash could come as early."""
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_SWITCHES)}
    bitsandbytes = importlib.metadata.version("bitsandbytes") if four_bit else None
    return [torch.__version__, torch.version.git_version, bitsandbytes, variables]


def multiply(dtype: str, four_bit: bool, report: Callable[[bytes], object]) -> None:
    """Compute as a model does, forward and backward: with `dtype` and then, if `four_bit`, with weights in 4 bits."""
    report(b"imported")
    number_format = getattr(torch, dtype)
    _run(torch.nn.Linear(_WIDTH, 2 * _WIDTH, dtype=number_format), number_format)
    query = torch.randn(1, 4, 33, 64, dtype=number_format, requires_grad=True)
    scaled_dot_product_attention(query, query, query, is_causal=True).float().sum().backward()
    report(b"torch")
    if four_bit:
        from bitsandbytes.nn.modules import Linear4bit

        layer = Linear4bit(_WIDTH, 2 * _WIDTH, bias=False, compute_dtype=number_format, quant_type="nf4")
        layer.support_avx512bf16_for_cpu = False  # as in hf.load_model
        _run(layer.to("cpu"), number_format)


def _run(layer: torch.nn.Module, dtype: torch.dtype) -> None:
    for rows in _ROWS:
        given = torch.randn(rows, _WIDTH, dtype=dtype, requires_grad=True)
        layer(given).float().sum().backward()
        with torch.no_grad():
            layer(given)
