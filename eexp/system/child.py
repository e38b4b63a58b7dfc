"""Run a child process that answers lines and never outlives this process.

Used by the workers (workers/supervisor.py) and by environments in a process of their own (envs/bridges/program.py,
envs/worlds/scienceworld.py, envs/worlds/browser/chromium.py). A child is in a session of its own, so that Ctrl-C
reaches this process and not the child. Between the two there is a guard (guard.py), which kills the child and all its
descendants

- when `end` is called, when the object is garbage, or when this process exits;
- when this process is killed, whether or not the child reads the end of file on its standard input;
- when the child ends by itself.

POSIX only.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from eexp.errors import UsageError

#: Bytes that one answer may have; a program that never stops writing must not fill the memory of this process.
MAX_LINE = 16 << 20
DEFAULT_LIMIT = 60.0  # seconds
LONGEST_END = 15.0  # seconds that a guard may take to kill the processes it guards

_GUARD = str(Path(__file__).with_name("guard.py"))
_alive: weakref.WeakSet[Child] = weakref.WeakSet()


def time_limit(default: float = DEFAULT_LIMIT) -> float:
    """Return the seconds that an environment has for one answer: $EEXP_ENV_TIMEOUT, else `default`.

    Raises:
        UsageError: The variable does not hold a number above 0.
    """
    value = os.environ.get("EEXP_ENV_TIMEOUT") or str(default)
    try:
        limit = float(value)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1e9:
        raise UsageError(f"EEXP_ENV_TIMEOUT: expected a number of seconds above 0, got {value!r}")
    return limit


class ChildFailed(Exception):
    """Error raised when a child died, hung or wrote something that is not a single line. It cannot be used any more."""

    part: Any = None  # the part of its job that a worker was at, where it reported one (workers/worker.py)


class NotStarted(ChildFailed):
    """Error raised when a program could not be started; the message is the system's ("No such file or directory")."""


@dataclass
class _Guarded:
    """The guard of a program."""

    process: subprocess.Popen  # the guard's process
    lifeline: int  # the writing end of the pipe whose closing makes the guard kill the program
    report: int  # the reading end of the pipe on which the guard reports how the program was started
    directory: str | None  # the directory that the guard removes at the end

    def close_pipes(self) -> None:
        """Close all pipes but the lifeline."""
        for pipe in _streams(self.process):
            pipe.close()
        os.close(self.report)


def _streams(process: subprocess.Popen) -> tuple[IO[bytes], IO[bytes]]:
    """Return the pipes to the standard input and from the standard output of a process."""
    assert process.stdin is not None and process.stdout is not None, "both were opened as pipes"
    return process.stdin, process.stdout


