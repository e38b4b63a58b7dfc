"""Checkpoints that another number of processes wrote: weights and AdamW's state, whole or in parts.

One process, and processes with DDP, write a checkpoint whole: `adapter_model.safetensors` (or `model.safetensors`) and
`optimizer.pt`. Processes with FSDP2 each write their parts, in the format of torch.distributed.checkpoint, which any
number of such processes can read. Trainer continues each kind with the same kind only. Here each continues the other,
so that a run may go on in one process or in many.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, load_checkpoint_in_model
from accelerate.utils import load_fsdp_model, load_fsdp_optimizer
from accelerate.utils.constants import FSDP_MODEL_NAME
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
from torch.optim import Optimizer

_OPTIMIZER = "optimizer.pt"  # as Trainer calls it


def is_in_parts(checkpoint: str | Path) -> bool:
    """Return whether a checkpoint was written in parts, by the processes of FSDP2."""
    return any(Path(checkpoint).glob(f"{FSDP_MODEL_NAME}*"))


def load_parts(model: torch.nn.Module, optimizer: Optimizer | None, checkpoint: str, accelerator: Accelerator) -> None:
    """Load a checkpoint that is in parts into a model that is whole in every process.

    Args:
        model: The model, without the wrapper of DDP.
        optimizer: Given, its state is loaded; else the weights are.
        checkpoint: The directory.
        accelerator: That of the run; all its processes take part.
    """
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    if optimizer is None:
        load_fsdp_model(plugin, accelerator, model, checkpoint, adapter_only=True)
    else:
        load_fsdp_optimizer(plugin, accelerator, optimizer, model, checkpoint)


def load_whole_weights(model: torch.nn.Module, checkpoint: str) -> None:
    """Load the weights of a whole checkpoint into a model that is not divided yet."""
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_peft_weights(checkpoint, device="cpu"), model.active_adapter)
    else:
        load_checkpoint_in_model(model, checkpoint)


def load_whole_optimizer(model: torch.nn.Module, optimizer: Optimizer, checkpoint: str) -> None:
    """Load the optimiser's state of a whole checkpoint for a model that is divided; each process keeps its parts.

    A whole state numbers weights in the order of the optimiser's groups; one that can be divided names them.
    """
    saved = torch.load(Path(checkpoint) / _OPTIMIZER, map_location="cpu", weights_only=True)
    name_of = {weight: name for name, weight in model.named_parameters()}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    places = [i for group in saved["param_groups"] for i in group["params"]]
    names = {i: name_of[weight] for i, weight in zip(places, weights, strict=True)}
    state: dict[str, Any] = {
        "state": {names[i]: moments for i, moments in saved["state"].items()},
        "param_groups": [{**group, "params": [names[i] for i in group["params"]]} for group in saved["param_groups"]],
    }
    set_optimizer_state_dict(model, optimizer, optim_state_dict=state, options=StateDictOptions(full_state_dict=True))
