"""A database of tables and records, as nested dicts and lists, that costs nothing to copy.

A `Database` never changes. A function that reads gets its tables as they are. A function that writes is stopped at its
first write, before anything has changed, and called again with working tables, in which a record is copied when it is
read. What it leaves there becomes a new database, which shares all other records with the old one. A reference to a
database is therefore as good as a copy of it. A function may be called up to three times, so it must have no other
effect.

A record is copied by itself: where a function puts a part of one record into another record, the two do not share that
part afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn


class _Write(BaseException):
    """Raised at a write to a database; no `except Exception` of the function that writes catches it."""


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise _Write


class _FixedDict(dict):
    """A dict that cannot be changed."""

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse


class _FixedList(list):
    """A list that cannot be changed."""

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = remove = pop = clear = sort = reverse = _refuse


def _fix(value: Any) -> Any:
    """Return a copy of nested dicts and lists that cannot be changed."""
    if isinstance(value, dict):
        return _FixedDict((key, _fix(item)) for key, item in value.items())
    if isinstance(value, list):
        return _FixedList(map(_fix, value))
    return value


def _thaw(value: Any) -> Any:
    """Return a copy of nested dicts and lists that can be changed."""
    if isinstance(value, dict):
        return {key: _thaw(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_thaw(item) for item in value]
    return value


_NO_RECORDS = _FixedDict()


class _WorkingTable(dict):
    """A table whose records are copied when they are read."""

    def __init__(self, table: dict = _NO_RECORDS):
        super().__init__(table)
        self._original = table

    def __getitem__(self, key: Any) -> Any:
        record = super().__getitem__(key)
        if isinstance(record, (_FixedDict, _FixedList)):
            record = _thaw(record)
            self[key] = record
        return record

    def __iter__(self) -> Iterator[Any]:  # without a method of its own, dict(table) would pass by __getitem__
        return super().__iter__()

    def get(self, key: Any, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        if key in self:
            self[key]
        return super().pop(key, *default)

    def popitem(self) -> tuple[Any, Any]:
        key, record = super().popitem()
        return key, _thaw(record)

    def values(self) -> Any:
        self._read_all()
        return super().values()

    def items(self) -> Any:
        self._read_all()
        return super().items()

    def copy(self) -> dict:
        return dict(self.items())

    def _read_all(self) -> None:
        for key in list(self):
            self[key]

    def fixed(self) -> dict:
        """Return the table as it is now; the original one where no record was read or written."""
        now, before = list(super().items()), self._original.items()
        if len(now) == len(before) and all(a == b and x is y for (a, x), (b, y) in zip(now, before)):
            return self._original
        return _FixedDict((k, v if isinstance(v, (_FixedDict, _FixedList)) else _fix(v)) for k, v in now)


class Database:
    """A database that never changes. See the module's docstring.

    Args:
        tables: Any nested dicts and lists, by the name of the table; they are copied.
    """

    def __init__(self, tables: dict[str, Any]):
        self._tables: dict[str, Any] = _fix(tables)

    def __getitem__(self, name: str) -> Any:
        return self._tables[name]

    def get(self, name: str) -> Any:
        """Return a table, to be read; None if there is none of this name."""
        return self._tables.get(name)

    def read(self, function: Callable[[dict[str, Any]], Any]) -> tuple[bool, Any]:
        """Call a function of the tables that may only read.

        Returns:
            Whether it only read, and its answer; (False, None) if it was stopped at its first write.
        """
        try:
            return True, function(self._tables)
        except _Write:
            return False, None

    def write(self, function: Callable[[dict[str, Any]], Any]) -> tuple[Database, Any]:
        """Call a function of the tables that may change them; return the new database and the function's answer.

        If the function raises an exception, there is no new database.
        """
        tables = {n: _WorkingTable(t) if isinstance(t, _FixedDict) else _thaw(t) for n, t in self._tables.items()}
        try:
            answer = function(tables)
        except _Write:  # it took a record in a way that a working table does not notice
            tables = _thaw(self._tables)
            answer = function(tables)
        fixed = {n: t.fixed() if isinstance(t, _WorkingTable) else _fix(t) for n, t in tables.items()}
        database = Database({})
        database._tables = _FixedDict(fixed)
        return database, answer

    def equals(self, other: Database) -> bool:
        """Return whether two databases hold the same values, whatever the order of keys; 1 and 1.0 are not the same."""
        return _equal_tables(self._tables, other._tables)


def _equal_tables(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal_tables(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal_tables, one, other))
    return repr(one) == repr(other)
