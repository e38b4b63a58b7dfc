"""Which files a spec names, for machines that may not have them: games, passages, programs, a class's own module."""

from __future__ import annotations

import os
import shlex

from eexp.envs.opening import without_wrappers, world_model_files, wrapper_files
from eexp.envs.registry import PROGRAM, SERVERS
from eexp.envs.spec_options import split_options
from eexp.records.imagination import is_imagined


def named_files(spec: str) -> list[str]:
    """Return the files and directories of this machine that a spec names, as it names them, sorted.

    For a class in the working directory, they are its module and all other modules there, which it may import.

    Raises:
        UsageError: The options of the spec are not written as options.
    """
    own_files = [*wrapper_files(spec), *world_model_files(spec)]
    spec = without_wrappers(spec)
    if is_imagined(spec):  # one without an environment in it
        return _existing(own_files)
    scheme, _, target = spec.partition(":")
    if scheme == PROGRAM.name:
        return _existing([*own_files, *_words(target)])
    name, _, _ = spec.partition("?")
    scheme, colon, target = name.partition(":")
    values = [*own_files, *split_options(spec).values()]
    if scheme in SERVERS:
        values += [] if "://" in target else _words(target)
    elif colon:
        values += _modules_beside(scheme.partition(".")[0])
    return _existing(values)


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # an unclosed quotation mark, of which the environment tells
        return []


def _existing(names: list[str]) -> list[str]:
    return sorted({os.path.normpath(name) for name in names if name and os.path.exists(name)})


def _modules_beside(module: str) -> list[str]:
    """Return all modules of the working directory, if `module` is one of them."""
    modules = {}
    for entry in os.scandir():
        if entry.name.endswith(".py") and entry.is_file():
            modules[entry.name[: -len(".py")]] = entry.name
        elif os.path.isfile(os.path.join(entry.name, "__init__.py")):
            modules[entry.name] = entry.name
    if module not in modules and os.path.isdir(module):  # a package without __init__.py
        modules[module] = module
    return list(modules.values()) if module in modules else []
