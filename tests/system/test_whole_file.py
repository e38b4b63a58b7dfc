"""Files that are written as a whole: the old contents or the new ones, never a part of either."""

from __future__ import annotations

import os
import resource
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import read, run, write

from eexp.errors import EexpError
from eexp.system.whole_file import write_whole

OLD = b"<!doctype html><title>old</title>\n" * 9


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let this process write no file beyond a size, as on a disk that is almost full."""
    usual, bytecode = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        sys.dont_write_bytecode = bytecode


def _calls(data, directory: Path) -> Iterator[tuple[Path, list[object]]]:
    """Yield commands that write a whole file, and the file."""
    episodes = write(directory / "il.episodes.jsonl", read(data["episodes"])[:1])
    for name, args in {
        "page.html": ["view", data["expert"], "-o"],
        "report.html": ["report", directory, "-o"],
        "README.md": ["card", data["expert"], "--license", "mit", "-o"],
        "plot.svg": ["compare", episodes, "--plot"],
        "losses.jsonl": ["score", data["imitation"], "-m", "tiny", "-o", "/dev/null", "--summary"],
    }.items():
        yield directory / name, [*args, directory / name]
    sessions = ["export-log", "--format", "hf-traces", "--sessions", directory / "sessions", episodes]
    run(*sessions).ok()
    (session,) = (directory / "sessions").iterdir()
    yield session, sessions


def test_a_full_disk_leaves_the_older_file_whole(data, tmp_path):
    for file, args in _calls(data, tmp_path):
        run(*args).ok()  # which also fills caches
        new = file.read_bytes()
        file.write_bytes(OLD)
        beside = sorted(file.parent.iterdir())
        with room_for(100):
            run(*args).one_error(1, f"{file}: File too large")
        assert (file.read_bytes(), sorted(file.parent.iterdir())) == (OLD, beside)
        run(*args).ok()
        assert file.read_bytes() == new != OLD


def test_mode_and_link_stay_and_a_new_file_has_the_usual_mode(tmp_path):
    file, link = tmp_path / "page", tmp_path / "link"
    write_whole(file, OLD)
    (tmp_path / "usual").touch()
    assert file.stat().st_mode == (tmp_path / "usual").stat().st_mode
    file.chmod(0o640)
    link.symlink_to("page")
    write_whole(link, b"new")
    assert link.is_symlink() and file.read_bytes() == b"new" and stat.S_IMODE(file.stat().st_mode) == 0o640
    assert len(list(tmp_path.iterdir())) == 3


def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    contents: list[bytes] = []
    reader = threading.Thread(target=lambda: contents.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    write_whole(tmp_path / "pipe", OLD)
    reader.join(20)
    assert contents == [OLD] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize(
    ("name", "reason"), [(".", "Is a directory"), ("none/x", "No such file"), ("usual/x", "Not a directory")]
)
def test_a_file_that_cannot_be_written_is_named(tmp_path, name, reason):
    (tmp_path / "usual").touch()
    with pytest.raises(EexpError, match=f"{tmp_path / name}: {reason}"):
        write_whole(tmp_path / name, OLD)
