"""Advisory locks, so that two commands do not write one file or directory at a time."""

from __future__ import annotations

import errno
import fcntl
import os

from eexp.errors import EexpError

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # file systems that know none


def lock(file: int, name: str) -> None:
    """Lock the file or directory `name` until `file`, a descriptor of it, is closed.

    Raises EexpError, with the process that holds the lock where the system tells it, if it is locked already.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise EexpError(f"{name}: {_holder(file)} is writing it; wait until it has ended, or give another -o") from None
    except OSError as e:
        if e.errno not in _WITHOUT_LOCKS:
            raise EexpError(f"{name}: {e.strerror or e}") from None


def _holder(file: int) -> str:
    """Return the process that holds the lock, as Linux lists it in /proc/locks."""
    status = os.fstat(file)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open("/proc/locks") as listed:
            for fields in map(str.split, listed):
                if "FLOCK" in fields and place in fields and "->" not in fields:
                    return f"process {fields[fields.index(place) - 1]}"
    except OSError:
        pass
    return "another process"
