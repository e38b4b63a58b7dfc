"""When two actions are the same: in prose, however they are written; in tool calls, programs and shells, to the letter.

`Environment.action_equality` says which (eexp/envs/base.py). Stages that read records know it from the record: from its
`action_equality`, which is written only where the rest of the record does not tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from eexp.records.record import canonical

WORDS, EXACT = "words", "exact"
ACTION_EQUALITIES = (WORDS, EXACT)
#: The kinds of environments whose actions are calls of tools, code or shell commands, by the names of their specs.
EXACT_KINDS = frozenset({"appworld", "bfcl", "exec", "mcp", "openenv", "tau"})

_WRAPPERS = re.compile(r"(?:(?:noisy|changed):[^:]*:|worldmodel:.*?[?&]env=)*")

#: Returns the form of an action in which equal actions are equal.
ActionForm = Callable[[str], str]


def action_equality_of(record: dict) -> str:
    """Return when two actions of a trajectory are the same, WORDS or EXACT.

    Without `action_equality`, they are compared exactly where the environment offers functions, and in the kinds of
    environments whose actions are calls or programs.
    """
    given = record.get("action_equality")
    if given:
        return given
    spec = record.get("env") or ""
    beginning = _WRAPPERS.match(spec)
    kind = re.split("[:?]", spec[beginning.end() if beginning else 0 :])[0]
    return EXACT if record.get("tools") or kind in EXACT_KINDS else WORDS


def action_form(record: dict) -> ActionForm:
    """Return the form in which equal actions of a trajectory are equal."""
    return form_of(action_equality_of(record))


def form_of(equality: str) -> ActionForm:
    """Return the form in which equal actions are equal, for WORDS or EXACT."""
    return str.strip if equality == EXACT else canonical


def action_equality_field(equality: str, record: dict) -> dict:
    """Return the key of a record for its environment's equality; none where the rest of the record tells it."""
    return {} if action_equality_of(record) == equality else {"action_equality": equality}
