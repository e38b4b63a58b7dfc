"""Environments by name: built in, installed by other packages, a class, a program, or a server.

    house                   the built-in household world
    bfcl                    BFCL's multi-turn tasks (needs `pip install --no-deps bfcl-eval==2026.3.23 mpmath`)
    babyai                  BabyAI in words (needs `pip install eexp[babyai]`)
    scienceworld            ScienceWorld (needs `pip install eexp[scienceworld]` and Java)
    textworld?games=DIR     games that TextWorld generated (needs `pip install eexp[textworld]`)
    alfworld?data=DIR       ALFWorld, the text version (needs `pip install eexp[alfworld]` and its data)
    agentgym:URL?env=NAME   a server of AgentGym (eexp/envs/bridges/agentgym.py)
    openenv:URL             a server of OpenEnv (needs `pip install eexp[openenv]`; eexp/envs/bridges/openenv.py)
    exec:COMMAND            any program that speaks the protocol of eexp/envs/bridges/program.py
    package.module:Class    a Python class that follows eexp/envs/base.py, installed or in the working directory
    noisy:P:ENV             any of these, with words left out of its observations (eexp/envs/noisy.py)

Other packages add names under the entry-point group `eexp.environments`.
"""

from __future__ import annotations

import importlib
import os
import sys

from eexp.envs.base import Environment, Observation
from eexp.envs.logins import withhold_logins, without_logins
from eexp.errors import EexpError, InputError, UsageError

__all__ = [
    "BUILT_IN",
    "NOISY",
    "SERVERS",
    "Environment",
    "Observation",
    "OpenEnvironments",
    "names",
    "open_env",
    "unsafe_in_records",
    "without_noise",
]

BUILT_IN = {
    "house": "eexp.envs.worlds.house:House",
    "bfcl": "eexp.envs.worlds.bfcl:BFCL",
    "babyai": "eexp.envs.worlds.babyai:BabyAI",
    "scienceworld": "eexp.envs.worlds.scienceworld:ScienceWorld",
    "alfworld": "eexp.envs.worlds.alfworld:AlfWorld",
    "textworld": "eexp.envs.worlds.textworld:TextWorld",
}
#: Environments behind a URL, `SCHEME:URL`; the class gets the URL before its options.
SERVERS = {"agentgym": "eexp.envs.bridges.agentgym:AgentGym", "openenv": "eexp.envs.bridges.openenv:OpenEnv"}
#: Before the spec of an environment, with a probability: `noisy:0.1:house`.
NOISY = "noisy:"
ENTRY_POINTS = "eexp.environments"


def _registered() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {found.name: found.value for found in entry_points(group=ENTRY_POINTS)}


def names() -> list[str]:
    """All environments that can be opened by a bare name."""
    return sorted({*BUILT_IN, *_registered()})


def open_env(spec: str) -> Environment:
    """Open the environment that `spec` names.

    A login in a URL (`http://user:password@host`) is used and is no part of the environment's own `spec`.

    Raises UsageError where there is none, EexpError where it is there and cannot start (a missing package, say).
    """
    spec = withhold_logins(spec)
    if spec.startswith(NOISY):
        return _open_noisy(spec)
    if spec.startswith("exec:"):
        from eexp.envs.bridges.program import Program

        return Program(spec)
    name, _, options = spec.partition("?")
    scheme, _, url = name.partition(":")
    made = _class_of(spec)
    try:
        env = made(*([url] if scheme in SERVERS else []), **_parse_options(spec, options))
    except TypeError as e:
        raise UsageError(f"environment {spec!r}: {e}") from None
    env.spec = spec
    return env


