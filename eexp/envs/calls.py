"""Actions that are function calls in Python's notation with literal arguments: `name(number=1, text='a')`.

Nothing is evaluated but literals.
"""

from __future__ import annotations

import ast
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
            by_name = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg is not None}
            if len(by_name) == len(node.keywords):
                return node.func.id, [ast.literal_eval(arg) for arg in node.args], by_name
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass
    raise ValueError("That is not a function call with literal arguments, such as name(number=1, text='a')")


def format_call(name: str, arguments: dict[str, Any]) -> str:
    """Return a call with its arguments by name, as `parse_call` reads it."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def parse_done(text: str) -> str | None:
    """Return the words after `done` in `done: which file?`; "" for `done` alone, None for any other text."""
    match = _DONE.match(text)
    return (match[1] or "").strip() if match else None
