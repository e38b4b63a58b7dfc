"""Actions that are function calls in Python's notation with literal arguments: `name(number=1, text='a')`.

Nothing is evaluated but literals. An argument whose name Python does not allow stands in a dict at the end:
`name(number=1, **{'from': 'a'})`.
"""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from typing import Any

Call = tuple[str, list, dict[str, Any]]

_DONE = re.compile(r"done(?:\(\))?\s*(?:[:.,!](.*))?$", re.IGNORECASE | re.DOTALL)


def parse_call(text: str) -> Call:
    """Parse a function call.

    Returns:
        The function's name, its arguments by position, and its arguments by name.

    Raises:
        ValueError: The text is not a call, or its arguments are not literals.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about '\d' in a string, for instance
            node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            pairs = [pair for one in node.keywords for pair in _named_arguments(one)]
            by_name = dict(pairs)
            if len(by_name) == len(pairs):
                return node.func.id, [ast.literal_eval(arg) for arg in node.args], by_name
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass
    raise ValueError("That is not a function call with literal arguments, such as name(number=1, text='a')")


def is_call(text: str) -> bool:
    """Return whether a text is a call as `parse_call` reads it."""
    try:
        parse_call(text.strip())
    except ValueError:
        return False
    return True


def _named_arguments(node: ast.keyword) -> list[tuple[str, Any]]:
    """Return the arguments of `name=value`, or of `**{'name': value}`, if its names can be written no other way."""
    value = ast.literal_eval(node.value)
    if node.arg is not None:
        return [(node.arg, value)]
    if not isinstance(value, dict) or not all(isinstance(name, str) and not _is_keyword_name(name) for name in value):
        raise ValueError
    return list(value.items())


def _is_keyword_name(name: str) -> bool:
    """Return whether Python allows `name=value` in a call."""
    return name.isidentifier() and not keyword.iskeyword(name)


def format_call(name: str, arguments: dict[str, Any]) -> str:
    """Return a call with its arguments by name, as `parse_call` reads it."""
    others = {key: value for key, value in arguments.items() if not _is_keyword_name(key)}
    parts = [f"{key}={value!r}" for key, value in arguments.items() if key not in others]
    return f"{name}({', '.join([*parts, *([f'**{others!r}'] if others else [])])})"


def parse_done(text: str) -> str | None:
    """Return the words after `done` in `done: which file?`; "" for `done` alone, None for any other text."""
    match = _DONE.match(text)
    return (match[1] or "").strip() if match else None
