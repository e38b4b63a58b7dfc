"""Environments: worlds in which an agent plays one episode at a time.

`base.py` is the contract, `registry.py` lists the kinds of environments, `opening.py` opens one by its spec.
"""

from eexp.envs.base import Environment, Observation
from eexp.envs.opening import OpenEnvironments, open_env, unsafe_in_records, without_noise
from eexp.envs.registry import environment_names

__all__ = [
    "Environment",
    "Observation",
    "OpenEnvironments",
    "environment_names",
    "open_env",
    "unsafe_in_records",
    "without_noise",
]
