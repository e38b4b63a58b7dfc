"""The files of each method, from the arguments FILE, NAME=FILE and NAME=PATTERN of `eexp compare` and `eexp power`."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from eexp.errors import UsageError


def method_files(arguments: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the files of each method, from arguments FILE, NAME=FILE and NAME=PATTERN.

    Raises:
        UsageError: Two methods without a name would have the same one, a pattern matches no file, or a file is given
            twice for one method.
    """
    groups: dict[str, list[str]] = {}
    unnamed: set[str] = set()
    for text in arguments:
        name, pattern = _split_name(text)
        named = name is not None
        files = _files(pattern)
        if not files:
            raise UsageError(f"{text}: no file has such a name")
        for file in files:
            label = Path(file).stem if name is None else name
            if label in unnamed or (label in groups and not named):
                raise UsageError(f"two groups are called {label!r}; name them: NAME=FILE")
            if not named:
                unnamed.add(label)
            if any(os.path.realpath(file) == os.path.realpath(other) for other in groups.get(label, [])):
                raise UsageError(f"{label}: {file} is given twice; each file is one training run")
            groups.setdefault(label, []).append(file)
    return groups


def _split_name(text: str) -> tuple[str | None, str]:
    """Split FILE, NAME=FILE or NAME=PATTERN; return the name, None where there is none, and the file or pattern.

    Each of them may contain a = (`runs/lr=0.1/il.jsonl`): the first split that names an existing file counts. Without
    one it is that at the first =, unless a directory stands before it.
    """
    places = [i for i, character in enumerate(text) if character == "="]
    splits: list[tuple[str | None, str]] = [(None, text), *((text[:i], text[i + 1 :]) for i in places)]
    for name, pattern in splits:
        if name != "" and _files(pattern, existing=True):
            return name, pattern
    name, pattern = splits[1] if places and "/" not in text[: places[0]] else splits[0]
    if name == "" or not pattern:
        raise UsageError(f"{text!r}: expected FILE or NAME=FILE")
    return name, pattern


def _files(pattern: str, *, existing: bool = False) -> list[str]:
    """Return the files that `pattern` names, sorted; with `existing`, no file that does not exist."""
    if pattern == "-" or os.path.exists(pattern):
        return [pattern]
    if glob.has_magic(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    return [] if existing else [pattern]
