"""Processes that hold environments: started when they are needed, watched while they work, ended with us.

Each does one job at a time (eexp/workers/worker.py). One that dies, gives no sign of life for too long or takes too
much memory is ended, and whoever gave it the job is told. None outlives us, nor does any of their descendants
(eexp/processes/child.py).

Memory is limited twice. What a worker and all its descendants hold together is looked at now and then; and the kernel
refuses any single one of them KERNEL_SHARE times as much at once, so that none can take the whole machine between two
looks. It counts what a process has set aside (RLIMIT_DATA), stacks of threads for instance, and not what it uses, hence
the share.
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
from eexp.errors import EnvironmentFailed
from eexp.processes.child import Child, ChildFailed
from eexp.workers.worker import HEARTBEAT

TRIES = 3  # a job whose worker died or hung is given to another
START = 60.0  # seconds for starting Python and opening an environment
GRACE = 2.0  # seconds for closing what they hold
WATCH = 0.5  # seconds between two looks at memory
KERNEL_SHARE = 2
LONGEST_ANSWER = 1 << 30
#: For numerical libraries: a process with threads cannot be forked.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def repeated_failure(why: str, evidence: dict | None = None) -> EnvironmentFailed:
    """What is said of a record that one process after the other was lost on; `why`: how the last one was."""
    return EnvironmentFailed(f"the environment's process failed {TRIES} times, at last: {why}", evidence=evidence)


def _command() -> list[str]:
    """The command of a worker: Python, with our own module path from the start.

    With `python -m` a file in the working directory, json.py say, would come before the library of that name.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from eexp.workers.worker import main; main()"
    return [sys.executable, "-c", code, "eexp.workers.worker"]  # the last one for those who look at processes


class Worker:
    """One of the processes.

    busy: it has a job, and has not answered yet. part: the part of the job that it is at, where it tells.
    """

    def __init__(self, hello: bytes, memory: int | None = None):
        limit = memory and KERNEL_SHARE * memory
        self.child = Child(_command(), env={**os.environ, **ONE_THREAD}, memory=limit)
        self.busy = False
        self.part: Any = None
        self.last_sign = time.monotonic()
        self._started = False  # has given a sign of life, ever
        self._unsent: bytes | memoryview = hello

    def give(self, job: bytes) -> None:
        """Let it do a job, a line of JSON. It begins at once, whether or not we come to look."""
        self.busy, self.part, self.last_sign = True, None, time.monotonic()
        self._unsent = self.child.write_some(b"".join((self._unsent, job)))

    def register(self, ready: select.poll) -> tuple[int, int]:
        """Have `ready` wait for what it writes, and for room for what it is still to read; its descriptors."""
        to_it, from_it = self.child.pipes()
        ready.register(from_it, select.POLLIN)
        if self._unsent:
            ready.register(to_it, select.POLLOUT)
        return to_it, from_it

    def overdue(self, limit: float) -> float:
        """When it counts as hung, if it gives no sign of life until then; starting may take longer than a step."""
        return self.last_sign + (limit if self._started else max(limit, START)) + 2 * HEARTBEAT

    def answer(self, limit: float) -> dict | None:
        """What it says to its job, if it has by now. Raises ChildFailed where there is nothing more to wait for."""
        self._unsent = self.child.write_some(self._unsent)
        for line in self.child.lines_so_far(LONGEST_ANSWER):
            self._started = True
            try:
                said = orjson.loads(line)
            except orjson.JSONDecodeError:
                raise ChildFailed("wrote what is no answer") from None
            if "lost" in said:
                raise ChildFailed(said["lost"])
            if "done" in said or "failed" in said:
                self.busy = False
                return said
            self.part = said.get("part")
        if time.monotonic() > self.overdue(limit):
            raise ChildFailed(f"no answer within {limit:g} s (EEXP_ENV_TIMEOUT)")
        return None


class Supervisor:
    """The processes that hold one environment each. Use as a context manager.

    env: what --env says, for all of them. limit: seconds that a step may take; a worker that gives no sign of life for
    longer is ended. memory: bytes that a worker and its children may take, or None. `counts` tells what went wrong.
    """

    def __init__(self, env: str | None, limit: float, memory: int | None = None):
        self.limit, self.memory = limit, memory
        self.counts: Counter[str] = Counter()
        self.workers: list[Worker] = []
        self._hello = orjson.dumps({"path": sys.path, "env": env, "logins": logins.withheld_logins()}) + b"\n"
        self._looked = 0.0

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start_worker(self) -> Worker:
        """One more."""
        worker = Worker(self._hello, self.memory)
        self.workers.append(worker)
        return worker

    def end_worker(self, worker: Worker) -> None:
        """End one for which a server has no room, so that those that have a session go on without it."""
        worker.child.end()
        self.workers.remove(worker)
        self.counts["workers for which the server had no room"] += 1

    def wait(self, at_once: bool = False) -> list[tuple[Worker, dict | ChildFailed]]:
        """What the busy ones have to say: (worker, its answer, or how it was lost).

        Waits until one has written something or is overdue; what it wrote may be less than an answer, so this may be
        nothing. `at_once`: take only what is there already.
        """
        busy = [w for w in self.workers if w.busy]
        if not busy:
            return []
        self._watch_pipes(busy, at_once)
        told: list[tuple[Worker, dict | ChildFailed]] = []
        for worker in busy:
            try:
                answer = worker.answer(self.limit)
            except ChildFailed as e:
                answer = self._lose(worker, e)
            if answer is not None:
                told.append((worker, answer))
        return told + self._look_at_memory()

    def _watch_pipes(self, busy: list[Worker], at_once: bool) -> None:
        ready = select.poll()
        whose = {fd: worker for worker in busy for fd in worker.register(ready)}
        overdue = min(worker.overdue(self.limit) for worker in busy)
        patience = min(overdue - time.monotonic(), WATCH if self.memory else 60.0)
        for fd, _ in ready.poll(0 if at_once else 1000 * max(0.0, patience)):
            # Half an answer is a sign of life too: a long one waits in the pipe for as long as we do not look.
            whose[fd].last_sign = time.monotonic()

    def _lose(self, worker: Worker, why: ChildFailed) -> ChildFailed:
        worker.child.end()
        self.workers.remove(worker)
        self.counts["workers lost"] += 1
        why.part = worker.part
        return why

    def _look_at_memory(self) -> list[tuple[Worker, dict | ChildFailed]]:
        if not self.memory or time.monotonic() - self._looked < WATCH:
            return []
        self._looked = time.monotonic()
        lost: list[tuple[Worker, dict | ChildFailed]] = []
        for worker in [w for w in self.workers if w.busy]:
            taken = _resident(worker.child.guard_pid)
            if taken > self.memory:
                why = ChildFailed(f"took {taken >> 20} MiB, and {self.memory >> 20} are allowed")
                lost.append((worker, self._lose(worker, why)))
        return lost

    def close(self) -> None:
        """End all of them. Safe to call twice."""
        for worker in self.workers:  # all at once, so that they close their environments at the same time
            worker.child.ask_to_end()
        deadline = time.monotonic() + GRACE
        for worker in self.workers:
            worker.child.end(max(0.0, deadline - time.monotonic()))
        self.workers.clear()


def _resident(guard: int) -> int:
    """Bytes of memory that all descendants of a guard hold."""
    import psutil

    try:
        family = psutil.Process(guard).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for one in family:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
