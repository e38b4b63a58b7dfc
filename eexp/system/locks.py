"""Advisory locks, so that two commands do not write one file or directory at a time."""

from __future__ import annotations

import errno
import fcntl
import os

from eexp.errors import EexpError

#: The errors of file systems without locks; EBADF and EINVAL are those of NFS for a directory.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)


def lock(file: int, name: str) -> None:
    """Lock a file or a directory until its descriptor is closed. On a file system without locks, do nothing.

    Args:
        file: A descriptor of it.
        name: Its name, for messages.

    Raises:
        EexpError: It is locked already; the message names the process that holds the lock, where the system tells.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise EexpError(f"{name}: {_holder(file)} is writing it; wait until it has ended, or give another -o") from None
    except OSError as e:
        if e.errno not in _WITHOUT_LOCKS:
            raise EexpError(f"{name}: {e.strerror or e}") from None


class DirectoryLock:
    """Context in which only one command, or one group of processes that train together, may write a directory.

    The directory is locked on entry if it exists, else by `create`; in a group, the process of rank 0 locks it for all.
    """

    def __init__(self, directory: str | os.PathLike):
        self._name, self._file = os.fspath(directory), None

    def __enter__(self) -> DirectoryLock:
        if os.environ.get("RANK", "0") == "0" and os.path.isdir(self._name):
            self.create()
        return self

    def create(self) -> bool:
        """Create and lock the directory, unless it is locked by this object already.

        Returns:
            Whether this call has locked it.
        """
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
        with open("/proc/locks") as locks:
            for fields in map(str.split, locks):
                if "FLOCK" in fields and place in fields and "->" not in fields:
                    process = fields[fields.index(place) - 1]
                    return f"process {process}" if int(process) > 0 else "a process of another container"
    except OSError:
        pass
    return "another process"
