"""SQLite databases made once from a user's files, and read by any number of processes.

A database lies in the user's cache directory, under a name that depends on the bytes of its files: where a file has
changed, another database is made. One process makes it while the others wait for it.

Hashing gigabytes takes a while, too. So the hash of a file is kept beside the databases and is believed as long as the
file has the same size and time of modification.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from eexp.errors import EexpError
from eexp.system.cache import cache_directory
from eexp.system.terminal import tell

#: The open databases by file and process: a connection must not be used in a forked process.
_open_databases: dict[tuple[Path, int], sqlite3.Connection] = {}


def open_database(
    kind: str, files: Sequence[Path], make: Callable[[sqlite3.Connection], None], directory: str = ""
) -> tuple[sqlite3.Connection, str]:
    """Open the database of some files for reading, after making it if it does not exist.

    Args:
        kind: What is in it, for its name and for messages. Change it whenever `make` makes something else.
        files: The files it is made from.
        make: Fills an empty database.
        directory: Where databases lie; the user's cache directory if empty.

    Returns:
        The connection, which is shared and must not be closed, and 16 hex digits that depend on the bytes of the files.

    Raises:
        EexpError: A file cannot be read, or the database cannot be made or opened.
    """
    try:
        place = Path(directory) if directory else cache_directory()
        place.mkdir(parents=True, exist_ok=True)
        content = _content_hash(files, place)
        path = place / f"{kind}-{content}.sqlite"
        key = path.resolve(), os.getpid()
        if key not in _open_databases or not path.exists():
            if not path.exists():
                _make(path, kind, files, make)
            _open_databases[key] = sqlite3.connect(f"{key[0].as_uri()}?immutable=1", uri=True, check_same_thread=False)
        return _open_databases[key], content
    except OSError as e:
        raise EexpError(f"{e.filename}: {e.strerror or e}") from None
    except sqlite3.Error as e:
        raise EexpError(f"{kind}: {e}") from None


def _content_hash(files: Sequence[Path], directory: Path) -> str:
    """Return 16 hex digits that depend on the bytes of some files, in order; single hashes are kept in `directory`."""
    hashes = [_file_hash(file, directory) for file in files]
    return hashes[0][:16] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]


def _file_hash(file: Path, directory: Path) -> str:
    status = file.stat()
    stamp = f"{status.st_size} {status.st_mtime_ns}"
    note = directory / f"hash-{hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:16]}"
    with suppress(OSError, ValueError):
        known_stamp, known_hash = note.read_text().rsplit(" ", 1)
        if known_stamp == stamp:
            return known_hash
    digest = hashlib.sha256()
    with open(file, "rb") as source:
        while part := source.read(1 << 20):
            digest.update(part)
    with suppress(OSError):  # a directory that cannot be written costs time alone
        _replace(note, f"{stamp} {digest.hexdigest()}".encode())
    return digest.hexdigest()


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that others read either all of it or what was there before."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def _make(path: Path, kind: str, files: Sequence[Path], make: Callable[[sqlite3.Connection], None]) -> None:
    """Make a database under another name and rename it when it is complete."""
    with _alone(path.with_suffix(".lock")) as locked:
        if path.exists():  # another process has made it meanwhile
            return
        for leftover in path.parent.glob(f"{path.stem}.[0-9]*") if locked else ():  # of a process that was killed
            leftover.unlink(missing_ok=True)
        names = ", ".join(str(file) for file in files[:2]) + (f" and {len(files) - 2} more" if len(files) > 2 else "")
        tell(f"{kind}: making {path} from {names}; this is done once")
        unfinished = path.with_suffix(f".{os.getpid()}")
        try:
            with closing(sqlite3.connect(unfinished)) as database:
                database.execute("PRAGMA journal_mode = OFF")
                database.execute("PRAGMA synchronous = OFF")
                make(database)
                database.commit()
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Wait until no other process is here.

    Yields:
        Whether that is certain: on a file system without locks, two processes may make the same database.
    """
    with open(lock, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False
        yield locked
