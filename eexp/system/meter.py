"""What a run takes: time, processor time of this process and its children, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar, cast

T = TypeVar("T")

#: Bytes in the unit of ru_maxrss.
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024


class Meter:
    """Measures one run, from the start of this process on.

    Attributes:
        waited: Seconds that this process has waited for its input, and for room to write its output.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self._began = time.monotonic()
        self._start: tuple[float, float] | None = None  # seconds and processor time at the first record

    def note_first_record(self) -> None:
        """Note that the first record is done: what was taken until now, a run takes once."""
        cpu_seconds = _cpu_seconds()  # first, because it takes time itself
        self._start = self._seconds(), cpu_seconds

    def reading(self, pieces: Iterable[T]) -> Iterator[T]:
        """Yield what is read, and count the time that it takes to come as waited for."""
        iterator = iter(pieces)
        while True:
            with self.waiting():
                piece = next(iterator, self)
            if piece is self:
                return
            yield cast(T, piece)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waited for, such as that for room in a pipe."""
        before = time.monotonic()
        try:
            yield
        finally:
            self.waited += time.monotonic() - before

    def measured(self) -> dict[str, float | int]:
        """Return what the run has taken so far.

        Returns:
            seconds: Without those in which it waited for its input, or for the next stage of a pipe.
            start_seconds: Those up to the first record: a model that is loaded, workers that are started.
            cpu_seconds: Processor time of this process and of all processes below it.
            start_cpu_seconds: That up to the first record.
            memory: Most bytes that this process has held.
            worker_memory: Most bytes that one of its children has held.
            cores: Processors that this process may use.
        """
        from eexp.system.cores import usable_cores

        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        seconds, cpu_seconds = self._seconds(), _cpu_seconds()
        start_seconds, start_cpu_seconds = self._start or (seconds, cpu_seconds)
        # The time of a process that nobody waited for is gone when it ends.
        cpu_seconds = max(cpu_seconds, start_cpu_seconds)
        return {
            "seconds": round(seconds, 3),
            "start_seconds": round(start_seconds, 3),
            "cpu_seconds": round(cpu_seconds, 3),
            "start_cpu_seconds": round(start_cpu_seconds, 3),
            "memory": own.ru_maxrss * _MEMORY_UNIT,
            "worker_memory": children.ru_maxrss * _MEMORY_UNIT,
            "cores": usable_cores(),
        }

    def _seconds(self) -> float:
        return time.monotonic() - self._began - self.waited


def _cpu_seconds() -> float:
    """Return the processor time of this process and of all below it, whether they have ended or are running."""
    import psutil

    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            total += sum(child.cpu_times()[:4])  # its own, and of those that it has waited for
    return total
