"""A pool of worker processes that hold environments: one that crashes, hangs or grows costs only a retry.

Answers come in the order of the jobs, whatever the timing. Only a few jobs are assigned ahead, so that memory does not
grow with the input. Workers are started as they are needed, by an executor (eexp/workers/base.py). Where they use a
server, no more of them are kept than the server has room for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from eexp.errors import NoRoom
from eexp.system.child import ChildFailed
from eexp.workers.base import WorkerHandle
from eexp.workers.executors import LOCAL, open_executor
from eexp.workers.jobs import ELSEWHERE, Tag, error_from_answer
from eexp.workers.supervisor import TRIES, repeated_failure

AHEAD = 4  # jobs that may be unfinished, for each worker


@dataclass(eq=False)
class _PoolJob:
    """A job and how far it is.

    Attributes:
        tag: What the caller identifies it by.
        line: The job as it is sent to a worker.
        tries: How many workers have been given it.
        parts: At which parts of it workers were lost, one for each attempt.
        first: The result of the first job if this is the one that it holds under ELSEWHERE.
        first_worker: The worker that did the first job, which must not do this one.
        result: What its function returned or raised, once it is finished.
        finished: Whether it needs no further attempt.
    """

    tag: Any
    line: bytes
    tries: int = 0
    parts: list[Any] = field(default_factory=list)
    first: dict | None = None
    first_worker: WorkerHandle | None = None
    result: Any = None
    finished: bool = False


@dataclass
class _ReadingFailed:
    """In place of a result: reading the next job failed, which is raised after all jobs before it."""

    error: Exception


def _next_job(jobs: Iterator[tuple[Any, dict]]) -> _PoolJob | None:
    try:
        item = next(jobs, None)
        return item and _PoolJob(item[0], orjson.dumps(item[1]) + b"\n")
    except Exception as e:
        return _PoolJob(None, b"", result=_ReadingFailed(e), finished=True)


class Pool:
    """Up to `workers` worker processes. Use as a context manager.

    Args:
        workers: How many processes there may be; None for as many as suit the machines.
        env, limit, memory: As for `Executor`.
        on: Where they run, as `--on` says it.

    Attributes:
        counts: What went wrong, for the summary.
    """

    def __init__(self, workers: int | None, env: str | None, limit: float, memory: int | None = None, on: str = LOCAL):
        self._executor = open_executor(on, workers, env, limit, memory)
        self.most = self._executor.size
        self.counts = self._executor.counts
        self._assigned: dict[WorkerHandle, _PoolJob] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._executor.close()

    def run(self, jobs: Iterator[tuple[Tag, dict]]) -> Iterator[tuple[Tag, Any]]:
        """Do jobs as `jobs.Runner.run` says."""
        unfinished: deque[_PoolJob] = deque()  # read and not yet yielded, in order
        waiting: deque[_PoolJob] = deque()  # those of them that no worker has
        more = True
        while more or unfinished:
            room = len(unfinished) < AHEAD * self.most and len(waiting) < self.most - len(self._assigned)
            reading = more and room
            if reading:
                job = _next_job(jobs)
                more = job is not None and not isinstance(job.result, _ReadingFailed)
                if job:
                    unfinished.append(job)
                    waiting += [] if job.finished else [job]
            self._assign(waiting)
            for worker, answer in self._executor.wait(at_once=reading):
                self._finish(worker, self._assigned.pop(worker), answer, waiting)
            while unfinished and unfinished[0].finished:
                job = unfinished.popleft()
                if isinstance(job.result, _ReadingFailed):
                    raise job.result.error
                yield job.tag, job.result

    def _assign(self, waiting: deque[_PoolJob]) -> None:
        """Assign waiting jobs to workers that are free, starting more as long as there may be more."""
        for job in list(waiting):
            if len(self._assigned) >= self.most:
                return
            is_first = job.first is None
            worker = self._executor.free_worker(len(waiting)) if is_first else self._other_worker(job.first_worker)
            if worker is None:
                continue
            waiting.remove(job)
            self._assigned[worker] = job
            job.tries += 1
            worker.assign(job.line)

    def _other_worker(self, first_worker: WorkerHandle | None) -> WorkerHandle | None:
        """Return a worker that has no job and is not the given one; None if the others are busy.

        One is started if there may be more, or if there is only the given one.
        """
        others = [worker for worker in self._executor.workers if worker is not first_worker]
        free = next((worker for worker in others if worker not in self._assigned), None)
        if free or (others and len(self._executor.workers) >= self.most):
            return free
        return self._executor.start_worker()

    def _finish(
        self, worker: WorkerHandle, job: _PoolJob, answer: dict | ChildFailed, waiting: deque[_PoolJob]
    ) -> None:
        """Take in a worker's answer: finish its job, or let it wait for another attempt.

        If all attempts ended at the same part of the job, it is tried anew with this part under "fatal".
        """
        if isinstance(answer, ChildFailed):
            again, result = True, repeated_failure(str(answer))
            job.parts.append(answer.part)
            if job.tries == TRIES and answer.part is not None and job.parts == [answer.part] * TRIES:
                request = orjson.loads(job.line)
                request["fatal"] = [*request.get("fatal", []), (answer.part, str(result))]
                job.line, job.tries, job.parts = orjson.dumps(request) + b"\n", 0, []
        else:
            again = bool(answer.get("again"))
            result = answer["done"] if "done" in answer else error_from_answer(answer)
            self.counts["fork[s] lost"] += again
        if job.first is not None and not again:
            if isinstance(result, NoRoom) and len(self._executor.workers) > 1:
                self._executor.end_worker(worker)
            if isinstance(result, NoRoom) or not isinstance(result, Exception):
                result = {**job.first, ELSEWHERE: result}
        elif isinstance(result, dict) and ELSEWHERE in result:
            job.line = orjson.dumps(result.pop(ELSEWHERE)) + b"\n"
            job.first, job.first_worker, job.tries, job.parts = result, worker, 0, []
            waiting.appendleft(job)
            return
        elif isinstance(result, NoRoom) and len(self._executor.workers) > 1:
            self._executor.end_worker(worker)
            self.most = len(self._executor.workers)
            job.tries -= 1
            again = True
        if again and job.tries < TRIES:
            waiting.appendleft(job)
        else:
            job.result, job.finished = result, True
