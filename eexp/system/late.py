"""Imports that happen late: names of a package when they are first used, and large libraries in less time."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def late_names(package: str, modules: dict[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package that offers names of its modules without importing them.

    Args:
        package: The package's `__name__`.
        modules: The module of every name, as it is called within the package.
    """

    def getattr_of_package(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return getattr_of_package


@contextmanager
def large_imports() -> Iterator[None]:
    """Import large libraries within the block in less time.

    PyTorch and what belongs to it are a million objects that stay. Python would search them for garbage again and again
    while they become more, which takes a sixth of the time of their import; later searches pass over them, too. PEFT
    would import bitsandbytes wherever it is installed, and with it PyTorch's compiler: as much again, for weights in 4
    bits alone.
    """
    enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        with hidden("bitsandbytes"):
            yield
    finally:
        if len(sys.modules) > modules + 500:  # not where they had been imported: a model may be garbage by now
            gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Let libraries within the block find that a package is not installed, unless it has been imported already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # pyright: ignore[reportArgumentType] (what Python takes as: not to be imported)
    try:
        yield
    finally:
        sys.modules.pop(package, None)
