"""Open the executor `ray`: find a cluster or start one, and only then import Ray, which reads its variables at that."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from eexp.errors import EexpError
from eexp.system.cores import usable_cores
from eexp.workers.executors import MOST_WORKERS
from eexp.workers.ray_cluster import own_cluster

if TYPE_CHECKING:
    from eexp.workers.ray_actors import RayActors


def open_actors(
    *, target: str, size: int | None, env: str | None, limit: float, memory: int | None = None
) -> RayActors:
    """Return the executor `ray`.

    Args:
        target: The address of the cluster, HOST:PORT or auto. Empty for $RAY_ADDRESS or, without that, a cluster that
            is started on this machine and ends with this process.
        size: How many workers there may be; None for one a CPU, for as many as `Supervisor` on this machine.
        env, limit, memory: As for `Executor`.

    Raises:
        EexpError: Ray is not installed, there is no such cluster, or other versions run there.
    """
    if find_spec("ray") is None:
        raise EexpError("--on ray needs Ray, which is not installed: `pip install 'eexp[ray]'`")
    # Ray reads these when it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"  # of jobs whose answers nothing waits for any more
    address = target or os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://"):
        raise EexpError(f"--on ray:{address}: Ray Client is not supported; give HOST:PORT, on a machine of the cluster")
    is_own = not address
    if is_own:
        size = size or min(usable_cores(), MOST_WORKERS)
        address = own_cluster(max(2, size))  # for audits there are two workers at least (eexp/workers/pool.py)
    from eexp.workers.ray_actors import RayActors

    return RayActors(address, is_own, size, env, limit, memory)
