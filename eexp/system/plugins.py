"""Tables of what names stand for: what comes with eexp, and what other packages register as entry points.

Environments, models, formats, rationales, guards, judges, objectives, commands and executors each have one `Registry`.
An entry is a string, `package.module:attribute`, and is imported when it is loaded, never before. The built-in
entries come first: a name of eexp is found without a look at other packages, and no package can take it.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from eexp.errors import EexpError, UsageError, describe, unexpected_error

if TYPE_CHECKING:
    from importlib.metadata import Distribution

T = TypeVar("T")

OF_PACKAGE = "eexp.plugins"  # the key in click's `Context.meta` of the entry of a command of another package

_NAME = re.compile(r"\w[\w.-]*")
_PATH = re.compile(r"[\w.]+:[\w.]+")


class Entry(NamedTuple):  # dataclasses take milliseconds to import, and help needs this module
    """What one name stands for.

    Attributes:
        path: `package.module:attribute`.
        summary: What it is, for lists.
        package, version: The distribution that registers it; empty for what comes with eexp.
        problem: Why it cannot be used, as far as this is known without importing it; "" if nothing speaks against it.
    """

    name: str
    path: str
    summary: str = ""
    package: str = ""
    version: str = ""
    problem: str = ""

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        return f"{self.package} {self.version}".rstrip() if self.package else "built in"

    @property
    def label(self) -> str:
        """The name for records; of another package, with that package and its version: `NAME@PACKAGE-VERSION`."""
        return f"{self.name}@{self.package}-{self.version}" if self.package else self.name


class Registry:
    """The table of one kind of things.

    Args:
        group: The group of entry points under which other packages register theirs.
        kind: What an entry is called in messages, such as "environment".
        built_in: What comes with eexp: name -> (path, summary).
    """

    def __init__(self, group: str, kind: str, built_in: Mapping[str, tuple[str, str]]):
        self.group, self.kind = group, kind
        self.built_in = {name: Entry(name, path, summary) for name, (path, summary) in built_in.items()}

    def others(self) -> list[Entry]:
        """Return the entries of other packages, sorted by name, with the problems of those that cannot be used."""
        found = _entry_points(tuple(sys.path)).get(self.group, ())
        times = Counter(entry.name for entry in found)
        return [entry._replace(problem=entry.problem or self._conflict(entry, times)) for entry in found]

    def _conflict(self, entry: Entry, times: Mapping[str, int]) -> str:
        """Return in words why an entry cannot have its name; "" if it can."""
        if entry.name in self.built_in:
            return f"eexp has {_a(self.kind)} of this name, which is used"
        return "several packages register this name" if times[entry.name] > 1 else ""

    def entries(self) -> Iterator[Entry]:
        """Yield all entries, those of eexp first."""
        yield from self.built_in.values()
        yield from self.others()

    def names(self) -> list[str]:
        """Return all names that can be used, those of eexp first, without importing anything."""
        return [entry.name for entry in self.entries() if not entry.problem]

    def find(self, name: str) -> Entry | None:
        """Return the entry of a name; None if there is none.

        Raises:
            UsageError: Other packages register the name, and none of them can have it.
        """
        if name in self.built_in:
            return self.built_in[name]
        matching = [entry for entry in self.others() if entry.name == name]
        usable = next((entry for entry in matching if not entry.problem), None)
        if matching and not usable:
            origins = " and ".join(entry.origin for entry in matching)
            raise UsageError(f"{self.kind} {name!r} of {origins} cannot be used: {matching[0].problem}")
        return usable

    def get(self, name: str) -> Entry:
        """Return the entry of a name.

        Raises:
            UsageError: There is none, or it cannot be used.
        """
        if entry := self.find(name):
            return entry
        raise UsageError(f"no {self.kind} {name!r}; there are: {', '.join(sorted(self.names()))}")

    def label(self, name: str) -> str:
        """Return a name as records have it (`Entry.label`); a name that is in no table as it is."""
        if name in self.built_in:
            return name
        entry = self.find(name)
        return entry.label if entry else name

    def load(self, name: str) -> Any:
        """Import what a name stands for.

        A function of another package is returned `guarded`.

        Raises:
            UsageError: There is no such name, or it cannot be used.
            EexpError: It cannot be imported.
        """
        loaded = self.load_entry(self.get(name))
        is_function = hasattr(loaded, "__name__") and not isinstance(loaded, type)
        return self.guarded(name, loaded) if is_function else loaded

    def guarded(self, name: str, function: Callable[..., T]) -> Callable[..., T]:
        """Return a function of an entry; of another package, so that every exception becomes `EnvironmentFailed`."""
        entry = self.get(name)
        return _with_errors_in_one_line(function, f"{self.kind} {entry.label}") if entry.package else function

    def load_entry(self, entry: Entry) -> Any:
        """Import what an entry stands for, as it is.

        Raises:
            EexpError: It cannot be imported.
        """
        what = f"{self.kind} {entry.name!r}"
        if entry.package:
            what += f" of {entry.origin} (entry point {entry.name} = {entry.path!r} of {self.group})"
        module, _, attribute = entry.path.partition(":")
        try:
            return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except (ImportError, AttributeError) as e:
            raise EexpError(f"{what} cannot be loaded: {' '.join(str(e).split())}") from e
        except (Exception, SystemExit) as e:  # a mistake in another package
            raise EexpError(f"{what} cannot be loaded: {describe(e)}") from e


def _with_errors_in_one_line(function: Callable[..., T], where: str) -> Callable[..., T]:
    def guarded(*args: Any, **more: Any) -> T:
        try:
            return function(*args, **more)
        except (EexpError, MemoryError, OSError):
            raise
        except Exception as e:
            raise unexpected_error(e, where) from e

    return guarded


@functools.lru_cache(maxsize=1)
def _entry_points(path: tuple[str, ...]) -> Mapping[str, tuple[Entry, ...]]:
    """Return the entry points of groups `eexp.*` by group, each sorted by name. Nothing of their packages is imported.

    Args:
        path: sys.path, on which the packages are looked for; of two with the same name, the first counts.
    """
    from email import message_from_string
    from importlib.metadata import distributions

    groups: dict[str, list[Entry]] = {}
    packages: set[str] = set()
    for distribution in distributions():
        text = _text(distribution, "entry_points.txt")
        if "[eexp." not in text:
            continue
        metadata = message_from_string(_text(distribution, "METADATA") or _text(distribution, "PKG-INFO"))
        package = metadata["Name"] or "a package without a name"
        if package in packages:
            continue
        packages.add(package)
        about = {"summary": metadata["Summary"] or "", "package": package, "version": metadata["Version"] or ""}
        group = ""
        for line in map(str.strip, text.splitlines()):
            if line.startswith("["):
                group = line.strip("[]").strip()
            elif line and not line.startswith(("#", ";")) and group.startswith("eexp."):
                name, _, target = (part.strip() for part in line.partition("="))
                target = target.partition("[")[0].strip()  # names of extras, which mean nothing here
                problem = "" if _PATH.fullmatch(target) else f"{target!r} is not written package.module:attribute"
                if not _NAME.fullmatch(name):
                    problem = f"a name may have letters, digits, '.', '-' and '_', not {name!r}"
                groups.setdefault(group, []).append(Entry(name, target, problem=problem, **about))
    return {group: tuple(sorted(found, key=lambda e: (e.name, e.package))) for group, found in groups.items()}


def _text(distribution: Distribution, name: str) -> str:
    """Return a file of a package's metadata, "" where there is none; U+FFFD stands for bytes that are not UTF-8."""
    try:
        return distribution.read_text(name) or ""
    except UnicodeDecodeError as e:
        return e.object.decode("utf-8", "replace")


def _a(noun: str) -> str:
    """Return a noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
