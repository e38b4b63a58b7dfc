"""Write a file as a whole: what was there before stays until all of the new contents are on the disk."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress

from eexp.errors import EexpError


def write_whole(name: str | os.PathLike, data: bytes) -> None:
    """Replace the contents of a file. A failure, such as a full disk, or a kill leaves the old contents.

    The new contents are written beside the file, which is then replaced. Its mode and owner stay, and a symbolic link
    stays a link. What is no regular file, such as a pipe or /dev/stdout, is written directly.

    Raises:
        EexpError: The file cannot be written; the message begins with `name`.
    """
    try:
        try:
            before = os.stat(name)
        except FileNotFoundError:
            before = None
        if before and not stat.S_ISREG(before.st_mode):
            with open(name, "wb") as file:
                file.write(data)
        else:
            _replace(os.path.realpath(name), data, before)
    except OSError as e:
        raise EexpError(f"{os.fspath(name)}: {e.strerror or e}") from None


def _replace(path: str, data: bytes, before: os.stat_result | None) -> None:
    part = os.path.join(os.path.dirname(path), f".eexp-{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as file:
            if before:
                with suppress(OSError):  # a file system without owners or modes, or another user's file
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                    os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            file.write(data)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise
