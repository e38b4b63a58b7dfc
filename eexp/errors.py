"""Kinds of errors, and the exit code of each.

0 done, 1 failed, 2 usage, 3 bad input, 4 done but some records were set aside.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INPUT, EXIT_SET_ASIDE = 0, 1, 2, 3, 4
EXIT_SIGNAL = 128  # of a command that was ended by a signal: this and the signal's number, as shells have it


class EexpError(Exception):
    """Error that is shown in one line, without a traceback."""

    exit_code = EXIT_FAILED


class Terminated(SystemExit):
    """Raised in the main thread at SIGTERM, so that environments and their children are closed as at any exit."""


class UsageError(EexpError):
    """Error raised when a command line names what does not exist, or when its options do not fit together."""

    exit_code = EXIT_USAGE


class InputError(EexpError):
    """Error raised when a record, or a file of records, is not what the stage reads.

    Attributes:
        message: What is wrong.
        where: The place inside the record, as a JSON path (`$.steps[3].action`), or "".
        evidence: Further facts for the rejects file, which spare running the stage again to see them.
    """

    exit_code = EXIT_INPUT

    def __init__(self, message: str, where: str = "", evidence: dict | None = None):
        super().__init__(f"{where}: {message}" if where else message)
        self.message, self.where = message, where
        self.evidence = evidence or {}

    def at(self, where: str) -> InputError:
        """Return the same error with its place, if it has none yet."""
        return self if self.where else type(self)(self.message, where, self.evidence)


class PromptTooLong(InputError):
    """Error raised when a prompt and its answer do not fit into a model's context."""


class EnvironmentFailed(InputError):
    """Error raised when an environment dies, hangs or breaks its contract while a record is processed."""

    exit_code = EXIT_FAILED


def unexpected_error(error: Exception, where: str = "") -> EnvironmentFailed:
    """Return the error for an exception that an environment let out: one line, with the traceback as evidence.

    Args:
        error: The exception, while it is being handled.
        where: What was called.
    """
    message = describe(error)
    evidence = {"traceback": traceback.format_exc(limit=-8)}
    return EnvironmentFailed(f"{where}: {message}" if where else message, evidence=evidence)


def describe(error: BaseException) -> str:
    """Return an exception of code from outside of eexp in one line: its type, its message and where it comes from."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{_place_of(error)}"


def _place_of(error: BaseException) -> str:
    """Return where an exception comes from, as " (FILE:LINE)"; "" where only eexp and Python took part.

    That is the innermost line of code outside of both; a line of an installed package counts where there is no other.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_outside(frame.filename)]
    own = [frame for frame in frames if not _is_installed(frame.filename)]
    if not frames:
        return ""
    frame = (own or frames)[-1]
    return f" ({os.path.basename(frame.filename)}:{frame.lineno})"  # without its directory: records may hold it


def _is_outside(file: str) -> bool:
    """Return whether a file of code is neither of eexp nor of Python itself."""
    if file.startswith(("<", _EEXP)):
        return False
    return _is_installed(file) or not file.startswith(_PYTHON)


def _is_installed(file: str) -> bool:
    """Return whether a file is of an installed package."""
    return bool({"site-packages", "dist-packages"}.intersection(file.split(os.sep)))


_EEXP, _PYTHON = (os.path.dirname(file) + os.sep for file in (__file__, os.__file__))


@contextmanager
def environment_errors(where: str) -> Iterator[None]:
    """Turn what an environment raises unexpectedly into EnvironmentFailed, for calls outside of workers.

    Args:
        where: What is called, for the message.
    """
    try:
        yield
    except (EexpError, MemoryError, OSError):  # OSError: also standard output that is closed; one line in any case
        raise
    except Exception as e:
        raise unexpected_error(e, where) from e


class ServerFailed(EexpError):
    """Error raised when the server of a model cannot be used; the same command may find it well again later."""


class NoRoom(EexpError):
    """Error raised when a server has room for no further session; those that are open go on as before."""


def short(value: object, limit: int = 60) -> str:
    """Return a value as messages quote it: on one line, and cut to `limit` characters."""
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    excerpt = text if len(text) <= limit else text[: limit - 3] + "..."
    return repr(excerpt) if isinstance(value, str) else excerpt