def _search_working_directory() -> None:
    """Let modules be found in the working directory, as `python -m` does, but after all that is installed.

    So a file there that has the name of a library, `datasets.py` say, is not loaded in its place.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()


def _class_of(spec: str) -> type[Environment]:
    """Import the class behind a spec that is neither a program nor has noise. Raises as `open_env` does."""
    name = spec.partition("?")[0]
    scheme = name.partition(":")[0]
    path = SERVERS.get(scheme) or BUILT_IN.get(name) or _registered().get(name) or (name if ":" in name else None)
    if path is None:
        known = [*names(), *(f"{scheme}:URL" for scheme in SERVERS), "exec:COMMAND", "module:Class", "noisy:P:ENV"]
        raise UsageError(f"unknown environment {spec!r}; known: {', '.join(known)}")
    module, _, attribute = path.partition(":")
    if path == name:
        _search_working_directory()
    try:
        found = importlib.import_module(module)
    except ImportError as e:
        raise EexpError(f"environment {spec!r} cannot be loaded: {e}") from None
    except Exception as e:  # a mistake in somebody's module
        raise EexpError(f"environment {spec!r} cannot be loaded: {type(e).__name__}: {' '.join(str(e).split())}") from e
    made = getattr(found, attribute, None)
    if made is None:
        raise UsageError(f"environment {spec!r}: {getattr(found, '__file__', None) or module} has no {attribute!r}")
    if not (isinstance(made, type) and issubclass(made, Environment)):
        raise UsageError(f"environment {spec!r}: {path} is not a class derived from eexp.envs.Environment")
    return made


def unsafe_in_records(spec: str) -> str | None:
    """Return what a spec does that a record alone may not ask for; None where a record may name it.

    Records come from anywhere and choose tasks: never code, a URL, or an option that the environment's class does not
    leave to them (`Environment.record_options`), such as the path of the games.

    Raises UsageError where there is no such environment, EexpError where its class cannot be loaded.
    """
    spec = without_noise(spec)
    name, _, options = spec.partition("?")
    if ":" in name:
        return "runs a program or asks a server"
    if not options:
        return None
    left_to_records = _class_of(spec).record_options
    for option in _parse_options(spec, options):
        if option not in left_to_records:
            return f"sets {option!r}, which a record alone may not"
    return None


def _open_noisy(spec: str) -> Environment:
    from eexp.envs.noisy import Noisy

    share, inner = _split_noise(spec)
    env = Noisy(open_env(inner), share)
    env.spec = spec
    return env


def _split_noise(spec: str) -> tuple[float, str]:
    """The probability and the environment of `noisy:P:ENV`. Raises UsageError where it is written otherwise."""
    number, _, inner = spec.removeprefix(NOISY).partition(":")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1 or not inner:
        raise UsageError(f"environment {spec!r}: expected noisy:P:ENV with P from 0 to below 1, as in noisy:0.1:house")
    if inner.startswith(NOISY):
        raise UsageError(f"environment {spec!r}: noise is given once")
    return share, inner


def without_noise(spec: str) -> str:
    """Return the spec of the environment under the noise: ENV for `noisy:P:ENV`, any other spec as it is.

    Raises UsageError where the noise is not written so.
    """
    return _split_noise(spec)[1] if spec.startswith(NOISY) else spec


def _parse_options(spec: str, options: str) -> dict[str, str]:
    """`name?key=value&key=value`: keyword arguments for the environment's class."""
    pairs = [part.partition("=") for part in options.split("&") if part]
    if any(not key or not sep for key, sep, _ in pairs):
        raise UsageError(f"environment {spec!r}: options are written name?key=value&key=value")
    return {key: value for key, _, value in pairs}


class OpenEnvironments:
    """The environments a stage has open, by the spec that the records name.

    A record may come from anywhere, so one that names more than tasks (`unsafe_in_records`) is refused unless the
    environment was given on the command line (`allowed`).
    """

    def __init__(self, allowed: str | None = None):
        self.allowed = allowed and withhold_logins(allowed)
        self._open: dict[str, Environment] = {}

    def get(self, spec: str) -> Environment:
        """The environment for a record's spec; --env, where given, stands for all of them."""
        spec = self.allowed or without_logins(spec)
        if spec not in self._open:
            try:
                if not self.allowed and (why_not := unsafe_in_records(spec)):
                    raise InputError(f"{spec!r} {why_not}; allow it with --env {spec!r}", "$.env")
                self._open[spec] = open_env(spec)
            except UsageError as e:
                if self.allowed:
                    raise
                raise InputError(str(e), "$.env") from None
        return self._open[spec]

    def __enter__(self) -> OpenEnvironments:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all of them; `get` opens them anew."""
        for env in self._open.values():
            env.close()
        self._open.clear()
