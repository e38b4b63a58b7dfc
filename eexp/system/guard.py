"""Run a program, and end it together with all its descendants. child.py starts one guard for each program:

    python -I -S guard.py LIFELINE REPORT MEMORY DIRECTORY COMMAND...

LIFELINE is the reading end of a pipe whose other end only the process that started the guard holds. When that process
closes the pipe or ends, everything that the program started is killed. The same happens when the program ends by
itself; the guard then ends as the program did, with its exit status or by its signal.

On Linux the guard is a subreaper: descendants whose parents have ended become its children, also those that called
setsid, so it finds all of them, and the program is killed when the guard is. On other systems a process that left the
program's process group and lost its parent is not found.

REPORT is the writing end of a pipe. The guard writes a line to it with the program's process id, or `!` and the error
number if the program could not be started. MEMORY is the bytes of private memory that the kernel allows each process, 0
for no limit (RLIMIT_DATA; RLIMIT_AS would also count what Java and Go merely reserve). DIRECTORY is removed after all
have ended; it is empty where there is none.

This is a script that imports little, because it runs before every program: it starts in a few milliseconds.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

LINUX = sys.platform.startswith("linux")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LONGEST_END = 10.0  # seconds for killing; a process that hangs inside the kernel for longer is left there


def main(lifeline: int, report: int, memory: int, directory: str, command: list[str]) -> None:
    """Run the guard until the program ends or the lifeline closes. The module's docstring explains the arguments."""
    for fd in (lifeline, report):
        os.set_inheritable(fd, False)
    if LINUX:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wakeup, wakeup_writer = os.pipe()
    for fd in (wakeup, wakeup_writer):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    program = os.fork()
    if program == 0:
        _execute(command, report, memory)
    signal.signal(signal.SIGTERM, lambda *_: _signal(program, signal.SIGTERM))
    try:  # noqa: SIM105, importing contextlib takes longer than all else here
        os.write(report, b"%d\n" % program)
    except BrokenPipeError:
        pass  # the process that started the guard has ended: the lifeline is closed, too
    _close_pipes(report)
    status = _wait(program, lifeline, wakeup)
    signal.signal(signal.SIGTERM, lambda *_: None)  # with SIG_IGN, one that comes now is reported: a race
    for removed in {directory, *end_descendants(program)} - {""}:
        _remove(removed)
    _end_with(status)


def _execute(command: list[str], report: int, memory: int) -> None:
    """Replace this process by the program. Does not return."""
    try:
        guard = os.getppid()
        os.setsid()  # the guard must not be in the process group that the program may signal
        if LINUX:
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:
                os._exit(1)
        if memory:
            _limit_memory(memory)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
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
    """Close the program's standard input and output in this process: each end must see when the other closes."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(report)


def _wait(program: int, lifeline: int, wakeup: int) -> int | None:
    """Wait until the program ends or the lifeline closes; return the program's status, None for the lifeline."""
    ready = select.poll()
    ready.register(lifeline, select.POLLIN)
    ready.register(wakeup, select.POLLIN)
    while True:
        status = _collect(program)
        if status is not None:
            return status
        if any(fd == lifeline for fd, _ in ready.poll()):
            return None
        os.read(wakeup, 4096)


def _collect(program: int) -> int | None:
    """Collect the children that have ended; return the program's status if it is one of them."""
    while (ended := os.waitpid(-1, os.WNOHANG))[0]:
        if ended[0] == program:
            return ended[1]  # its descendants are killed in any case
    return None


def end_descendants(group: int) -> set[str]:
    """Kill every descendant of this process; on other systems than Linux, the process group, too.

    Returns:
        The directories that guards among them would have removed.
    """
    directories: set[str] = set()
    deadline = time.monotonic() + LONGEST_END
    pause = 0.001
    while _has_children() and time.monotonic() < deadline:
        if not LINUX:
            _signal(-group, signal.SIGKILL)
        stopped: set[int] = set()
        while running := descendants(os.getpid()) - stopped:  # stop all before killing: none can start another then
            for pid in running:
                _signal(pid, signal.SIGSTOP)
                directories.add(_directory_of(pid))
            stopped |= running
        for pid in stopped:
            _signal(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    if not LINUX:
        _signal(-group, signal.SIGKILL)
    return directories


def _directory_of(pid: int) -> str:
    """Return the directory that a process has to remove if it is a guard like this one; nothing if it is not."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            arguments = os.fsdecode(cmdline.read()).split("\0")
    except OSError:
        return ""
    is_guard = len(arguments) > 8 and arguments[1:4] == ["-I", "-S", sys.argv[0]]
    return arguments[7] if is_guard else ""


def _remove(directory: str) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def _has_children() -> bool:
    """Return whether a child has not ended. A subreaper has such a child for as long as it has descendants."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def descendants(ancestor: int) -> set[int]:
    """Return the process ids of all descendants of a process."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    pids: set[int] = set()
    generation = [ancestor]
    while generation:
        generation = [pid for parent in generation for pid in children.get(parent, ()) if pid not in pids]
        pids.update(generation)
    return pids


def _parents() -> list[tuple[int, int]]:
    """Return (process id, process id of its parent) for every process of the machine that has not ended."""
    if not LINUX:
        with os.popen("ps -A -o pid= -o ppid=") as lines:
            return [(int(pid), int(parent)) for pid, parent in map(str.split, lines)]
    pairs = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()  # the name before it may hold anything
        except OSError:
            continue
        if fields[0] not in (b"Z", b"X"):
            pairs.append((int(name), int(fields[1])))
    return pairs


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):  # macOS raises the latter for a group in which all have ended
        return


def _prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end_with(status: int | None) -> None:
    """End this process as the program ended; with exit status 0 for None. Does not return."""
    if status is not None and os.WIFSIGNALED(status):
        import resource
        from contextlib import suppress

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        number = os.WTERMSIG(status)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        with suppress(OSError, ValueError):  # SIGKILL and some real-time signals cannot be handled
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        time.sleep(1)
    os._exit(0 if status is None else os.waitstatus_to_exitcode(status) % 256)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])
