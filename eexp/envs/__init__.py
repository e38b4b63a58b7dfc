"""Environments: worlds in which an agent plays one episode at a time.

`base.py` is the contract, `registry.py` lists the kinds of environments, `opening.py` opens one by its spec.

What comes in are specs, tasks, and actions as text. What goes out are observations and what the optional methods of the
contract say of a state, and, for the rooms above, steps of trajectories, forks, and differences from records. What must
hold: the same actions in the same task lead to the same observations, and an environment, whether it comes with eexp
(worlds/, bridges/) or from elsewhere, imports of this room base.py, spec_options.py and logins.py alone.
"""

from typing import TYPE_CHECKING

from eexp.system.late import late_names

if TYPE_CHECKING:
    from eexp.envs.base import Environment, Observation
    from eexp.envs.opening import OpenEnvironments, open_env, unsafe_in_records, without_wrappers
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
            "without_wrappers": "opening",
        },
    )

__all__ = [
    "Environment",
    "Observation",
    "OpenEnvironments",
    "environment_names",
    "open_env",
    "unsafe_in_records",
    "without_wrappers",
]
