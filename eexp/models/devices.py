"""The device that this process computes on: the accelerator that torch finds (CUDA, ROCm, XPU, MPS), else the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch


def local_device(index: int = 0) -> torch.device:
    """Return the device of the process of this number among those on this machine."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else torch.device(accelerator.type, index)


def device_name() -> str:
    """Return the name of the device: that of the product where torch knows it, else its kind."""
    device = local_device()
    name: Callable[[], str] | None = getattr(torch.get_device_module(device), "get_device_name", None)
    return name() if name else device.type


def prefers_bfloat16() -> bool:
    """Return whether the device is an accelerator that says of itself that it computes in bfloat16.

    CPUs and MPS can do so too, but do not say whether it is fast.
    """
    device = local_device()
    supported: Callable[[], bool] | None = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return device.type != "cpu" and supported is not None and supported()
