"""What checks of environments and models find, one finding a check."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, FAILED, SKIPPED = "ok", "note", "FAIL", "-"


@dataclass
class Finding:
    """The result of one check, with its detail in words."""

    check: str
    verdict: str  # OK, NOTE (worth knowing, but nothing is broken), FAILED or SKIPPED
    detail: str


class Broken(Exception):
    """Error raised when the contract is broken; the message says how."""


class WorthKnowing(Exception):
    """Raised to end a check in which nothing is broken, but a user should know the result."""


class NothingToCheck(Exception):
    """Raised to end a check that does not apply."""


def must(holds: bool, message: str) -> None:
    """Raise Broken unless something holds."""
    if not holds:
        raise Broken(message)
