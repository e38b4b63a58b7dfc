"""Say what to install where a package is missing, as in a light installation (docs/install.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from eexp.errors import EexpError

# Packages of Python whose names are not those by which pip knows them.
_DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python", "tokenizers": "transformers", "huggingface_hub": "transformers"}


def _required() -> set[str]:
    """Return the packages that eexp requires, extras left out, in lower case; none where eexp is not installed."""
    try:
        requirements = metadata.requires("eexp") or []
    except metadata.PackageNotFoundError:
        return set()
    return {re.split(r"[^\w.-]", line)[0].lower() for line in requirements if "extra ==" not in line}


@contextmanager
def installed_by(hint: str) -> Iterator[None]:
    """Turn a failed import in this context into an EexpError that ends with the hint what to install."""
    try:
        yield
    except ImportError as e:
        raise EexpError(f"{e}. {hint}") from None


def missing_package(error: ModuleNotFoundError) -> str:
    """Return one line about a package that is not installed: which, for what, and the command that installs it.

    Args:
        error: The failed import; nothing has to catch it before the command line does.
    """
    module = (error.name or "").partition(".")[0]
    if not module or module == "eexp":
        return str(error)
    package = _DISTRIBUTIONS.get(module, module)
    if package.lower() in _required():
        return (
            f"this needs {package}, which a light installation leaves out: "
            f"`pip install eexp` adds all that is missing, `pip install {package}` this package alone"
        )
    return f"this needs {package}, which is not installed: `pip install {package}`"
