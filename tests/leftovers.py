"""Finding processes that a test has started, whatever has become of their parents."""

from __future__ import annotations

import os
import time

import psutil

MARK = "EEXP_TEST_MARK"  # an environment variable that every process of one test inherits


def marked(mark: str) -> list[psutil.Process]:
    """The running processes that were started with this mark, without the one that asks."""
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
    """Whether all marked processes end in time."""
    deadline = time.monotonic() + within
    while remaining := marked(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return not remaining
