"""A child process that answers lines and never outlives us.

Shared by the workers (supervisor.py) and the environments that live in a process of their own (program.py, scienceworld.py).
A child is in a session of its own, so that Ctrl-C reaches us and not it. Between it and us stands a guard (guard.py),
which kills the child and all its descendants

- when `end` is called, or the object is garbage, or we exit;
- when we are killed ourselves, whether or not the child reads the end of file on its standard input;
- when the child ends by itself.

POSIX only.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eexp.errors import UsageError

#: How long one answer may be; a program that writes on and on must not eat our memory.
MAX_LINE = 16 << 20
DEFAULT_LIMIT = 60.0
#: How long a guard may take to kill what it guards.
LONGEST_END = 15.0

_GUARD = str(Path(__file__).with_name("guard.py"))
_alive: weakref.WeakSet[Child] = weakref.WeakSet()


def time_limit(default: float = DEFAULT_LIMIT) -> float:
    """Seconds that an environment has for one answer: $EEXP_ENV_TIMEOUT, else `default`."""
    said = os.environ.get("EEXP_ENV_TIMEOUT") or str(default)
    try:
        limit = float(said)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1e9:
        raise UsageError(f"EEXP_ENV_TIMEOUT: expected a number of seconds above 0, got {said!r}")
    return limit


class ChildFailed(Exception):
    """The child died, hung or wrote what is no single line. The message says which; the child is of no more use.

    part: the part of its job that a worker was at, where it told (worker.py).
    """

    part: Any = None


class NotStarted(ChildFailed):
    """The program could not be executed. The message is the system's, such as "No such file or directory"."""


@dataclass
class _Guarded:
    """The guard of a program: the process, and our ends of the two pipes to it."""

    process: subprocess.Popen
    lifeline: int
    report: int

    def close_pipes(self) -> None:
        """Let go of all pipes but the lifeline."""
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()
        os.close(self.report)


