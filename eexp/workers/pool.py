"""A pool: jobs done by processes that hold environments, so that one that crashes, hangs or grows costs only a retry.

Answers come in the order of the jobs, whatever the timing. Only a few jobs are out at a time, so that memory does not
grow with the input. Workers are started as they are needed (eexp/workers/supervisor.py), and where they ask a server, no
more of them are kept than it has room for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from eexp.errors import NoRoom
from eexp.processes.child import ChildFailed
from eexp.workers.supervisor import TRIES, Supervisor, Worker, repeated_failure
from eexp.workers.worker import error_from_answer

Tag = TypeVar("Tag")
AHEAD = 4  # jobs that may be out, for each worker


@dataclass
class _Job:
    tag: Any
    line: bytes
    tries: int = 0
    parts: list[Any] = field(default_factory=list)  # at which parts of it workers were lost, one a try
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


class Pool:
    """Up to `workers` processes. Use as a context manager. env, limit, memory and `counts` as in `Supervisor`."""

    def __init__(self, workers: int, env: str | None, limit: float, memory: int | None = None):
        self.most = workers
        self._supervisor = Supervisor(env, limit, memory)
        self.counts = self._supervisor.counts
        self._doing: dict[Worker, _Job] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._supervisor.close()

    def run(self, jobs: Iterator[tuple[Tag, dict]]) -> Iterator[tuple[Tag, Any]]:
        """(tag, what the job's function returned, or the EexpError it ended with), in the order of `jobs`."""
        out: deque[_Job] = deque()  # submitted and not yet yielded, in order
        waiting: deque[_Job] = deque()  # of those, the ones no worker has
        more = True
        while more or out:
            reading = more and len(out) < AHEAD * self.most and len(waiting) < self.most - len(self._doing)
            if reading:
                job = _next_job(jobs)
                more = job is not None and not isinstance(job.result, _Raised)
                if job:
                    out.append(job)
                    waiting += [] if job.finished else [job]
            self._assign(waiting)
            for worker, answer in self._supervisor.wait(at_once=reading):
                self._finish(worker, self._doing.pop(worker), answer, waiting)
            while out and out[0].finished:
                job = out.popleft()
                if isinstance(job.result, _Raised):
                    raise job.result.error
                yield job.tag, job.result

    def _assign(self, waiting: deque[_Job]) -> None:
        while waiting and len(self._doing) < self.most:
            worker = next((w for w in self._supervisor.workers if not w.busy), None) or self._supervisor.start_worker()
            job = self._doing[worker] = waiting.popleft()
            job.tries += 1
            worker.give(job.line)

    def _finish(self, worker: Worker, job: _Job, answer: dict | ChildFailed, waiting: deque[_Job]) -> None:
        """A job whose worker is of no more use goes to another, or, after some tries, comes back as failed.

        If all tries ended at the same part of the job, it is tried anew with this part under "fatal".
        """
        if isinstance(answer, ChildFailed):
            again, result = True, repeated_failure(str(answer))
            job.parts.append(answer.part)
            if job.tries == TRIES and answer.part is not None and job.parts == [answer.part] * TRIES:
                request = orjson.loads(job.line)
                request["fatal"] = [*request.get("fatal", []), (answer.part, str(result))]
                job.line, job.tries, job.parts = orjson.dumps(request) + b"\n", 0, []
        else:
            again, result = answer.get("again"), answer["done"] if "done" in answer else error_from_answer(answer)
            self.counts["forks lost"] += bool(again)
        if isinstance(result, NoRoom) and len(self._supervisor.workers) > 1:
            self._supervisor.end_worker(worker)
            self.most = len(self._supervisor.workers)
            job.tries -= 1
            again = True
        if again and job.tries < TRIES:
            waiting.appendleft(job)
        else:
            job.result, job.finished = result, True
