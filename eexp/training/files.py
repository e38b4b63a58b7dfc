"""Writing the files of a training run: each of them whole, and a failure to write as one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eexp.errors import EexpError

#: Beginnings of torch's and safetensors' messages about a file that could not be written; neither raises OSError.
_WRITE_ERROR = re.compile(
    r"I/?O ?error|PytorchStreamWriter failed|\[enforce fail at inline_container|.*(No space left|File too large)"
)


def replace_file(path: Path, data: bytes) -> None:
    """Replace the contents of a file; a kill leaves either the old contents or the new."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


@contextmanager
def write_errors(directory: Path) -> Iterator[None]:
    """Raise EexpError, with one line, for errors within the block from writing below `directory`, such as a full disk.

    OSError and the libraries' own errors about files are converted; any other error passes.
    """
    try:
        yield
    except OSError as e:
        raise EexpError(f"{e.filename or directory}: {e.strerror or e}") from None
    except Exception as e:
        if not _WRITE_ERROR.match(str(e)):
            raise
        raise EexpError(f"{directory}: cannot be written: {str(e).splitlines()[0]}") from None
