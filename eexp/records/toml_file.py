"""Files in TOML: those that a user writes, read into msgspec's structures, and values to write."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, TypeVar

from eexp.errors import EexpError, InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Structure = TypeVar("Structure")


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the table of a file.

    Raises:
        EexpError: The file cannot be read.
        InputError: It is not valid TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise EexpError(f"{path}: {e.strerror or e}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text in UTF-8") from None
    except tomllib.TOMLDecodeError as e:
        raise InputError(f"{path}: not valid TOML: {e}") from None


def read_structure(path: str | Path, structure: type[Structure]) -> Structure:
    """Return a file as a structure. Raises as `read_toml` does, also InputError where the file has another form."""
    import msgspec

    from eexp.records.types import explain

    table = read_toml(path)
    try:
        return msgspec.convert(table, structure)
    except msgspec.ValidationError as e:
        raise InputError(f"{path}: {explain(str(e))}") from None


_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_value(value: str | bool | int | float | list | dict) -> str:
    """Return a value as TOML has it, on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {toml_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if value.isprintable() and ('"' in value or "\\" in value) and "'" not in value:
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)