class Child:
    """A running program with pipes on its standard input and output.

    memory: bytes of private memory that the kernel lets it and each of its descendants have; None for no limit.

    That it cannot be started is told by the first exchange, which then raises NotStarted. Raises ValueError for a NUL
    byte in `argv`.
    """

    def __init__(
        self,
        argv: list[str],
        stderr: int | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        memory: int | None = None,
    ):
        lifeline, our_lifeline = os.pipe()
        our_report, report = os.pipe()
        try:
            command = [sys.executable, "-I", "-S", _GUARD, str(lifeline), str(report), str(memory or 0), *argv]
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=cwd,
                env=env,
                bufsize=0,
                start_new_session=True,
                pass_fds=(lifeline, report),
            )
        except BaseException:
            os.close(our_lifeline)
            os.close(our_report)
            raise
        finally:
            os.close(lifeline)
            os.close(report)
        for pipe in (self._popen.stdin, self._popen.stdout):
            os.set_blocking(pipe.fileno(), False)
        self._unread = bytearray()
        self._searched = 0  # how many bytes of `_unread` are known to hold no line end
        self._report = bytearray()
        self._guarded = _Guarded(self._popen, our_lifeline, our_report)
        self._finalizer = weakref.finalize(self, _end, self._guarded, os.getpid())
        _alive.add(self)

    @property
    def pid(self) -> int:
        """The program's process id. Waits until the program has been started; raises NotStarted where it cannot be."""
        while b"\n" not in self._report and self._read_report():
            pass
        self._check_started()
        return int(self._report.split(b"\n")[0] or 0)

    @property
    def guard_pid(self) -> int:
        """The process id of the guard, from which the program and all its descendants descend."""
        return self._popen.pid

    def _read_report(self) -> bytes:
        part = os.read(self._guarded.report, 4096)
        self._report += part
        return part

    def _check_started(self) -> None:
        for line in self._report.split(b"\n"):
            if line.startswith(b"!"):
                raise NotStarted(os.strerror(int(line[1:])))

    @property
    def usable(self) -> bool:
        """Not ended, and ours: in a forked copy of this process the child belongs to the original."""
        return not self._popen.stdin.closed

    def ask(self, request: bytes, limit: float) -> bytes:
        """Write one line, return the one line that answers it, both without their line end.

        Raises ChildFailed where there is none within `limit` seconds.
        """
        self._read()
        if not self._unread:
            line = self._exchange(request + b"\n", limit)
        if self._unread:
            raise ChildFailed(f"a line that nothing asked for: {excerpt(self._unread)}")
        return line

    def tell(self, request: bytes) -> None:
        """Write one line that needs no answer, as far as there is room for it and someone to read it."""
        if self.usable:
            self._write(request + b"\n")

    def read_line(self, limit: float) -> bytes:
        """The next line it writes by itself. Raises ChildFailed as `ask` does."""
        return self._exchange(b"", limit)

    def pipes(self) -> tuple[int, int]:
        """The descriptors to write to it and to read from it, for waiting on several children at once."""
        return self._popen.stdin.fileno(), self._popen.stdout.fileno()

    def write_some(self, unsent: bytes | memoryview) -> bytes | memoryview:
        """Write as much as there is room for at once; returns the rest, uncopied."""
        return self._write(unsent)

    def lines_so_far(self, longest: int = MAX_LINE) -> list[bytes]:
        """Whole lines that it has written by now. Raises ChildFailed once it has ended and nothing is left to read."""
        self._read()
        whole = []
        while (line := self._whole_line()) is not None:
            whole.append(line)
        if self._searched > longest:
            raise ChildFailed(f"more than {longest >> 20} MiB without a line end")
        return whole

    def _whole_line(self) -> bytes | None:
        """Take the first line out of what was read; None if it is not whole. Nothing is searched twice for its end."""
        end = self._unread.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._unread)
            return None
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        self._searched = 0
        return line

    def _exchange(self, unsent: bytes | memoryview, limit: float) -> bytes:
        # Writing and reading take turns: a program that answers while we still write must not block us both.
        deadline = time.monotonic() + limit
        while (line := self._whole_line()) is None:
            if self._searched > MAX_LINE:
                raise ChildFailed(f"more than {MAX_LINE >> 20} MiB without a line end")
            unsent = self._write(unsent)
            self._wait(deadline, limit, writing=bool(unsent))
            self._read()
        return line

    def _write(self, unsent: bytes | memoryview) -> bytes | memoryview:
        try:
            return memoryview(unsent)[os.write(self._popen.stdin.fileno(), unsent) :] if unsent else b""
        except BlockingIOError:
            return unsent
        except BrokenPipeError:
            return b""  # it has gone; reading will tell how

    def _wait(self, deadline: float, limit: float, writing: bool) -> None:
        """Until it has written something, or is ready for more."""
        ready = select.poll()
        ready.register(self._popen.stdout.fileno(), select.POLLIN)
        if writing:
            ready.register(self._popen.stdin.fileno(), select.POLLOUT)
        left = deadline - time.monotonic()
        if left <= 0 or not ready.poll(left * 1000):
            raise ChildFailed(f"no answer within {limit:g} s (EEXP_ENV_TIMEOUT)")

    def _read(self) -> None:
        try:
            got = os.read(self._popen.stdout.fileno(), 1 << 18)
        except BlockingIOError:
            return
        if not got:
            while self._read_report():  # the guard writes nothing more once the program was started
                pass
            self._check_started()
            raise ChildFailed(self.how_it_ended() or "closed its standard output")
        self._unread += got

    def how_it_ended(self) -> str | None:
        """Its exit status or signal in words; None if it is still running two seconds from now."""
        try:
            code = self._popen.wait(timeout=2)  # the guard's, which ends as the program did
        except subprocess.TimeoutExpired:
            return None
        if code < 0:
            names = {s.value: f" ({s.name})" for s in signal.Signals}  # real-time signals have none
            return f"killed by signal {-code}{names.get(-code, '')}"
        return f"ended with exit status {code}"

    def ask_to_end(self) -> None:
        """Send it SIGTERM, through the guard; `end` is still to be called."""
        self._popen.terminate()

    def end(self, grace: float = 0.0) -> None:
        """Close its standard input, give it `grace` seconds to go by itself, kill what is left, descendants as well.

        Safe to call twice.
        """
        if self._finalizer.detach():
            _end(self._guarded, os.getpid(), grace)
        _alive.discard(self)


def excerpt(text: bytes, length: int = 80) -> str:
    """The beginning of what a program wrote, fit for one line of a message."""
    shown = text[:length].decode("utf-8", "replace")
    return repr(shown) + ("..." if len(text) > length else "")


def _end(guarded: _Guarded, owner: int, grace: float = 0.0) -> None:
    if os.getpid() != owner:  # a fork of ours that exits must not take its parent's child along
        return
    guard = guarded.process
    guard.stdin.close()
    _await_end_of_file(guard.stdout.fileno(), grace)
    os.close(guarded.lifeline)
    try:
        guard.wait(timeout=LONGEST_END)
    except subprocess.TimeoutExpired:  # somebody has stopped it
        guard.kill()
        guard.wait()
    guarded.close_pipes()  # not before: a program that still writes would complain of it


def _await_end_of_file(pipe: int, grace: float) -> None:
    deadline = time.monotonic() + grace
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if ready.poll(left * 1000) and not os.read(pipe, 1 << 18):
            return


def _let_go_after_fork() -> None:
    """Close the copies of the pipes that a fork inherits: held open, they would keep a child from seeing our end."""
    for child in list(_alive):
        child._finalizer.detach()
        os.close(child._guarded.lifeline)
        child._guarded.close_pipes()
    _alive.clear()


os.register_at_fork(after_in_child=_let_go_after_fork)
