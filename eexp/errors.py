"""What can go wrong, and the exit code each kind ends with.

0 done, 1 failed, 2 usage, 3 bad input, 4 done but some records were set aside.
"""

from __future__ import annotations

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INPUT, EXIT_SET_ASIDE = 0, 1, 2, 3, 4


class EexpError(Exception):
    """A failure that is told in one line, without a traceback."""

    exit_code = EXIT_FAILED


class UsageError(EexpError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_code = EXIT_USAGE


class InputError(EexpError):
    """A record, or a file of records, is not what the stage reads.

    `where` is the place inside the record, as a JSON path (`$.steps[3].action`), or "".
    `evidence` is carried into the rejects file, so that nobody has to run the stage again to see it.
    """

    exit_code = EXIT_INPUT

    def __init__(self, message: str, where: str = "", evidence: dict | None = None):
        super().__init__(f"{where}: {message}" if where else message)
        self.message, self.where = message, where
        self.evidence = evidence or {}

    def at(self, where: str) -> InputError:
        """The same error with its place, if it has none yet."""
        return self if self.where else type(self)(self.message, where, self.evidence)


class EnvironmentFailed(InputError):
    """An environment died, hung, or answered what its contract does not allow, while on a record."""

    exit_code = EXIT_FAILED


class NoRoom(EexpError):
    """A server has room for no further session. One that is open already goes on as before."""


def short(value: object, limit: int = 60) -> str:
    """A value as it is quoted in a message: on one line, and cut where it is long."""
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    shown = text if len(text) <= limit else text[: limit - 3] + "..."
    return repr(shown) if isinstance(value, str) else shown
