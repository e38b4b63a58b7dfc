"""Names of a package that are imported when they are first used, so that help does not wait for them."""

from __future__ import annotations

import importlib
from collections.abc import Callable


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
