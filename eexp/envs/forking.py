"""Executing an action from a state without leaving it: the ways to fork an environment.

state    the environment's own copy (`fork`), or its own `save` and `restore`
process  `os.fork` of the process that holds it: the child takes the step, sends what it saw, and is gone. Exact for
         whatever lives in this process alone, C libraries included, at the price of copying some page tables
replay   no copy at all: start the task again and walk to the same state (branching/execution.py does that)

And an action that the environment declares `harmless` is executed in place, whatever the way.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable

import msgspec

from eexp.envs.base import Environment, Observation
from eexp.errors import EnvironmentFailed, UsageError

WAYS = ("state", "process", "replay")
AUTO = "auto"

Execute = Callable[[str], Observation]


class ForkLost(EnvironmentFailed):
    """A forked process was killed or hung; another try may go well."""


def choose(env: Environment, asked: str = AUTO) -> str:
    """The way to fork `env`: the one asked for, or the first in WAYS that it allows.

    Raises UsageError, with the reason, where the way asked for would be wrong.
    """
    if asked == AUTO:
        return next(way for way in WAYS if unfit(env, way) is None)
    if why_not := unfit(env, asked):
        raise UsageError(f"--fork {asked}: {env.spec} {why_not}")
    return asked


def unfit(env: Environment, way: str) -> str | None:
    """Why `env` cannot be forked that way; None where it can."""
    if way == "process":
        return unfit_for_process(env)
    if way == "state" and not (env.has("fork") or env.has("save")):
        return "can neither copy nor save its state"
    return None


def executor(env: Environment, way: str, limit: float) -> Execute:
    """A function that executes an action from the current state of `env` and leaves `env` in it.

    Where the action fails, `env` has to be reset.

    way: "state" or "process". limit: seconds that a forked process has for the step.
    """
    if way == "process":
        return lambda action: _in_process(env, action, limit)
    return (lambda action: _and_back(env, action)) if env.has("save") else (lambda action: _in_copy(env, action))


def _in_copy(env: Environment, action: str) -> Observation:
    with env.fork() as copy:
        return copy.step(action)


def _and_back(env: Environment, action: str) -> Observation:
    state = env.save()
    seen = env.step(action)  # one that fails leaves nothing to go back from; its error is the one to tell
    env.restore(state)
    return seen


# -- a fork of the process ------------------------------------------------------------------------------------------


def unfit_for_process(env: Environment) -> str | None:
    """Why a fork of this process would be no exact and independent copy of `env`, as far as can be seen; or None.

    Threads do not survive a fork; a socket or a child process (a JVM, say) would be shared with the copy.
    """
    if not env.in_process:
        return "does not declare that all its state is in this process (in_process)"
    if not hasattr(os, "fork"):
        return "runs on a system that cannot fork processes"
    if not sys.platform.startswith("linux"):
        return None  # what follows is read from /proc; elsewhere the declaration has to do
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


class _Sent(msgspec.Struct):
    """What the child writes to the pipe: what it saw, or what went wrong."""

    seen: Observation | None = None
    error: str | None = None


def _in_process(env: Environment, action: str, limit: float) -> Observation:
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
        os.kill(child, signal.SIGKILL)  # it has sent all, or never will; until waited for, the number is its own
        _, status = os.waitpid(child, 0)
    if not data:
        raise ForkLost(f"{env.spec}: step: the forked process {_how_it_ended(status)} without an answer")
    sent = msgspec.msgpack.decode(data, type=_Sent)
    if sent.seen is None:
        raise EnvironmentFailed(f"{env.spec}: step: {sent.error}")
    return sent.seen


def _step_and_exit(env: Environment, action: str, pipe: int) -> None:
    try:
        end_with_parent()
        try:
            sent = _Sent(seen=env.step(action))
        except Exception as e:
            sent = _Sent(error=f"{type(e).__name__}: {e}" if not isinstance(e, EnvironmentFailed) else str(e))
        data = msgspec.msgpack.encode(sent)
        while data:
            data = data[os.write(pipe, data) :]
    finally:
        os._exit(0)  # no atexit handlers, no flushing of buffers that belong to the original


def _read_all(pipe: int, limit: float) -> bytes:
    got, deadline = b"", time.monotonic() + limit
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0 and ready.poll(left * 1000):
        part = os.read(pipe, 1 << 16)
        if not part:
            return got
        got += part
    raise TimeoutError


def _how_it_ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return f"ended with exit status {os.waitstatus_to_exitcode(status)}"


def end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, however that ends."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
