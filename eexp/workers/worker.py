"""The program of a worker process, which holds environments: it reads one job a line and writes one answer a line.

The first line says where modules are found. A job is as jobs.py describes it; what its function returns is sent back.
Between a job and its answer a line `{"alive": true}` is written from time to time while steps are taken.

Where the callback is called with the part of the job that the step belongs to, the line is
`{"alive": true, "part": ...}` and never left out. If the process is lost at the same part in every attempt, the job is
assigned anew with that part and the reason under "fatal" (eexp/workers/pool.py).

Whatever an environment prints goes to standard error, because standard output is the pipe for answers. The process ends
when its standard input does, at SIGTERM, and with its guard (eexp/system/guard.py).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson

from eexp.envs import OpenEnvironments, logins
from eexp.envs.forking import ForkLost
from eexp.errors import EexpError, InputError, unexpected_error
from eexp.records.jsonl import dumps
from eexp.system import signals
from eexp.workers.jobs import answer_from_error, perform

HEARTBEAT = 0.5  # seconds at least between two signs of life


class _Heartbeat:
    """A callback for every step; writes a line if the last one is old or was about another part of the job."""

    def __init__(self, write: Callable[[dict], None]):
        self.write, self.last, self.part = write, 0.0, None

    def __call__(self, part: Any = None) -> None:
        now = time.monotonic()
        if now - self.last > HEARTBEAT or part != self.part:
            self.last, self.part = now, part
            self.write({"alive": True} if part is None else {"alive": True, "part": part})


def main() -> None:
    """Run a worker process until its standard input ends."""
    signals.exit_at_sigterm()  # environments are closed on the way out
    signals.raise_lost_exceptions()
    pipe = os.dup(1)
    os.dup2(2, 1)

    def write(answer: dict) -> None:
        try:
            data = dumps(answer)
        except InputError as e:  # an environment returned something that JSON cannot hold
            data = dumps(answer_from_error(e))
        while data:
            data = data[os.write(pipe, data) :]

    start = orjson.loads(sys.stdin.buffer.readline() or b'{"path": [], "env": null}')
    sys.path[:] = start["path"]
    logins.adopt_logins(start.get("logins", {}))
    with OpenEnvironments(start["env"]) as environments:
        try:
            for line in sys.stdin.buffer:
                write(_answer(orjson.loads(line), environments, _Heartbeat(write)))
        except BrokenPipeError:  # the command was killed; the environments are closed all the same
            pass
        # The end of the file may be read before a SIGTERM that came first; it must not cut the closing short.
        signals.ignore(signal.SIGTERM)


def _answer(job: dict, environments: OpenEnvironments, on_step: Callable[..., None]) -> dict:
    """Do a job and return the answer: {"done": ...}, {"failed": ...} or {"lost": ...}."""
    try:
        return {"done": perform(job, environments, on_step)}
    except EexpError as e:
        return {**answer_from_error(e), "again": isinstance(e, ForkLost)}
    except MemoryError:
        return {"lost": "took more memory than is allowed"}
    except Exception as e:  # it costs this record, and the state of the environment cannot be trusted
        environments.close()
        return answer_from_error(unexpected_error(e))


if __name__ == "__main__":
    main()
