"""Standard input as a file, since a viewer goes back and forth in its records."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from eexp.errors import EexpError, UsageError
from eexp.system.terminal import tell

_STDIN = "-"
_BLOCK = 1 << 20  # bytes read at a time


class Spool:
    """A temporary file into which standard input is copied.

    Standard input is read to its end even where the copy cannot be written, since whatever writes to it waits else: in
    `eexp rollout | tee rollout.jsonl | eexp view` that is the stage.

    Attributes:
        name: The file.
        problem: Why the copy does not go on; "" where it does.
    """

    def __init__(self, name: str, descriptor: int):
        self.name, self.problem = name, ""
        self._descriptor = descriptor

    def copy(self, read: Callable[[], bytes], report: Callable[[str], None] = lambda problem: None) -> None:
        """Copy what `read` returns, until that is empty.

        Args:
            report: Is called with a problem when it arises.
        """
        try:
            while block := read():
                if not self.problem and (problem := self._write(block)):
                    self.problem = problem
                    report(problem)
        except OSError as e:
            self.problem = f"<stdin>: {e.strerror or e}"
            report(self.problem)

    def copy_in_background(self) -> None:
        """Copy standard input in a thread, and show a problem on standard error."""

        def read() -> bytes:
            return os.read(sys.stdin.fileno(), _BLOCK)  # sys.stdin's own lock would be held at the exit

        def report(problem: str) -> None:
            tell(f"view: {problem}; later records from standard input are not shown")

        threading.Thread(target=self.copy, args=(read, report), daemon=True).start()

    def _write(self, block: bytes) -> str:
        """Write a block; return why that failed, "" where it did not."""
        try:
            while block:
                block = block[os.write(self._descriptor, block) :]
        except OSError as e:
            return f"{self.name}: {e.strerror or e}"
        return ""


@contextmanager
def spooled(files: Sequence[str], *, wait: bool) -> Iterator[tuple[list[str], Spool | None]]:
    """Give standard input, where it is one of the files or there are none, a temporary file for as long as the block.

    Args:
        files: Names of files; "-" is standard input.
        wait: Whether to read standard input to its end first; else a thread copies it.

    Yields:
        The names of the files, and the copy of standard input where it is among them.

    Raises:
        UsageError: There is no file, and standard input is a terminal.
        EexpError: Standard input cannot be read, or its copy cannot be written.
    """
    names = list(files) or [_STDIN]
    if _STDIN not in names:
        yield names, None
        return
    if sys.stdin.isatty():
        raise UsageError("give a FILE, or records on standard input")
    with tempfile.NamedTemporaryFile(prefix="eexp-view-", suffix=".jsonl") as file:
        spool = Spool(file.name, file.fileno())
        if wait:
            spool.copy(lambda: sys.stdin.buffer.read(_BLOCK))
            if spool.problem:
                raise EexpError(spool.problem)
        else:
            _refuse_unreadable_stdin()
            spool.copy_in_background()
        yield [spool.name if name == _STDIN else name for name in names], spool


def _refuse_unreadable_stdin() -> None:
    """Raise EexpError where standard input is closed, or a directory."""
    try:
        os.read(sys.stdin.fileno(), 0)
    except OSError as e:
        raise EexpError(f"<stdin>: {e.strerror or e}") from None
