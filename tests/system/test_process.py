"""Lines to and from a child process, and what a long line costs, counted in bytes."""

from __future__ import annotations

import select
import sys

import pytest

from eexp.system.child import Child

ECHO = "import sys\nfor line in sys.stdin.buffer:\n    sys.stdout.buffer.write(line)\n    sys.stdout.buffer.flush()"


class Searched(bytearray):
    """A buffer that counts the bytes in which a line end was searched."""

    count = 0

    def find(self, separator, start=0):
        Searched.count += len(self) - start
        return super().find(separator, start)

    def split(self, separator):
        Searched.count += len(self)
        return [Searched(part) for part in super().split(separator)]


@pytest.fixture
def echo():
    child = Child([sys.executable, "-c", ECHO])
    yield child
    child.end()


def _exchange(child: Child, unsent: bytes, count: int) -> list[bytes]:
    """Send `unsent` and return the lines that the child has written, at least `count` of them."""
    answers = []
    while len(answers) < count:
        ready = select.poll()
        ready.register(child.pipes()[1], select.POLLIN)
        if unsent:
            ready.register(child.pipes()[0], select.POLLOUT)
        assert ready.poll(60_000)
        unsent = child.write_some(unsent)
        answers += child.lines_so_far(1 << 30)
    return answers


def test_a_long_line_is_searched_once(echo, monkeypatch):
    line = b"x" * (4 << 20)
    monkeypatch.setattr(Searched, "count", 0)
    echo._unread = Searched()
    assert _exchange(echo, line + b"\n", 1) == [line]
    assert len(line) <= Searched.count <= 2 * len(line)


def test_unsent_bytes_are_not_copied(echo):
    line = b"x" * (4 << 20) + b"\n"
    rest = echo.write_some(line)
    assert 0 < len(rest) < len(line) and rest.obj is line
    assert _exchange(echo, rest, 1) == [line[:-1]]


def test_several_lines_at_once_are_separated(echo):
    assert _exchange(echo, b"one\n\nthree\nfo", 3) == [b"one", b"", b"three"]
    assert _exchange(echo, b"ur\n", 1) == [b"four"]
    assert echo.ask(b"five", 60) == b"five"
