"""A process that holds environments (eexp/workers/supervisor.py): one job a line in, one answer a line out.

The first line says where modules are found. A job is `{"do": "package.module:function", ...}`; the function gets the
job, the environments this process has open, and a callback to call before every step of an environment, and returns
what is sent back. In between, a line `{"alive": true}` now and then tells that steps are being taken.

Where the callback is given the part of the job that the step belongs to, the line is `{"alive": true, "part": ...}` and
never left out. If the process is lost at the same part in every try, the job is given out anew with that part and the
reason under "fatal" (eexp/workers/pool.py).

Whatever an environment prints goes to standard error: the pipe is ours. The process ends when its standard input does,
at SIGTERM, and with its guard (eexp/processes/guard.py).
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson

from eexp.envs import OpenEnvironments, logins
from eexp.envs.forking import ForkLost
from eexp.errors import EexpError, EnvironmentFailed, InputError, NoRoom, UsageError
from eexp.jsonl import dumps

HEARTBEAT = 0.5  # seconds at least between two signs of life


class _SignsOfLife:
    """Called before every step; writes a line if the last one was some time ago or told of another part of the job."""

    def __init__(self, write: Callable[[dict], None]):
        self.write, self.last, self.part = write, 0.0, None

    def __call__(self, part: Any = None) -> None:
        now = time.monotonic()
        if now - self.last > HEARTBEAT or part != self.part:
            self.last, self.part = now, part
            self.write({"alive": True} if part is None else {"alive": True, "part": part})


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # closing what is open on the way
    pipe = os.dup(1)
    os.dup2(2, 1)

    def write(answer: dict) -> None:
        try:
            data = dumps(answer)
        except InputError as e:  # an environment said what JSON cannot hold
            data = dumps(_failed(e))
        while data:
            data = data[os.write(pipe, data) :]

    start = orjson.loads(sys.stdin.buffer.readline() or b'{"path": [], "env": null}')
    sys.path[:] = start["path"]
    logins.adopt_logins(start.get("logins", {}))
    with OpenEnvironments(start["env"]) as opened:
        for line in sys.stdin.buffer:
            write(_answer(orjson.loads(line), opened, _SignsOfLife(write)))
        # End of file may be seen before the SIGTERM that came first; it must not cut the closing short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _answer(job: dict, opened: OpenEnvironments, on_step: Callable[[], None]) -> dict:
    module, _, name = job["do"].partition(":")
    try:
        return {"done": getattr(importlib.import_module(module), name)(job, opened, on_step)}
    except InputError as e:
        return _failed(e)
    except EexpError as e:
        kind = "usage" if isinstance(e, UsageError) else "no room" if isinstance(e, NoRoom) else "other"
        return {"failed": str(e), "kind": kind}
    except MemoryError:
        return {"lost": "took more memory than is allowed"}
    except Exception as e:  # it costs this record, and what the environment held is not to be trusted
        opened.close()
        return _failed(unexpected_error(e))


def _failed(e: InputError) -> dict:
    kind = "environment" if isinstance(e, EnvironmentFailed) else "input"
    return {
        "failed": str(e),
        "where": e.where,
        "message": e.message,
        "evidence": e.evidence,
        "kind": kind,
        "again": isinstance(e, ForkLost),
    }


def unexpected_error(error: Exception) -> EnvironmentFailed:
    """An environment's own mistake, an exception that it let out, in one line and with its traceback as evidence."""
    told = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return EnvironmentFailed(told, evidence={"traceback": _traceback()})


def _traceback() -> str:
    import traceback

    return traceback.format_exc(limit=-8)


def error_from_answer(answer: dict[str, Any]) -> EexpError:
    """The error that a worker's answer tells of."""
    match answer["kind"]:
        case "environment":
            return EnvironmentFailed(answer["message"], answer["where"], answer["evidence"])
        case "input":
            return InputError(answer["message"], answer["where"], answer["evidence"])
        case "usage":
            return UsageError(answer["failed"])
        case "no room":
            return NoRoom(answer["failed"])
    return EexpError(answer["failed"])


if __name__ == "__main__":
    main()
