"""Workers: processes that hold environments, so that one that crashes, hangs or grows costs no more than a retry.

Answers come in the order of the jobs, whatever the timing. Only a few jobs are out at a time, so that memory does not
grow with the input. Workers are started as they are needed, and none outlives us (envs/process.py, worker.py).
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from eexp.envs.process import Child, ChildFailed
from eexp.envs.worker import HEARTBEAT, answer_error
from eexp.errors import EnvironmentFailed

Tag = TypeVar("Tag")
TRIES = 3  # a job whose worker died or hung is given to another
START = 60.0  # seconds for starting Python and opening an environment
GRACE = 2.0  # seconds for closing what they hold
AHEAD = 4  # jobs that may be out, for each worker
WATCH = 0.5  # seconds between two looks at memory
LONGEST_ANSWER = 1 << 30
#: For numerical libraries: a process with threads cannot be forked.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass
class _Job:
    tag: Any
    line: bytes
    tries: int = 0
    result: Any = None
    finished: bool = False


@dataclass
class _Raised:
    """In place of a result: reading the next job failed, which is to be told after all jobs before it."""

    error: Exception


def _next_job(jobs: Iterator[tuple[Any, dict]]) -> _Job | None:
    try:
        found = next(jobs, None)
        return found and _Job(found[0], orjson.dumps(found[1]) + b"\n")
    except Exception as e:
        return _Job(None, b"", result=_Raised(e), finished=True)


@dataclass
class _Worker:
    child: Child
    unsent: bytes
    job: _Job | None = None
    last_sign: float = field(default_factory=time.monotonic)
    started: bool = False  # has given a sign of life, ever


class Pool:
    """Up to `workers` processes. Use as a context manager.

    env: what --env says, for all of them. limit: seconds that a step may take; a worker that gives no sign of life for
    longer is killed. memory: bytes that a worker and its children may take, or None. `counts` tells what went wrong.
    """

    def __init__(self, workers: int, env: str | None, limit: float, memory: int | None = None):
        self.most, self.limit, self.memory = workers, limit, memory
        self.counts: Counter[str] = Counter()
        self._hello = orjson.dumps({"path": sys.path, "env": env}) + b"\n"
        self._workers: list[_Worker] = []
        self._looked = 0.0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:  # all at once, so that they close their environments at the same time
            worker.child.ask_to_end()
        deadline = time.monotonic() + GRACE
        for worker in self._workers:
            worker.child.end(max(0.0, deadline - time.monotonic()))
        self._workers.clear()

    def run(self, jobs: Iterator[tuple[Tag, dict]]) -> Iterator[tuple[Tag, Any]]:
        """(tag, what the job's function returned, or the EexpError it ended with), in the order of `jobs`."""
        out: deque[_Job] = deque()  # submitted and not yet yielded, in order
        waiting: deque[_Job] = deque()  # of those, the ones no worker has
        more = True
        while more or out:
            reading = more and len(out) < AHEAD * self.most and len(waiting) < self._free()
            if reading:
                job = _next_job(jobs)
                more = job is not None and not isinstance(job.result, _Raised)
                if job:
                    out.append(job)
                    waiting += [] if job.finished else [job]
            self._assign(waiting)
            self._wait(waiting, at_once=reading)
            while out and out[0].finished:
                job = out.popleft()
                if isinstance(job.result, _Raised):
                    raise job.result.error
                yield job.tag, job.result

    def _free(self) -> int:
        return self.most - sum(w.job is not None for w in self._workers)

    def _assign(self, waiting: deque[_Job]) -> None:
        while waiting:
            idle = next((w for w in self._workers if w.job is None), None)
            if idle is None:
                if len(self._workers) >= self.most:
                    return
                idle = self._start()
            idle.job = waiting.popleft()
            idle.job.tries += 1
            idle.unsent += idle.job.line
            idle.last_sign = time.monotonic()

    def _start(self) -> _Worker:
        child = Child([sys.executable, "-m", "eexp.envs.worker"], env={**os.environ, **ONE_THREAD})
        worker = _Worker(child, self._hello)
        self._workers.append(worker)
        return worker

    def _wait(self, waiting: deque[_Job], at_once: bool) -> None:
        """Until a worker has written something, or one is overdue; `at_once`: take only what is there already."""
        busy = [w for w in self._workers if w.job]
        if not busy:
            return
        ready = select.poll()
        for worker in busy:
            to_it, from_it = worker.child.pipes()
            ready.register(from_it, select.POLLIN)
            if worker.unsent:
                ready.register(to_it, select.POLLOUT)
        overdue = min(w.last_sign + self._patience(w) for w in busy)
        ready.poll(0 if at_once else 1000 * max(0.0, min(overdue - time.monotonic(), WATCH if self.memory else 60.0)))
        for worker in busy:
            try:
                self._serve(worker, waiting)
            except ChildFailed as e:
                self._lose(worker, str(e), waiting)
        self._look_at_memory(waiting)

    def _patience(self, worker: _Worker) -> float:
        """Seconds without a sign of life after which a worker counts as hung; starting one may take longer."""
        return (self.limit if worker.started else max(self.limit, START)) + 2 * HEARTBEAT

    def _serve(self, worker: _Worker, waiting: deque[_Job]) -> None:
        worker.unsent = worker.child.write_some(worker.unsent)
        for line in worker.child.lines_so_far(LONGEST_ANSWER):
            worker.last_sign, worker.started = time.monotonic(), True
            try:
                answer = orjson.loads(line)
            except orjson.JSONDecodeError:
                raise ChildFailed("wrote what is no answer") from None
            if "done" in answer or "failed" in answer:
                job, worker.job = worker.job, None
                if answer.get("again") and job.tries < TRIES:
                    self.counts["forks lost"] += 1
                    waiting.appendleft(job)
                    continue
                job.result = answer["done"] if "done" in answer else answer_error(answer)
                job.finished = True
        if worker.job and time.monotonic() - worker.last_sign > self._patience(worker):
            raise ChildFailed(f"no answer within {self.limit:g} s (EEXP_ENV_TIMEOUT)")

    def _lose(self, worker: _Worker, why: str, waiting: deque[_Job]) -> None:
        """A worker is of no more use: its job goes to another, or, after some tries, comes back as failed."""
        worker.child.end()
        self._workers.remove(worker)
        self.counts["workers lost"] += 1
        job = worker.job
        if job.tries < TRIES:
            waiting.appendleft(job)
            return
        job.result = EnvironmentFailed(f"the environment's process failed {TRIES} times, at last: {why}")
        job.finished = True

    def _look_at_memory(self, waiting: deque[_Job]) -> None:
        if not self.memory or time.monotonic() - self._looked < WATCH:
            return
        self._looked = time.monotonic()
        for worker in [w for w in self._workers if w.job]:
            taken = _resident(worker.child.pid)
            if taken > self.memory:
                self._lose(worker, f"took {taken >> 20} MiB, and {self.memory >> 20} are allowed", waiting)


def _resident(pid: int) -> int:
    """Bytes of memory that a process and all its descendants hold."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for one in family:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
