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

import torch
from torch.nn.functional import scaled_dot_product_attention

from eexp.errors import EexpError
from eexp.models.devices import local_device
from eexp.processes.trial import processor, recall, remember, try_function

LIMIT = 300.0  # seconds for a trial on a busy machine
_SWITCHES = ("ATEN_", "DNNL_", "MKL_", "ONEDNN_", "BNB_")
_ROWS = (1, 2, 33, 128)  # of the matrices: from a single token on
_WIDTH = 256


def crash_of(dtype: torch.dtype, four_bit: bool = False) -> str | None:
    """Return, in words, how computing in this type ends a process on this machine; None where it does not.

    Args:
        dtype: The type that is computed in.
        four_bit: Whether weights are bitsandbytes' NF4.
    """
    if (dtype == torch.float32 and not four_bit) or local_device().type != "cpu":
        return None
    name = str(dtype).removeprefix("torch.")
    key = {"computes": [name, four_bit], "processor": processor(), "libraries": _builds(four_bit)}
    match recall(key):
        case {"crash": None | str() as crash}:
            return crash
    ended = try_function("eexp.models.kernels:multiply", [name, four_bit], LIMIT, f"trial of {name}")
    if not ended.died:  # where it failed with an error, so will this process, which gives the reason
        if ended.status == 0:
            remember(key, {"crash": None})
        return None
    library, kind = ("bitsandbytes", "4 bits") if ended.reached == "torch" else ("torch", name)
    version = importlib.metadata.version(library)
    crash = f"computing in {kind} ends {library} {version} with {ended.reason} on this processor"
    if not ended.hung:
        remember(key, {"crash": crash})
    return crash


def refuse_crash(dtype: torch.dtype, four_bit: bool) -> None:
    """Raise EexpError if what the command line asks to compute in ends the process; the arguments are as above."""
    if crash := crash_of(dtype, four_bit):
        option = "--load-in-4bit" if four_bit else "--dtype bfloat16"
        hint = "leave it out" if four_bit else "give --dtype float32"
        raise EexpError(f"{option}: {crash}; {hint}")


def _builds(four_bit: bool) -> list[object]:
    """Return what identifies the libraries, without importing bitsandbytes: a crash could come as early."""
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_SWITCHES)}
    bitsandbytes = importlib.metadata.version("bitsandbytes") if four_bit else None
    return [torch.__version__, torch.version.git_version, bitsandbytes, variables]


def multiply(dtype: str, four_bit: bool, report: Callable[[bytes], object]) -> None:
    """Compute as a model does, forward and backward: with `dtype` and then, if `four_bit`, with weights in 4 bits."""
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
