"""Processes that train one model together, as `torchrun` and `accelerate launch` describe them in the environment."""

from __future__ import annotations

import os


def process_count() -> int:
    """Return the number of processes that train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_rank() -> int:
    """Return the number of this process among all that train together, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_process_count() -> int:
    """Return the number of processes that train together on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return the number of this process among those on this machine, from 0; also that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def asks_for_sharding() -> bool:
    """Return whether the launcher asks for the weights to be divided over the processes (FSDP).

    Whether they are is another question (sharding.py).
    """
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
