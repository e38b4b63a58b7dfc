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

OPTIMIZER_FILE = "optimizer.pt"  # the file in an adapter's directory


def save_state(optimizer: Optimizer, directory: Path) -> None:
    """Write the state of an optimiser for the adapter in a directory, as Trainer's checkpoints hold it."""
    data = io.BytesIO()
    torch.save(optimizer.state_dict(), data)
    replace_file(directory / OPTIMIZER_FILE, data.getvalue())


def load_state(optimizer: Optimizer, directory: Path) -> None:
    """Give an optimiser the state that was saved for the adapter in a directory, if there is one.

    Learning rate and weight decay stay those of the optimiser. A weight that has never had a gradient has no state.

    Raises:
        EexpError: It cannot be read, or is that of an adapter with other weights.
    """
    file = directory / OPTIMIZER_FILE
    if not file.is_file():
        return
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        state: dict[int, dict[str, Any]] = saved["state"]
        places = [i for group in saved["param_groups"] for i in group["params"]]
        shapes = {i: tuple(moments["exp_avg"].shape) for i, moments in state.items()}
    except Exception as e:  # torch raises errors of many kinds for a file that is cut off or is none of its own
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise EexpError(f"{file}: cannot be read as an optimiser's state: {reason}") from None
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    known = dict(zip(places, map(lambda weight: tuple(weight.shape), weights)))
    if len(places) != len(weights) or any(known.get(i) != shape for i, shape in shapes.items()):
        raise EexpError(f"{file}: was saved for an adapter with other weights")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
