"""The optimiser's state beside an adapter, for training in rounds.

AdamW divides a mean of past gradients by the root of a mean of their squares. A new one knows one gradient after its
first update, so it moves every weight by the whole learning rate, whether its gradient is signal or noise. Where a
round is few updates long, as in reinforcement learning, the means have to outlive the round.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from eexp.errors import EexpError
from eexp.training.files import replace_file

#: The file in an adapter's directory.
OPTIMIZER_FILE = "optimizer.pt"


def save_state(optimizer: Optimizer, directory: Path) -> None:
    """Write the state of an optimiser for the adapter in a directory."""
    data = io.BytesIO()
    torch.save(optimizer.state_dict()["state"], data)
    replace_file(directory / OPTIMIZER_FILE, data.getvalue())


def load_state(optimizer: Optimizer, directory: Path) -> bool:
    """Give an optimiser the state that was saved for the adapter in a directory.

    Learning rate and weight decay stay those of the optimiser.

    Returns:
        Whether there was one.

    Raises:
        EexpError: It cannot be read, or is that of an adapter with other weights.
    """
    file = directory / OPTIMIZER_FILE
    if not file.is_file():
        return False
    try:
        state: dict[int, dict[str, Any]] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises errors of many kinds for a file that is cut off or is none of its own
        raise EexpError(f"{file}: cannot be read: {str(e).splitlines()[0]}") from None
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    shapes = [tuple(weight.shape) for weight in weights]
    if shapes != [tuple(state[i]["exp_avg"].shape) if i in state else None for i in range(len(weights))]:
        raise EexpError(f"{file}: was saved for an adapter with other weights")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return True
