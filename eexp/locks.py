"""Advisory locks, so that two commands do not write one file or directory at a time."""

from __future__ import annotations

import errno
import fcntl
import os

from eexp.errors import EexpError

#: File systems that know no locks; EBADF and EINVAL are NFS's answers for a directory.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)


def lock(file: int, name: str) -> None:
    """Lock the file or directory `name` until `file`, a descriptor of it, is closed.

    Raises EexpError, with the process that holds the lock where the system tells it, if it is locked already. On a file
    system without locks nothing is locked.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise EexpError(f"{name}: {_holder(file)} is writing it; wait until it has ended, or give another -o") from None
    except OSError as e:
        if e.errno not in _WITHOUT_LOCKS:
            raise EexpError(f"{name}: {e.strerror or e}") from None


class DirectoryLock:
    """A directory that one command, or one group of processes that train together, may write at a time.

    It is locked from the beginning if it exists, else from `create` on; the first of the processes locks it for all.
    """

    def __init__(self, directory: str | os.PathLike):
        self._name, self._file = os.fspath(directory), None

    def __enter__(self) -> DirectoryLock:
        if os.environ.get("RANK", "0") == "0" and os.path.isdir(self._name):
            self.create()
        return self

    def create(self) -> bool:
        """Create and lock the directory unless that is done already; returns whether it was still to do."""
        if self._file is not None:
            return False
        try:
            os.makedirs(self._name, exist_ok=True)
            self._file = os.open(self._name, os.O_RDONLY)
        except OSError as e:
            raise EexpError(f"{self._name}: {e.strerror or e}") from None
        lock(self._file, self._name)
        return True

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            os.close(self._file)


def _holder(file: int) -> str:
    """Return the process that holds the lock, as Linux lists it in /proc/locks."""
    status = os.fstat(file)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open("/proc/locks") as listed:
            for fields in map(str.split, listed):
                if "FLOCK" in fields and place in fields and "->" not in fields:
                    process = fields[fields.index(place) - 1]
                    return f"process {process}" if int(process) > 0 else "a process of another container"
    except OSError:
        pass
    return "another process"