class Child:
    """A running program with pipes on its standard input and output.

    A program that cannot be started is reported by the first exchange, which then raises NotStarted.

    Args:
        argv: The program and its arguments.
        stderr: A file descriptor for its standard error; None for that of this process.
        cwd: Its working directory.
        env: Its environment variables; None for those of this process.
        memory: Bytes of private memory that the kernel allows it and each of its descendants; None for no limit.
        directory: A directory to remove with all that is in it when the program has ended, however this process ends;
            None for none.

    Raises:
        ValueError: There is a NUL byte in `argv`.
    """

    def __init__(
        self,
        argv: list[str],
        stderr: int | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        memory: int | None = None,
        directory: str | None = None,
    ):
        guards_lifeline, lifeline = os.pipe()
        report, guards_report = os.pipe()
        try:
            pipes = [str(guards_lifeline), str(guards_report)]
            command = [sys.executable, "-I", "-S", _GUARD, *pipes, str(memory or 0), directory or "", *argv]
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=cwd,
                env=env,
                bufsize=0,
                start_new_session=True,
                pass_fds=(guards_lifeline, guards_report),
            )
        except BaseException:
            os.close(lifeline)
            os.close(report)
            _remove(directory)
            raise
        finally:
            os.close(guards_lifeline)
            os.close(guards_report)
        self._stdin, self._stdout = _streams(self._popen)
        for pipe in (self._stdin, self._stdout):
            os.set_blocking(pipe.fileno(), False)
        self._unread = bytearray()
        self._searched = 0  # how many bytes of `_unread` are known to hold no line end
        self._report = bytearray()
        self._guarded = _Guarded(self._popen, lifeline, report, directory)
        self._finalizer = weakref.finalize(self, _end, self._guarded, os.getpid())
        _alive.add(self)

    @property
    def pid(self) -> int:
        """The program's process id. Waits until the program was started; raises NotStarted if it could not be."""
        while b"\n" not in self._report and self._read_report():
            pass
        self._check_started()
        return int(self._report.split(b"\n")[0] or 0)

    @property
    def guard_pid(self) -> int:
        """The process id of the guard, whose descendants are the program and all that it starts."""
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
        """Whether it was not ended and belongs to this process; in a fork of this process it belongs to the parent."""
        return not self._stdin.closed

    def ask(self, request: bytes, limit: float) -> bytes:
        """Write one line and return the one line that answers it, both without their line end.

        Raises:
            ChildFailed: There is no answer within `limit` seconds, or more than one line.
        """
        self._read()
        line = b"" if self._unread else self._exchange(request + b"\n", limit)
        if self._unread:  # of two lines, an answer is an object: what a program prints for a person is none
            stray = self._unread if not line or line.lstrip().startswith(b"{") else line
            raise ChildFailed(f"a line that nothing asked for: {excerpt(stray)}; standard output is for answers alone")
        return line

    def notify(self, request: bytes) -> None:
        """Write one line that needs no answer, as far as there is room in the pipe."""
        if self.usable:
            self._write(request + b"\n")

    def read_line(self, limit: float) -> bytes:
        """Return the next line that it writes without being asked. Raises ChildFailed as `ask` does."""
        return self._exchange(b"", limit)

    def pipes(self) -> tuple[int, int]:
        """Return the descriptors to write to it and to read from it, for waiting on several children at once."""
        return self._stdin.fileno(), self._stdout.fileno()

    def write_some(self, unsent: bytes | memoryview) -> bytes | memoryview:
        """Write as much as there is room for at once; return the rest, uncopied."""
        return self._write(unsent)

    def lines_so_far(self, longest: int = MAX_LINE) -> list[bytes]:
        """Return the whole lines that it has written by now.

        Args:
            longest: Bytes that a line may have.

        Raises:
            ChildFailed: It has ended and nothing is left to read, or a line is too long.
        """
        self._read()
        lines = []
        while (line := self._whole_line()) is not None:
            lines.append(line)
        if self._searched > longest:
            raise ChildFailed(f"more than {longest >> 20} MiB without a line end")
        return lines

    def _whole_line(self) -> bytes | None:
        """Take the first line out of what was read; None if it is not whole. No byte is searched twice for its end."""
        end = self._unread.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._unread)
            return None
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        self._searched = 0
        return line

    def _exchange(self, unsent: bytes | memoryview, limit: float) -> bytes:
        """Write `unsent` and return the first line that comes back. Raises ChildFailed as `ask` does."""
        # Writing and reading take turns: a program that answers before it has read everything must not block both.
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
            return memoryview(unsent)[os.write(self._stdin.fileno(), unsent) :] if unsent else b""
        except BlockingIOError:
            return unsent
        except BrokenPipeError:
            return b""  # it has ended; reading will report how

    def _wait(self, deadline: float, limit: float, writing: bool) -> None:
        """Wait until it has written something or is ready for more. Raises ChildFailed at the deadline."""
        ready = select.poll()
        ready.register(self._stdout.fileno(), select.POLLIN)
        if writing:
            ready.register(self._stdin.fileno(), select.POLLOUT)
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not ready.poll(remaining * 1000):
            raise ChildFailed(f"no answer within {limit:g} s (EEXP_ENV_TIMEOUT)")

    def _read(self) -> None:
        try:
            data = os.read(self._stdout.fileno(), 1 << 18)
        except BlockingIOError:
            return
        if not data:
            while self._read_report():  # the guard writes nothing more once the program was started
                pass
            self._check_started()
            raise ChildFailed(self.describe_end() or "closed its standard output")
        self._unread += data

    def wait(self, limit: float) -> int | None:
        """Return its exit status, below 0 for a signal; None if it is still running after `limit` seconds."""
        try:
            return self._popen.wait(timeout=limit)  # that of the guard, which ends as the program did
        except subprocess.TimeoutExpired:
            return None

    def describe_end(self) -> str | None:
        """Return its exit status or signal in words; None if it is still running two seconds from now."""
        code = self.wait(2)
        if code is None:
            return None
        if code < 0:
            names = {s.value: f" ({s.name})" for s in signal.Signals}  # real-time signals have none
            return f"killed by signal {-code}{names.get(-code, '')}"
        return f"ended with exit status {code}"

    def terminate(self) -> None:
        """Send it SIGTERM, through the guard. `end` still has to be called."""
        self._popen.terminate()

    def end(self, grace: float = 0.0) -> None:
        """Close its standard input, wait up to `grace` seconds until it ends, and kill it and all its descendants.

        Safe to call twice.
        """
        if self._finalizer.detach():
            _end(self._guarded, os.getpid(), grace)
        _alive.discard(self)


def excerpt(text: bytes | bytearray, length: int = 80) -> str:
    """Return the beginning of what a program wrote, for one line of a message."""
    excerpt = text[:length].decode("utf-8", "replace")
    return repr(excerpt) + ("..." if len(text) > length else "")


def _end(guarded: _Guarded, owner: int, grace: float = 0.0) -> None:
    """End a program and its guard. In a fork of the process that owns it, nothing happens."""
    if os.getpid() != owner:
        return
    guard = guarded.process
    stdin, stdout = _streams(guard)
    stdin.close()
    _await_end_of_file(stdout.fileno(), grace)
    os.close(guarded.lifeline)
    try:
        guard.wait(timeout=LONGEST_END)
    except subprocess.TimeoutExpired:  # it was stopped by a signal
        guard.kill()
        guard.wait()
    guarded.close_pipes()  # not earlier: a program that still writes would report an error
    _remove(guarded.directory)  # the guard has done so, unless it was killed


def _remove(directory: str | None) -> None:
    """Remove a directory. The processes of a killed guard end by themselves, and may write to it until they do."""
    deadline = time.monotonic() + LONGEST_END
    while directory and os.path.lexists(directory) and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        if os.path.lexists(directory):
            time.sleep(0.02)


def _await_end_of_file(pipe: int, grace: float) -> None:
    """Read a pipe to its end, for `grace` seconds at most."""
    deadline = time.monotonic() + grace
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    while (remaining := deadline - time.monotonic()) > 0:
        if ready.poll(remaining * 1000) and not os.read(pipe, 1 << 18):
            return


def _close_pipes_after_fork() -> None:
    """Close the copies of the pipes that a fork inherits, for as long as one is open no guard sees this process end."""
    for child in list(_alive):
        child._finalizer.detach()
        os.close(child._guarded.lifeline)
        child._guarded.close_pipes()
    _alive.clear()


os.register_at_fork(after_in_child=_close_pipes_after_fork)
