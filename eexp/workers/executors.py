"""Where workers run: the executors that `--on` names.

Other packages add executors under the entry-point group `eexp.executors`: a name, and the path of a class that keeps
the contract of `base.Executor`, or of a function that returns one. The built-in ones are opened in the same way.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from eexp.errors import EexpError, UsageError

if TYPE_CHECKING:
    from eexp.workers.base import Executor

ENTRY_POINTS = "eexp.executors"
LOCAL = "local"
MOST_WORKERS = 8  # on this machine, by default; a JVM in each takes half a gigabyte
MOST_LIGHT = 32  # environments in one process, by default
BUILT_IN = {LOCAL: "eexp.workers.supervisor:Supervisor", "ray": "eexp.workers.ray_executor:open_actors"}


def executor_paths() -> dict[str, str]:
    """Return all executors, built in or registered: name -> `package.module:attribute`."""
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)} | BUILT_IN


def check_executor(on: str) -> None:
    """Raise UsageError if there is no executor of the name in `on`, such as `ray:10.0.0.1:6379`."""
    name = on.partition(":")[0]
    if name not in BUILT_IN and name not in executor_paths():
        raise UsageError(f"no executor {name!r}; there are: {', '.join(sorted(executor_paths()))}")


def open_executor(on: str, size: int | None, env: str | None, limit: float, memory: int | None) -> Executor:
    """Return the executor that `on` names: NAME or NAME:TARGET.

    Args:
        on: Such as `local` or `ray:10.0.0.1:6379`.
        size, env, limit, memory: As for `Executor`.

    Raises:
        UsageError: There is no such executor.
        EexpError: It cannot be loaded, or it can start no worker.
    """
    check_executor(on)
    name, _, target = on.partition(":")
    module, _, attribute = (BUILT_IN.get(name) or executor_paths()[name]).partition(":")
    try:
        create = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise EexpError(f"--on {name} cannot be loaded: {e}") from None
    return create(target=target, size=size, env=env, limit=limit, memory=memory)
