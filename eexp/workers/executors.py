"""Where workers run: the executors that `--on` names.

Other packages add executors under the entry-point group `eexp.executors`: a name, and the path of a class that keeps
the contract of `base.Executor`, or of a function that returns one. The built-in ones are opened in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eexp.system.plugins import Registry

if TYPE_CHECKING:
    from eexp.workers.base import Executor

LOCAL = "local"
MOST_WORKERS = 8  # on this machine, by default; a JVM in each takes half a gigabyte
MOST_LIGHT = 32  # environments in one process, by default
EXECUTORS = Registry(
    "eexp.executors",
    "executor",
    {
        LOCAL: ("eexp.workers.supervisor:Supervisor", "processes on this machine"),
        "ray": ("eexp.workers.ray_executor:open_actors", "processes on a Ray cluster (needs eexp[ray])"),
    },
)


def open_executor(on: str, size: int | None, env: str | None, limit: float, memory: int | None) -> Executor:
    """Return the executor that `on` names: NAME or NAME:TARGET.

    Args:
        on: Such as `local` or `ray:10.0.0.1:6379`.
        size, env, limit, memory: As for `Executor`.

    Raises:
        UsageError: There is no such executor.
        EexpError: It cannot be loaded, or it can start no worker.
    """
    name, _, target = on.partition(":")
    create = EXECUTORS.guarded(name, EXECUTORS.load(name))
    return create(target=target, size=size, env=env, limit=limit, memory=memory)
