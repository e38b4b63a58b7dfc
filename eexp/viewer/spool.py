"""Standard input as a file, since a viewer goes back and forth in its records."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from eexp.errors import UsageError

_STDIN = "-"


@contextmanager
def spooled(files: Sequence[str], *, wait: bool) -> Iterator[tuple[list[str], bool]]:
    """Give standard input, where it is one of the files or there are none, a temporary file for as long as the block.

    Args:
        files: Names of files; "-" is standard input.
        wait: Whether to read standard input to its end first; else a thread copies it.

    Yields:
        The names of the files, and whether standard input is among them.

    Raises:
        UsageError: There is no file, and standard input is a terminal.
    """
    names = list(files) or [_STDIN]
    if _STDIN not in names:
        yield names, False
        return
    if sys.stdin.isatty():
        raise UsageError("give a FILE, or records on standard input")
    with tempfile.NamedTemporaryFile(prefix="eexp-view-", suffix=".jsonl") as copy:

        def copy_all() -> None:
            while block := os.read(sys.stdin.fileno(), 1 << 20):  # sys.stdin's own lock would be held at the exit
                copy.write(block)
                copy.flush()

        if wait:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.flush()
        else:
            threading.Thread(target=copy_all, daemon=True).start()
        yield [copy.name if name == _STDIN else name for name in names], True
