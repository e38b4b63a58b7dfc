"""Run a program, and end it together with all its descendants. Started by eexp/processes/child.py, one guard a program:

    python -I -S guard.py LIFELINE REPORT MEMORY COMMAND...

LIFELINE is the reading end of a pipe whose other end only the process that started the guard holds. When the pipe
closes, because that process wants it so or is no more, everything that the program started is killed. The same happens
when the program ends by itself; the guard then ends as the program did, with its exit status or by its signal.

On Linux the guard is a subreaper: descendants whose parents have ended become its children, also those that called
setsid, so none is out of its reach; and the program is killed when the guard is. Elsewhere what left the program's
process group and has lost its parent is not found.

REPORT is the writing end of a pipe, which gets a line with the program's process id, or `!` and the error number where
it cannot be started. MEMORY: bytes of private memory that the kernel lets each process have, 0 for no limit
(RLIMIT_DATA; RLIMIT_AS would also count what Java and Go merely reserve).

A script of its own that imports little: it starts in a few milliseconds, before every program.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

LINUX = sys.platform.startswith("linux")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LONGEST_END = 10.0  # seconds for killing; what hangs inside the kernel for longer is left to it


def main(lifeline: int, report: int, memory: int, command: list[str]) -> None:
    for fd in (lifeline, report):
        os.set_inheritable(fd, False)
    if LINUX:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    for fd in (woken, wake):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    program = os.fork()
    if program == 0:
        _become(command, report, memory)
    signal.signal(signal.SIGTERM, lambda *_: _signal(program, signal.SIGTERM))
    os.write(report, b"%d\n" % program)
    _close_pipes(report)
    status = _wait(program, lifeline, woken)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_descendants(program)
    _end_with(status)


def _become(command: list[str], report: int, memory: int) -> None:
    """Replace this process by the program. Does not return."""
    try:
        guard = os.getppid()
        os.setsid()  # a program that signals its group must not reach the guard
        if LINUX:
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:
                os._exit(1)
        if memory:
            _limit_memory(memory)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as e:
        os.write(report, b"!%d\n" % (e.errno or 0))
    finally:
        os._exit(127)


def _limit_memory(memory: int) -> None:
    import resource

    allowed = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = memory if allowed == resource.RLIM_INFINITY else min(memory, allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _close_pipes(report: int) -> None:
    """Let go of the program's standard input and output: each end must see when the other closes."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(report)


def _wait(program: int, lifeline: int, woken: int) -> int | None:
    """Wait until the program ends, which gives its status, or the lifeline closes."""
    ready = select.poll()
    ready.register(lifeline, select.POLLIN)
    ready.register(woken, select.POLLIN)
    while True:
        status = _collect(program)
        if status is not None:
            return status
        if any(fd == lifeline for fd, _ in ready.poll()):
            return None
        os.read(woken, 4096)


def _collect(program: int) -> int | None:
    """Collect the children that have ended; returns the program's status if it is among them."""
    status = None
    while (ended := os.waitpid(-1, os.WNOHANG))[0]:
        if ended[0] == program:
            status = ended[1]
            break  # what is left of its descendants is killed in any case
    return status


def end_descendants(group: int) -> None:
    """Kill every descendant of this process and, where it can, the process group."""
    deadline = time.monotonic() + LONGEST_END
    pause = 0.001
    while _has_children() and time.monotonic() < deadline:
        if not LINUX:
            _signal(-group, signal.SIGKILL)
        stopped: set[int] = set()
        while more := descendants(os.getpid()) - stopped:  # stopped first: none of them can start another meanwhile
            for pid in more:
                _signal(pid, signal.SIGSTOP)
            stopped |= more
        for pid in stopped:
            _signal(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    if not LINUX:
        _signal(-group, signal.SIGKILL)


def _has_children() -> bool:
    """Whether a child is left that has not ended. A subreaper has one for as long as it has descendants."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def descendants(ancestor: int) -> set[int]:
    """Process ids of all descendants of a process."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    new = [ancestor]
    while new:
        new = [pid for parent in new for pid in children.get(parent, ()) if pid not in found]
        found.update(new)
    return found


def _parents() -> list[tuple[int, int]]:
    """(process, its parent) for every process of the machine."""
    if not LINUX:
        with os.popen("ps -A -o pid= -o ppid=") as lines:
            return [(int(pid), int(parent)) for pid, parent in map(str.split, lines)]
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()  # the name before it may hold anything
        except OSError:
            continue
        if fields[0] not in (b"Z", b"X"):
            found.append((int(name), int(fields[1])))
    return found


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group in which all have ended
        return


def _prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end_with(status: int | None) -> None:
    """End as the program did."""
    if status is not None and os.WIFSIGNALED(status):
        import resource
        from contextlib import suppress

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        number = os.WTERMSIG(status)
        with suppress(OSError, ValueError):  # SIGKILL cannot be handled; some real-time signals are the C library's
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        time.sleep(1)
    os._exit(0 if status is None else os.waitstatus_to_exitcode(status) % 256)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), sys.argv[4:])
