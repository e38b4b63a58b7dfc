"""Environments: worlds in which an agent plays one episode at a time.

`base.py` is the contract, `registry.py` lists the kinds of environments, `opening.py` opens one by its spec.
"""

from typing import TYPE_CHECKING

from eexp.late import late_names

if TYPE_CHECKING:
    from eexp.envs.base import Environment, Observation
    from eexp.envs.opening import OpenEnvironments, open_env, unsafe_in_records, without_noise
    from eexp.envs.registry import environment_names
else:
    __getattr__ = late_names(
        __name__,
        {
            "Environment": "base",
            "Observation": "base",
            "OpenEnvironments": "opening",
            "environment_names": "registry",
            "open_env": "opening",
            "unsafe_in_records": "opening",
            "without_noise": "opening",
        },
    )

__all__ = [
    "Environment",
    "Observation",
    "OpenEnvironments",
    "environment_names",
    "open_env",
    "unsafe_in_records",
    "without_noise",
]
