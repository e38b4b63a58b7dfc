"""Weights that are divided over processes (FSDP2, `fully_shard`), by the settings of accelerate.

accelerate divides weights on the kinds of devices that it lists. CPUs are not among them, and it falls back to DDP
there, where every process holds all weights, without a word. Here weights are divided over CPUs as well, and a run
whose weights are not divided although the launcher asked for it ends with an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from eexp.errors import EexpError
from eexp.training.distributed import asks_for_sharding


def check_request(four_bit: bool, keep_optimizer: bool) -> None:
    """Raise EexpError if the launcher asks for weights to be divided in a way that cannot be.

    Args:
        four_bit: Whether the base is in 4 bits.
        keep_optimizer: Whether the optimiser's state is saved beside the weights.
    """
    if not asks_for_sharding():
        return
    if "LOCAL_RANK" not in os.environ:
        raise EexpError("ACCELERATE_USE_FSDP is set, but no launcher started this process; use accelerate launch")
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise EexpError("FSDP of version 1 is not supported; give accelerate launch --fsdp_version 2")
    if four_bit:
        raise EexpError("--load-in-4bit: FSDP does not divide weights in 4 bits; use DDP")
    if keep_optimizer:
        raise EexpError("--keep-optimizer needs the whole state in one process, which FSDP divides; use DDP")


def is_sharded(model: torch.nn.Module) -> bool:
    """Return whether every process holds only a part of each weight of a model."""
    return all(isinstance(weight, DTensor) for weight in model.parameters())


def check_result(model: torch.nn.Module) -> None:
    """Raise EexpError if the launcher asked for divided weights, and those of a model are whole."""
    if asks_for_sharding() and not is_sharded(model):
        raise EexpError("FSDP was asked for, but accelerate has not divided the weights; see its settings, or use DDP")


@contextmanager
def sharding_on_cpus() -> Iterator[None]:
    """Let an Accelerator that is made within the block divide weights over CPUs, too, if the launcher asks for it.

    What accelerate goes by is the kind of the processes' device, which is one of its list here while it reads its
    settings; then it is FSDP. The device and the backend (gloo) were chosen before, and stay.
    """
    if asks_for_sharding() and PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    yield


def whole_weights(model: torch.nn.Module) -> dict[str, Any]:
    """Return the weights of a divided model that are trained, whole; all processes take part, the first has them.

    With --full these are all weights; without, those of the adapter. Tied weights are there once.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    names = {name for tensors in (model.named_parameters(), model.named_buffers()) for name, _ in tensors}
    return {name: tensor for name, tensor in get_model_state_dict(model, options=options).items() if name in names}
