"""Checksums of what a task is made of, so that a record is refused once that has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from eexp.errors import EexpError, InputError


def checksum_of(*files: Path) -> str:
    """Return 16 hex digits that depend on the bytes of some files. Raises EexpError if one cannot be read."""
    try:
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    except OSError as e:
        raise EexpError(f"{e.filename}: {e.strerror}") from None


def digest_of(files: Iterable[Path]) -> str:
    """Return 64 hex digits that depend on the names and the bytes of some files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def refuse_changed(task: dict, checksum: str, subject: str) -> None:
    """Raise InputError if a record's task has another checksum; `subject` says what has changed, such as "FILE has"."""
    if task.get("checksum", checksum) != checksum:
        raise InputError(f"{subject} changed since the record was made", "$.task.checksum")
