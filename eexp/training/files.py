"""Writing the files of a training run: each of them whole, and a failure to write as one line."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eexp.errors import EexpError

SUMS_FILE = "SHA256SUMS"  # the last file of a checkpoint (resume.py)
#: Beginnings of torch's and safetensors' messages about a file that could not be written; neither raises OSError.
_WRITE_ERROR = re.compile(
    r"I/?O ?error|PytorchStreamWriter failed|\[enforce fail at inline_container|.*(No space left|File too large)"
)
_TORCH_ERROR = re.compile(r"PytorchStreamWriter failed|\[enforce fail at inline_container")


def replace_file(path: Path, data: bytes) -> None:
    """Replace the contents of a file; a kill leaves either the old contents or the new."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def unify_modes(directory: Path) -> None:
    """Give the weight files in a directory the mode of any other new file; safetensors makes its own for their owner.

    A file system without modes is left as it is.
    """
    probe = directory / "mode.part"
    with suppress(OSError):
        probe.touch()
        mode = stat.S_IMODE(probe.stat().st_mode)
        for path in directory.glob("*.safetensors"):
            path.chmod(mode)
    probe.unlink(missing_ok=True)


@contextmanager
def write_errors(directory: Path) -> Iterator[None]:
    """Raise EexpError, with one line, for errors within the block from writing below `directory`, such as a full disk.

    OSError and the libraries' own errors about files are converted; any other error passes.
    """
    try:
        yield
    except OSError as e:
        raise EexpError(f"{e.filename or directory}: {e.strerror or e}{_way_on(directory)}") from None
    except Exception as e:
        if not _WRITE_ERROR.match(str(e)):
            raise
        # torch says at which byte it failed, and not why.
        reason = "is the disk full?" if _TORCH_ERROR.match(str(e)) else str(e).splitlines()[0]
        raise EexpError(f"{directory}: cannot be written: {reason}{_way_on(directory)}") from None


def _way_on(directory: Path) -> str:
    """Return the end of a message: how to go on from a checkpoint, if there is one."""
    if not any((directory / "checkpoints").glob(f"checkpoint-*/{SUMS_FILE}")):
        return ""
    return "; with room on the disk, the same command with --resume goes on from the last whole checkpoint"
