"""Start worker processes that hold environments, watch them while they work, and end them.

A worker does one job at a time (eexp/workers/worker.py). One that dies, gives no sign of life for too long or takes too
much memory is ended, and the caller is told so in place of an answer. No worker outlives this process, nor does any
descendant of one (eexp/system/child.py).

Memory is limited twice. The total of a worker and all its descendants is measured at intervals. Between two
measurements the kernel refuses any single process more than KERNEL_SHARE times the limit, so that none can take the
whole machine. The kernel counts what a process has reserved (RLIMIT_DATA), stacks of threads for instance, and not what
it uses, hence the share.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections import Counter
from typing import Any

import orjson

from eexp.envs import logins
from eexp.errors import EnvironmentFailed, UsageError
from eexp.system.child import Child, ChildFailed
from eexp.system.cores import usable_cores
from eexp.workers.base import Executor
from eexp.workers.executors import MOST_WORKERS
from eexp.workers.worker import HEARTBEAT

TRIES = 3  # attempts at a job whose worker dies or hangs
START = 60.0  # seconds for starting Python and opening an environment
GRACE = 2.0  # seconds for workers to close their environments
MEMORY_INTERVAL = 0.5  # seconds between two measurements of memory
KERNEL_SHARE = 2
LONGEST_ANSWER = 1 << 30  # bytes
#: Environment variables for numerical libraries: a process with threads cannot be forked.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def repeated_failure(reason: str, evidence: dict | None = None) -> EnvironmentFailed:
    """Return the error for a record whose worker was lost in every attempt; `reason`: why the last one was."""
    return EnvironmentFailed(f"the environment's process failed {TRIES} times, at last: {reason}", evidence=evidence)


def _command() -> list[str]:
    """Return the command of a worker: Python, with the module path of this process from the start.

    With `python -m` a file in the working directory, json.py for instance, would come before the library of that name.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from eexp.workers.worker import main; main()"
    return [sys.executable, "-c", code, "eexp.workers.worker"]  # the last word is for people who list processes


class Worker:
    """One worker process, as its supervisor sees it.

    Attributes:
        child: The process.
        busy: Whether it has a job and has not answered yet.
        part: The part of the job that it is at, where it reports one.
        line: The answer to its last job, as it was written.
        last_sign: When it last gave a sign of life (`time.monotonic`).
    """

    def __init__(self, hello: bytes, memory: int | None = None, stderr: int | None = None):
        limit = memory and KERNEL_SHARE * memory
        self.child = Child(_command(), stderr, env={**os.environ, **ONE_THREAD}, memory=limit)
        self.busy = False
        self.part: Any = None
        self.line = b""
        self.last_sign = time.monotonic()
        self._started = False  # whether it has ever given a sign of life
        self._unsent: bytes | memoryview = hello

    def assign(self, job: bytes) -> None:
        """Send a job, one line of JSON. The worker begins at once, whether or not its answer is waited for."""
        self.busy, self.part, self.last_sign = True, None, time.monotonic()
        self._unsent = self.child.write_some(b"".join((self._unsent, job)))

    def register(self, ready: select.poll) -> tuple[int, int]:
        """Let `ready` wait for output of the worker and for room to send it more; return both descriptors."""
        to_worker, from_worker = self.child.pipes()
        ready.register(from_worker, select.POLLIN)
        if self._unsent:
            ready.register(to_worker, select.POLLOUT)
        return to_worker, from_worker

    def overdue(self, limit: float) -> float:
        """Return when the worker counts as hung if it gives no further sign of life (`time.monotonic`).

        Args:
            limit: Seconds that a step may take. Starting the worker may take longer.
        """
        return self.last_sign + (limit if self._started else max(limit, START)) + 2 * HEARTBEAT

    def read_answer(self, limit: float) -> dict | None:
        """Return the answer to its job if it is complete, else None.

        Raises:
            ChildFailed: The worker died, hung for longer than `limit` seconds or wrote something else.
        """
        self._unsent = self.child.write_some(self._unsent)
        for line in self.child.lines_so_far(LONGEST_ANSWER):
            self._started = True
            try:
                message = orjson.loads(line)
            except orjson.JSONDecodeError:
                raise ChildFailed("wrote what is no answer") from None
            if "lost" in message:
                raise ChildFailed(message["lost"])
            if "done" in message or "failed" in message:
                self.busy, self.line = False, line
                return message
            self.part = message.get("part")
        if time.monotonic() > self.overdue(limit):
            raise ChildFailed(f"no answer within {limit:g} s (EEXP_ENV_TIMEOUT)")
        return None


