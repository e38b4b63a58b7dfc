"""Jobs that need environments: calls of functions in worker processes (pool.py), or in this process.

A job is `{"do": "package.module:function", ...}`. The function is called with the job, something whose `get` returns
the environment of a spec, and a callback to call before every step of an environment; what it returns is the result.

A result that is a dict may hold a job under ELSEWHERE. A Pool does it in another process than the first job and puts
its result in its place: what its function returned, or NoRoom if there can be no other process. `InProcess` leaves it
out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from eexp.errors import EexpError, EnvironmentFailed, InputError, NoRoom, UsageError, unexpected_error
from eexp.records.callbacks import OnError

if TYPE_CHECKING:
    from eexp.envs.base import Environment

Tag = TypeVar("Tag")
ELSEWHERE = "elsewhere"


class Runner(Protocol):
    """Does jobs: a Pool of worker processes, or InProcess."""

    def run(self, jobs: Iterator[tuple[Tag, dict]]) -> Iterator[tuple[Tag, Any]]:
        """Do jobs and yield their results in the order of the jobs.

        Args:
            jobs: (tag, job) for each of them.

        Yields:
            (tag, what the job's function returned, or the EexpError that it raised).
        """
        ...


class InProcess:
    """Does jobs in this process, one after the other.

    Args:
        env_of: Returns the environment of a spec.
    """

    def __init__(self, env_of: Callable[[str], Environment]):
        self._env_of = env_of

    def get(self, spec: str) -> Environment:
        """Return the environment of a spec, for the functions of jobs."""
        return self._env_of(spec)

    def run(self, jobs: Iterator[tuple[Tag, dict]]) -> Iterator[tuple[Tag, Any]]:
        """Do jobs as `Runner.run` says."""
        for tag, job in jobs:
            try:
                result = perform(job, self, _no_callback)
                if isinstance(result, dict):
                    result.pop(ELSEWHERE, None)
            except EexpError as e:
                result = e
            except MemoryError:
                raise
            except Exception as e:
                result = unexpected_error(e)
                result.__cause__ = e
            yield tag, result


def _no_callback(part: Any = None) -> None:
    """Do nothing before a step."""


def job_of(function: Callable[..., Any], **fields: Any) -> dict:
    """Return a job of a function of a module."""
    return {"do": f"{function.__module__}:{function.__name__}", **fields}


def perform(job: dict, environments: Any, on_step: Callable[..., None]) -> Any:
    """Call the function of a job and return its result."""
    module, _, name = job["do"].partition(":")
    return getattr(importlib.import_module(module), name)(job, environments, on_step)


#: The errors that come back from another process as what they were, by the names for them there.
_ERRORS: dict[str, type[EexpError]] = {
    "environment": EnvironmentFailed,
    "input": InputError,
    "usage": UsageError,
    "no room": NoRoom,
}


def answer_from_error(error: EexpError) -> dict:
    """Return an error as JSON; in a worker's answer, it stands in place of the result."""
    kind = next((name for name, error_class in _ERRORS.items() if isinstance(error, error_class)), "other")
    fields = [error.message, error.where, error.evidence] if isinstance(error, InputError) else [str(error)]
    return {"failed": fields, "kind": kind}


def error_from_answer(answer: dict) -> EexpError:
    """Return the error that `answer_from_error` made JSON of."""
    return _ERRORS.get(answer["kind"], EexpError)(*answer["failed"])


def results(runner: Runner, jobs: Iterator[tuple[dict, dict]], on_error: OnError) -> Iterator[tuple[dict, Any]]:
    """Do the jobs of records and yield each record with its result, in order.

    Args:
        runner: Does the jobs.
        jobs: (record, job) for each record.
        on_error: Called with a record whose job raised InputError.

    Raises:
        EexpError: A job raised another one.
    """
    for record, result in runner.run(jobs):
        if isinstance(result, InputError):
            on_error(record, result)
        elif isinstance(result, Exception):
            raise result
        else:
            yield record, result
