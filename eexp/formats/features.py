"""The types of the values of records, as `datasets` declares them in the head of a data card.

`datasets` takes the types of a file from its first ten megabytes, and of several files from the first one. A field that
comes later, as `outcome.tools` may, then ends the loading with an error. Types that were read off all records do not.
A field whose values are of several types, or an object with very many keys, is declared as JSON, which `datasets`
returns as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_MOST_KEYS = 100  # of an object that has columns; one with more is a map, such as one from names to numbers
_NAMES: dict[type, str] = {str: "string", bool: "bool", int: "int64", float: "float64"}


class Feature:
    """What is known of the values in one place: their types, and those of their parts."""

    def __init__(self) -> None:
        self._names: set[str] = set()  # of values that have no parts
        self._fields: dict[str, Feature] | None = None  # of objects, by key; None if none was seen
        self._element: Feature | None = None  # of arrays; None if none was seen

    def add(self, value: Any) -> None:
        """Take a value into account."""
        if value is None:
            return
        if isinstance(value, dict):
            if self._fields is None:
                self._fields = {}
            for key, part in value.items():
                if (field := self._fields.get(key)) is None:
                    if len(self._fields) > _MOST_KEYS:
                        continue
                    field = self._fields[key] = Feature()
                field.add(part)
        elif isinstance(value, list):
            if self._element is None:
                self._element = Feature()
            for part in value:
                self._element.add(part)
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            self._names.add("uint64")
        else:
            self._names.add(_NAMES[type(value)])

    def fields(self) -> list[dict]:
        """Return the columns of objects, in the order in which they came."""
        return [{"name": key, **feature.declared()} for key, feature in (self._fields or {}).items()]

    def declared(self) -> dict:
        """Return the type, as `datasets` reads it in YAML: `dtype`, `list` or `struct`."""
        name = self._name()
        if name is not None:
            return {"dtype": name}
        if self._element is None:
            return {"struct": self.fields()}
        element = self._element.declared()
        if "dtype" in element:
            return {"list": element["dtype"]}
        return {"list": element.get("struct", element)}

    def _name(self) -> str | None:
        """Return the name of the type where it is no list and no struct."""
        kinds = len(self._names) + (self._fields is not None) + (self._element is not None)
        if kinds == 0:
            return "null"
        if self._names == {"int64", "float64"} and kinds == 2:
            return "float64"
        if kinds > 1 or (self._fields is not None and not 0 < len(self._fields) <= _MOST_KEYS):
            return "json"
        return next(iter(self._names), None)


_PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./")
_WORDS_OF_YAML = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def yaml_lines(value: Any, indent: str = "") -> Iterator[str]:
    """Yield the lines of a value of objects, arrays, texts and truth values in YAML.

    An object must not be empty.
    """
    if isinstance(value, dict):
        for key, part in value.items():
            if isinstance(part, (dict, list)) and part:
                yield f"{indent}{_scalar(key)}:"
                yield from yaml_lines(part, indent + "  " * isinstance(part, dict))
            else:
                yield f"{indent}{_scalar(key)}: {_scalar(part)}"
        return
    for part in value:
        if not isinstance(part, dict):
            yield f"{indent}- {_scalar(part)}"
            continue
        first, *others = yaml_lines(part, indent + "  ")
        yield f"{indent}- {first[len(indent) + 2 :]}"
        yield from others


def _scalar(value: Any) -> str:
    """Return a text or a truth value; a text in quotes unless it can only be read as one."""
    import json

    from eexp.system.terminal import visible

    if isinstance(value, bool):
        return "true" if value else "false"
    if value == []:
        return "[]"
    if value and value[0].isalpha() and _PLAIN.issuperset(value) and value.lower() not in _WORDS_OF_YAML:
        return value
    return visible(json.dumps(value, ensure_ascii=False))  # the escapes of `visible` are YAML's, too