class Supervisor(Executor):
    """The worker processes of a command on this machine: the executor `local`.

    Args:
        target: Empty: there is nothing to choose.
        size: How many workers there may be; None for one a core, but no more than MOST_WORKERS.
        env, limit, memory: As for `Executor`.
        stderr: A file descriptor for the standard error of the workers; None for that of this process.
    """

    def __init__(
        self,
        *,
        env: str | None,
        limit: float,
        memory: int | None = None,
        size: int | None = None,
        target: str = "",
        stderr: int | None = None,
    ):
        if target:
            raise UsageError(f"--on local takes no address, got {target!r}")
        self.size = size or min(usable_cores(), MOST_WORKERS)
        self.limit, self.memory, self._stderr = limit, memory, stderr
        self.counts: Counter[str] = Counter()
        self.workers: list[Worker] = []
        self._hello = orjson.dumps({"path": sys.path, "env": env, "logins": logins.withheld_logins()}) + b"\n"
        self._last_measured = 0.0

    def start_worker(self) -> Worker:
        worker = Worker(self._hello, self.memory, self._stderr)
        self.workers.append(worker)
        return worker

    def free_worker(self, n_waiting: int = 1) -> Worker:
        return next((worker for worker in self.workers if not worker.busy), None) or self.start_worker()

    def end_worker(self, worker: Worker) -> None:
        """End a worker for which a server has no room, so that those that have a session go on without it."""
        worker.child.end()
        self.workers.remove(worker)
        self.counts["worker[s] for which the server had no room"] += 1

    def wait(self, at_once: bool = False) -> list[tuple[Worker, dict | ChildFailed]]:
        """Return the workers that have finished or failed, as `Executor.wait` does.

        Waits until a busy worker has written something or is overdue.
        """
        busy = [w for w in self.workers if w.busy]
        if not busy:
            return []
        self._watch_pipes(busy, at_once)
        answers: list[tuple[Worker, dict | ChildFailed]] = []
        for worker in busy:
            try:
                answer = worker.read_answer(self.limit)
            except ChildFailed as e:
                answer = self._lose(worker, e)
            if answer is not None:
                answers.append((worker, answer))
        return answers + self._measure_memory()

    def _watch_pipes(self, busy: list[Worker], at_once: bool) -> None:
        """Wait until a busy worker has written something, can be sent more, or is overdue."""
        ready = select.poll()
        worker_of = {fd: worker for worker in busy for fd in worker.register(ready)}
        overdue = min(worker.overdue(self.limit) for worker in busy)
        timeout = min(overdue - time.monotonic(), MEMORY_INTERVAL if self.memory else 60.0)
        for fd, _ in ready.poll(0 if at_once else 1000 * max(0.0, timeout)):
            # Part of an answer is a sign of life, too: a long answer stays in the pipe until it is read here.
            worker_of[fd].last_sign = time.monotonic()

    def _lose(self, worker: Worker, failure: ChildFailed) -> ChildFailed:
        """End a worker that failed; return the failure with the part of the job at which it happened."""
        worker.child.end()
        self.workers.remove(worker)
        self.counts["worker[s] lost"] += 1
        failure.part = worker.part
        return failure

    def _measure_memory(self) -> list[tuple[Worker, dict | ChildFailed]]:
        """End the busy workers that take too much memory, if it is time to measure; return them as `wait` does."""
        if not self.memory or time.monotonic() - self._last_measured < MEMORY_INTERVAL:
            return []
        self._last_measured = time.monotonic()
        lost: list[tuple[Worker, dict | ChildFailed]] = []
        for worker in [w for w in self.workers if w.busy]:
            resident = _resident_memory(worker.child.guard_pid)
            if resident > self.memory:
                failure = ChildFailed(f"took {resident >> 20} MiB, and {self.memory >> 20} are allowed")
                lost.append((worker, self._lose(worker, failure)))
        return lost

    def close(self) -> None:
        """End all workers. Safe to call twice."""
        for worker in self.workers:  # first all of them, so that they close their environments at the same time
            worker.child.terminate()
        deadline = time.monotonic() + GRACE
        for worker in self.workers:
            worker.child.end(max(0.0, deadline - time.monotonic()))
        self.workers.clear()


def _resident_memory(guard: int) -> int:
    """Return the bytes of memory that all descendants of a guard hold."""
    import psutil

    try:
        descendants = psutil.Process(guard).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in descendants:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
