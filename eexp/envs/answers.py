"""Check what an environment's own class returns, where the class is not part of eexp.

A class that returns something else than the contract (eexp/envs/base.py) says would fail far from its mistake, or write
records that no stage reads. The check is a subclass of the class itself, so that everything else stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache, wraps
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.errors import EnvironmentFailed, InputError, short
from eexp.records.equality import ACTION_EQUALITIES
from eexp.records.types import check_tools


def checked(environment_class: type[Environment]) -> type[Environment]:
    """Return a class whose methods raise EnvironmentFailed where they return what the contract does not allow.

    The error names the class, the method and what it returned.
    """
    if environment_class.__module__.partition(".")[0] == "eexp":
        return environment_class
    return _checked_subclass(environment_class)


@cache
def _checked_subclass(environment_class: type[Environment]) -> type[Environment]:
    names = {"__module__": environment_class.__module__, "__qualname__": environment_class.__qualname__}
    methods = {
        name: _checked_method(environment_class, name, check)
        for name, check in _CHECKS.items()
        if getattr(environment_class, name) is not getattr(Environment, name)  # else `has` would find a method
    }
    return type(environment_class.__name__, (environment_class,), {**names, **methods})


def fault_of(method: str, answer: Any) -> str | None:
    """Return what is wrong with the answer of a method of an environment, in words; None where nothing is."""
    check = _CHECKS.get(method)
    return check(answer) if check else None


def _checked_method(environment_class: type[Environment], name: str, check: Callable[[Any], str | None]) -> Any:
    method = getattr(environment_class, name)

    @wraps(method)
    def checked_method(self: Environment, *args: Any, **options: Any) -> Any:
        answer = method(self, *args, **options)
        fault = check(answer)
        if name == "fork" and answer is self:
            fault = "returned the environment itself, and not a copy of it"
        if fault:
            raise EnvironmentFailed(f"{environment_class.__module__}:{environment_class.__qualname__}.{name}: {fault}")
        if name == "fork" and type(answer) is environment_class:  # made by its own name
            answer.__class__ = type(self)
        return answer

    return checked_method


# -- the checks: each returns what is wrong with an answer, in words, or None ------------------------------------------


def _got(value: object) -> str:
    return "None" if value is None else f"{short(repr(value))[1:-1]} ({type(value).__name__})"


def _one_of(expected: str, *types: type) -> Callable[[object], str | None]:
    """Return the check that a value is of one of these types; true and false are no numbers."""

    def check(value: object) -> str | None:
        is_one = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        return None if is_one else f"returned {_got(value)}, expected {expected}"

    return check


def _texts(expected: str, optional: bool) -> Callable[[object], str | None]:
    """Return the check that a value is a list of texts."""

    def check(value: object) -> str | None:
        if value is None and optional:
            return None
        if not isinstance(value, (list, tuple)):
            return f"returned {_got(value)}, expected {expected}"
        wrong = [one for one in value if not isinstance(one, str)]
        return f"returned a list with {_got(wrong[0])} in it, expected {expected}" if wrong else None

    return check


_FLAG = (bool,)
_MAYBE_FLAG = (bool, type(None))
_FIELDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "text": ("a string", (str,)),
    "done": ("True or False", _FLAG),
    "valid": ("True or False", _FLAG),
    "success": ("True, False or None", _MAYBE_FLAG),
    "changed": ("True, False or None", _MAYBE_FLAG),
    "screenshot": ("a string or None", (str, type(None))),
    "tools": ("a list or None", (list, type(None))),
    "interface": ("a dict or None", (dict, type(None))),
    "imagined": ("a string or None", (str, type(None))),
}


def _observation(value: object) -> str | None:
    if not isinstance(value, Observation):
        return f"returned {_got(value)}, expected an Observation"
    for field, (expected, types) in _FIELDS.items():
        if not isinstance(getattr(value, field), types):
            return f"returned an Observation whose {field} is {_got(getattr(value, field))}, expected {expected}"
    score = value.score
    if score is not None and not (type(score) in (int, float) and math.isfinite(score)):
        return f"returned an Observation whose score is {_got(score)}, expected a finite number or None"
    if value.unknown is not None and not _is_list_of_ranges(value.unknown):
        return f"returned an Observation whose unknown is {_got(value.unknown)}, expected a list of (start, end)"
    if value.tools is not None:
        try:
            check_tools(value.tools)
        except InputError as e:
            return f"returned an Observation with wrong tools: {e}"
    return None


def _is_list_of_ranges(value: object) -> bool:
    if not isinstance(value, Iterable) or isinstance(value, str):
        return False
    return all(isinstance(part, (list, tuple)) and [type(end) for end in part] == [int, int] for part in value)


def _achieved_tasks(value: object) -> str | None:
    expected = "a list of (number of actions before it, task)"
    if not isinstance(value, (list, tuple)):
        return f"returned {_got(value)}, expected {expected}"
    for one in value:
        is_pair = isinstance(one, (list, tuple)) and len(one) == 2 and type(one[0]) is int and isinstance(one[1], dict)
        if not is_pair or not isinstance(one[1].get("id"), str):
            return f"returned a list with {_got(one)} in it, expected {expected}, the task with an id"
    return None


def _equality(value: object) -> str | None:
    return None if value in ACTION_EQUALITIES else f"returned {_got(value)}, expected {' or '.join(ACTION_EQUALITIES)}"


_OPTIONAL_TEXT = _one_of("a string or None", str, type(None))
_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "splits": _texts("a list of strings", optional=False),
    "task_named": _one_of("a dict", dict),
    "task_beginning": _one_of("a dict or None", dict, type(None)),
    "reset": _observation,
    "step": _observation,
    "instruction": _one_of("a string", str),
    "admissible": _texts("a list of strings or None", optional=True),
    "expert": _OPTIONAL_TEXT,
    "explain": _OPTIONAL_TEXT,
    "fork": _one_of("an Environment", Environment),
    "why_no_copy": _OPTIONAL_TEXT,
    "harmless": _one_of("True or False", bool),
    "kind_of": _OPTIONAL_TEXT,
    "mask": _one_of("a string", str),
    "achieved": _achieved_tasks,
    "action_equality": _equality,
}
