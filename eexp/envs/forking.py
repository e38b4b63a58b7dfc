"""Execute an action from a state without leaving that state: the ways to fork an environment.

state    the environment's own copy (`fork`), or its own `save` and `restore`, with one saved state for all alternatives
process  `os.fork` of the process that holds it: the child executes the step, sends the observation and ends. Exact
         for everything that lives in this process alone, C libraries included, at the price of copying some page tables
replay   no copy: start the task again and take the same actions (acting/execution.py does that)

An action that the environment declares `harmless` is executed in place, whatever the way.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import msgspec

from eexp.envs.base import FORK_AUTO, FORK_WAYS, Environment, Observation
from eexp.errors import EnvironmentFailed, UsageError

Execute = Callable[[str], Observation]


class ForkLost(EnvironmentFailed):
    """Error raised when a forked process was killed or hung; another attempt may succeed."""


def choose_way(env: Environment, requested: str = FORK_AUTO) -> str:
    """Return the way to fork an environment: the requested one or, for FORK_AUTO, the first that it allows.

    Raises:
        UsageError: The requested way would give wrong results. The message has the reason.
    """
    if requested == FORK_AUTO:
        return next(way for way in FORK_WAYS if why_unfit(env, way) is None)
    if reason := why_unfit(env, requested):
        raise UsageError(f"--fork {requested}: {env.spec} {reason}")
    return requested


def why_unfit(env: Environment, way: str) -> str | None:
    """Return why an environment cannot be forked that way; None where it can."""
    if way == "process":
        return why_unfit_for_process(env)
    if way == "replay":
        return None
    if not (env.has("fork") or env.has("save")):
        return "can neither copy nor save its state"
    reason = env.why_no_copy()
    return f"cannot copy its state: {reason}" if reason else None


@contextmanager
def executor(env: Environment, way: str, limit: float) -> Iterator[Execute]:
    """Yield a function that executes an action from the current state of `env` and leaves `env` in that state.

    Within the context, only this function and harmless actions may change `env`. Where an action fails, `env` has to be
    brought back to this state before the next.

    Args:
        way: "state" or "process".
        limit: Seconds that a forked process has for the step.
    """
    if way == "process":
        yield lambda action: _execute_in_process(env, action, limit)
    elif env.has("save"):
        saved = _SavedState(env)
        yield saved.execute
        saved.release()
    else:
        yield lambda action: _execute_in_copy(env, action)


def _execute_in_copy(env: Environment, action: str) -> Observation:
    with env.fork() as copy:
        return copy.step(action)


class _SavedState:
    """The current state of an environment, which is saved once and restored after every action."""

    def __init__(self, env: Environment):
        self._env = env
        self._states: list[Any] = []  # one, or none before the first action and after a failure

    def execute(self, action: str) -> Observation:
        state = self._states.pop() if self._states else self._env.save()
        observation = self._env.step(action)  # if this fails, its own error is the one to report, and the state is lost
        self._env.restore(state)
        self._states.append(state)
        return observation

    def release(self) -> None:
        for state in self._states:
            self._env.release(state)


# -- a fork of the process ------------------------------------------------------------------------------------------


def why_unfit_for_process(env: Environment) -> str | None:
    """Return why a fork of this process would be no exact and independent copy of `env`; None if no reason is found.

    Threads do not survive a fork, and a socket or a child process (a JVM, for instance) would be shared with the copy.
    """
    if not env.in_process:
        return "does not declare that all its state is in this process (in_process)"
    if not hasattr(os, "fork"):
        return "runs on a system that cannot fork processes"
    if not sys.platform.startswith("linux"):
        return None  # the rest is read from /proc; on other systems the declaration has to do
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"has {threads} threads in its process (those of numerical libraries: set OMP_NUM_THREADS=1)"
    if sockets := sum(_is_socket(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2):
        return f"has {sockets} open socket{'s' if sockets > 1 else ''} in its process"
    with open(f"/proc/self/task/{os.getpid()}/children") as f:
        if children := f.read().split():
            return f"has a child process ({', '.join(children)})"
    return None


def _is_socket(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:  # the descriptor that listed the folder is closed by now
        return False


class _ForkMessage(msgspec.Struct):
    """What the forked process writes to the pipe: the observation, or the error of the step."""

    observation: Observation | None = None
    error: str | None = None


def _execute_in_process(env: Environment, action: str, limit: float) -> Observation:
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        _step_and_exit(env, action, writable)
    os.close(writable)
    try:
        data = _read_all(readable, limit)
    except TimeoutError:
        raise ForkLost(f"{env.spec}: step: no answer within {limit:g} s (EEXP_ENV_TIMEOUT)") from None
    finally:
        os.close(readable)
        os.kill(child, signal.SIGKILL)  # it has sent all or never will; its id cannot be reused before waitpid
        _, status = os.waitpid(child, 0)
    if not data:
        raise ForkLost(f"{env.spec}: step: the forked process {_describe_end(status)} without an answer")
    message = msgspec.msgpack.decode(data, type=_ForkMessage)
    if message.observation is None:
        raise EnvironmentFailed(f"{env.spec}: step: {message.error}")
    return message.observation


def _step_and_exit(env: Environment, action: str, pipe: int) -> NoReturn:
    """Execute a step in the forked process, write the result to the pipe and end the process."""
    try:
        _end_with_parent()
        try:
            message = _ForkMessage(observation=env.step(action))
        except Exception as e:
            message = _ForkMessage(error=str(e) if isinstance(e, EnvironmentFailed) else f"{type(e).__name__}: {e}")
        data = msgspec.msgpack.encode(message)
        while data:
            data = data[os.write(pipe, data) :]
    finally:
        os._exit(0)  # no atexit handlers, no flushing of buffers that belong to the original


def _read_all(pipe: int, limit: float) -> bytes:
    """Return everything written to a pipe until its end. Raises TimeoutError after `limit` seconds."""
    data, deadline = b"", time.monotonic() + limit
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    while (remaining := deadline - time.monotonic()) > 0 and ready.poll(remaining * 1000):
        part = os.read(pipe, 1 << 16)
        if not part:
            return data
        data += part
    raise TimeoutError


def _describe_end(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return f"ended with exit status {os.waitstatus_to_exitcode(status)}"


def _end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, however that ends."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
