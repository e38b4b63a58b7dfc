"""Show text to a person: everything that eexp writes on standard output or standard error, apart from records.

Most of that text comes from models, servers and files, and a terminal obeys control sequences in it: one can set the
clipboard or hide a line, and a bidirectional mark can turn an action around. Here such characters become escapes
(\\x1b, \\u202e). Newlines and tabs stay in text that is shown, and become escapes in messages and in cells of tables,
where a newline would forge a line. Colours come from `style` alone. JSON output does not pass through here.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from eexp.errors import EexpError

#: Control characters but for tab and newline, marks of direction, separators of lines, tags, lone surrogates.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
SECONDS_BETWEEN_LINES = 15.0  # that tell how far a command has come
LONGEST_LINE = 4000  # characters of a line on standard error: a message may quote what a record holds
verbose = False  # whether -v is given: nothing is left out of what is shown on standard error
_OWN = "\x1b" + os.urandom(8).hex()  # stands before the codes of `style`; no text from outside can hold it
_STYLES = re.compile(re.escape(_OWN) + r"\[\d+m")
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36}
_BOLD, _DIM = 1, 2


def _escape(match: re.Match) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible(text: str) -> str:
    """Return `text` with an escape in place of every character that a terminal would obey or not show."""
    return HIDDEN.sub(_escape, text)


def one_line(text: str) -> str:
    """Return `text` as `visible` does, on one line: newlines and tabs become \\n and \\t."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def align(lines: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return lines whose cells stand in columns: the first `left` aligned to the left, the others to the right.

    A cell that has several lines, such as a kind that a record names, is written on one.
    """
    lines = [[one_line(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines)]
    padded = [
        [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
        for line in lines
    ]
    return ["  ".join(line).rstrip() for line in padded]


def style(text: str, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """Return `text` in a colour, bold or dim, to be written by `show` or `tell`; no terminal gets no codes."""
    codes = [_COLOURS[fg]] if fg else []
    codes += [_BOLD] * bold + [_DIM] * dim
    return "".join(f"{_OWN}[{code}m" for code in codes) + text + f"{_OWN}[0m"


def show(text: str = "", nl: bool = True) -> None:
    """Write text on standard output; raises EexpError if that fails, and BrokenPipeError if the reader is gone."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        line = _escaped(_for(sys.stdout, text)).encode(encoding, "backslashreplace").decode(encoding)
        sys.stdout.write(line + "\n" * nl)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        raise EexpError(f"<stdout>: {e.strerror or e}") from None


def tell(*lines: str) -> None:
    """Write lines on standard error, long ones cut. Where they cannot be written, the work goes on.

    A newline within a line becomes \\n, so that no text from outside can look like a message of its own.
    """
    with contextlib.suppress(OSError):
        sys.stderr.write("\n".join(_cut(_escaped(_for(sys.stderr, line), one_line)) for line in lines) + "\n")
        sys.stderr.flush()


@contextlib.contextmanager
def paged() -> Iterator[None]:
    """Send what the block shows through a pager, where standard output is a terminal, as git does.

    The pager is PAGER, or less; it ends by itself where the text fits on the screen, and colours are kept. An empty
    PAGER, `cat`, or a pager that cannot be started leaves the output as it is.
    """
    pager = os.environ.get("PAGER", "less")
    if not sys.stdout.isatty() or pager in ("", "cat"):
        yield
        return
    import subprocess

    try:
        child = subprocess.Popen(
            ["sh", "-c", f"exec {pager}"], stdin=subprocess.PIPE, env={"LESS": "FRX", "LV": "-c", **os.environ}
        )
    except OSError:
        yield
        return
    terminal = sys.stdout
    assert child.stdin
    sys.stdout = _Paged(child.stdin, encoding="utf-8", errors="backslashreplace")
    try:
        yield
    except BrokenPipeError:
        pass  # the reader has seen enough
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.close()
        sys.stdout = terminal
        while True:  # Ctrl-C is for the pager
            try:
                child.wait()
                break
            except KeyboardInterrupt:
                continue


class _Paged(io.TextIOWrapper):
    """The input of a pager, which is on a terminal."""

    def isatty(self) -> bool:
        return True


class Progress:
    """How far a command has come: a bar on standard error where that is a terminal, else a line from time to time.

    Args:
        stage: The command, for lines.
        unit: What one step is called.
        total: How many steps there will be, where that is known.
        initial: How many were made before.
        quiet: Show nothing.
    """

    def __init__(self, stage: str, unit: str, total: int | None = None, initial: int = 0, quiet: bool = False):
        self._stage, self._unit, self._total = stage, unit, total
        self._units = f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
        self._initial = self._count = initial
        self._began = self._told = time.monotonic()
        self._bar = None
        self._quiet = quiet
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=initial, unit=unit, leave=False)

    def advance(self, facts: str = "") -> None:
        """Count one step more. `facts` are shown beside the numbers."""
        self._count += 1
        if self._bar is not None:
            self._bar.set_postfix_str(facts, refresh=False)
            self._bar.update(1)
        elif not self._quiet and time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            tell(f"{self._stage}: {self._count_text()}" + (f", {facts}" if facts else ""))

    def _count_text(self) -> str:
        if not self._total:
            return f"{self._count:,} {self._units} so far"
        if self._count - self._initial < self._total / 10:  # too few to tell
            return f"{self._count:,} of {self._total:,} {self._units}"
        seconds = (self._told - self._began) / (self._count - self._initial) * max(0, self._total - self._count)
        return f"{self._count:,} of {self._total:,} {self._units}, about {format_seconds(seconds)} left"

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


def _for(stream: TextIO, text: str) -> str:
    """Return a styled text for a stream: without its style where that is no terminal."""
    return text if stream.isatty() else _STYLES.sub("", text)


def _escaped(text: str, escape: Callable[[str], str] = visible) -> str:
    return "\x1b".join(map(escape, text.split(_OWN)))


def _cut(line: str) -> str:
    more = len(line) - LONGEST_LINE
    return line if more <= 0 else f"{line[:LONGEST_LINE]}... ({more:,} more characters)"


def format_bytes(size: float) -> str:
    """Return a number of bytes for a person, such as "1.5 GB" or "20 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def format_seconds(seconds: float) -> str:
    """Return a duration for a person, such as "40 s", "3 min" or "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
