"""Find the processes that a test has started, even if their parents have ended."""

from __future__ import annotations

import os
import time

import psutil

MARK = "EEXP_TEST_MARK"  # an environment variable that every process of one test inherits


def marked(mark: str) -> list[psutil.Process]:
    """Return the running processes that were started with this mark, without this process."""
    processes = []
    for process in psutil.process_iter():
        try:
            is_marked = process.pid != os.getpid() and process.environ().get(MARK) == mark
            if is_marked and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return processes


def none_left(mark: str, within: float = 20.0) -> bool:
    """Return whether all marked processes end within so many seconds."""
    deadline = time.monotonic() + within
    while remaining := marked(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return not remaining
