"""The contract of executors, which start workers that hold environments, watch them and end them.

A worker does one job at a time (eexp/workers/worker.py) and is always a process with a guard of its own
(eexp/system/child.py). An executor says on which machine that process runs: on this one (eexp/workers/supervisor.py) or
on those of a Ray cluster (eexp/workers/ray_actors.py). Order, retries and results are decided by those who assign the
jobs, eexp/workers/pool.py and eexp/workers/parallel.py, and are the same on each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from eexp.system.child import ChildFailed


class WorkerHandle(Protocol):
    """A worker, as those who assign jobs see it.

    Attributes:
        busy: Whether it has a job and has not answered yet.
    """

    busy: bool

    def assign(self, job: bytes) -> None:
        """Send a job, one line of JSON. The worker begins at once, or as soon as it has started."""
        ...


class Executor(ABC):
    """Workers that hold environments. Use as a context manager.

    Args:
        target: What follows the name of the executor in --on, such as an address; empty for nothing.
        size: How many workers there may be; None for as many as suit the machines.
        env: The environment of the command line (--env), which stands for those of all records; None for none.
        limit: Seconds that a step may take; a worker that gives no sign of life for longer is ended.
        memory: Bytes that a worker and its descendants may take, or None for no limit.

    Attributes:
        size: How many workers there may be.
        workers: The workers that were started and not lost.
        counts: What went wrong, for the summary.

    Raises:
        EexpError: No worker can be started there.
    """

    size: int
    workers: Sequence[WorkerHandle]
    counts: Counter[str]

    @abstractmethod
    def __init__(self, *, target: str, size: int | None, env: str | None, limit: float, memory: int | None): ...

    @abstractmethod
    def start_worker(self) -> WorkerHandle:
        """Start one more worker and return it. It takes a job at once, also where its start takes time."""

    @abstractmethod
    def free_worker(self, n_waiting: int) -> WorkerHandle | None:
        """Return a worker that has started and is not busy, one that is started now if need be.

        Args:
            n_waiting: How many jobs wait for a worker.

        Returns:
            The worker; None where one is on its way, which `wait` waits for, or where all are busy.
        """

    @abstractmethod
    def end_worker(self, worker: WorkerHandle) -> None:
        """End a worker for which there is no room, so that the others go on without it."""

    @abstractmethod
    def wait(self, at_once: bool = False) -> list[tuple[WorkerHandle, dict | ChildFailed]]:
        """Return the workers that have finished or failed: (worker, its answer or why it was lost).

        Waits until anything has happened. It may be less than an answer, so the list may be empty.

        Args:
            at_once: Do not wait; return only what is there already.

        Raises:
            EexpError: No worker can go on.
        """

    @abstractmethod
    def close(self) -> None:
        """End all workers. Safe to call twice."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
