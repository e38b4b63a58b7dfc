"""Environments by name: built in, installed by other packages, a class, a program, or a server.

    house                   the built-in household world
    bfcl                    BFCL's multi-turn tasks (needs `pip install --no-deps bfcl-eval==2026.3.23 mpmath`)
    babyai                  BabyAI in words (needs `pip install eexp[babyai]`)
    scienceworld            ScienceWorld (needs `pip install eexp[scienceworld]` and Java)
    textworld?games=DIR     games that TextWorld generated (needs `pip install eexp[textworld]`)
    alfworld?data=DIR       ALFWorld, the text version (needs `pip install eexp[alfworld]` and its data)
    agentgym:URL?env=NAME   a server of AgentGym (eexp/envs/agentgym.py)
    openenv:URL             a server of OpenEnv (needs `pip install eexp[openenv]`; eexp/envs/openenv.py)
    exec:COMMAND            any program that speaks the protocol of eexp/envs/program.py
    package.module:Class    a Python class that follows eexp/envs/base.py

Other packages add names under the entry-point group `eexp.environments`.
"""

from __future__ import annotations

import importlib

from eexp.envs.base import Environment, Observation
from eexp.errors import EexpError, InputError, UsageError

__all__ = ["BUILT_IN", "SERVERS", "Environment", "Observation", "Opened", "names", "open_env"]

BUILT_IN = {
    "house": "eexp.envs.house:House",
    "bfcl": "eexp.envs.bfcl:BFCL",
    "babyai": "eexp.envs.babyai:BabyAI",
    "scienceworld": "eexp.envs.scienceworld:ScienceWorld",
    "alfworld": "eexp.envs.alfworld:AlfWorld",
    "textworld": "eexp.envs.textworld:TextWorld",
}
#: Environments behind a URL, `SCHEME:URL`; the class gets the URL before its options.
SERVERS = {"agentgym": "eexp.envs.agentgym:AgentGym", "openenv": "eexp.envs.openenv:OpenEnv"}
ENTRY_POINTS = "eexp.environments"


def _registered() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {found.name: found.value for found in entry_points(group=ENTRY_POINTS)}


def names() -> list[str]:
    """All environments that can be opened by a bare name."""
    return sorted({*BUILT_IN, *_registered()})


def open_env(spec: str) -> Environment:
    """Open the environment that `spec` names.

    Raises UsageError where there is none, EexpError where it is there and cannot start (a missing package, say).
    """
    if spec.startswith("exec:"):
        from eexp.envs.program import Program

        return Program(spec)
    name, _, options = spec.partition("?")
    scheme, _, url = name.partition(":")
    path = SERVERS.get(scheme) or BUILT_IN.get(name) or _registered().get(name) or (name if ":" in name else None)
    if path is None:
        known = [*names(), *(f"{scheme}:URL" for scheme in SERVERS), "exec:COMMAND", "module:Class"]
        raise UsageError(f"unknown environment {spec!r}; known: {', '.join(known)}")
    module, _, attribute = path.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except ImportError as e:
        raise EexpError(f"environment {spec!r} cannot be loaded: {e}") from None
    except AttributeError:
        raise UsageError(f"environment {spec!r}: {module} has no {attribute!r}") from None
    if not (isinstance(made, type) and issubclass(made, Environment)):
        raise UsageError(f"environment {spec!r}: {path} is not a class derived from eexp.envs.Environment")
    try:
        env = made(*([url] if scheme in SERVERS else []), **_parse_options(spec, options))
    except TypeError as e:
        raise UsageError(f"environment {spec!r}: {e}") from None
    env.spec = spec
    return env


def _parse_options(spec: str, options: str) -> dict[str, str]:
    """`name?key=value&key=value`: keyword arguments for the environment's class."""
    pairs = [part.partition("=") for part in options.split("&") if part]
    if any(not key or not sep for key, sep, _ in pairs):
        raise UsageError(f"environment {spec!r}: options are written name?key=value&key=value")
    return {key: value for key, _, value in pairs}


class Opened:
    """The environments a stage has open, by the spec that the records name.

    A record may come from anywhere, so one that names a program or a class to be run, or a server to be asked, is
    refused unless the same spec was given on the command line (`allowed`).
    """

    def __init__(self, allowed: str | None = None):
        self.allowed = allowed
        self._open: dict[str, Environment] = {}

    def get(self, spec: str) -> Environment:
        """The environment for a record's spec; --env, where given, stands for all of them."""
        if self.allowed:
            spec = self.allowed
        elif ":" in spec:
            raise InputError(f"{spec!r} runs a program or asks a server; allow it with --env {spec!r}", "$.env")
        if spec not in self._open:
            try:
                self._open[spec] = open_env(spec)
            except UsageError as e:
                if self.allowed:
                    raise
                raise InputError(str(e), "$.env") from None
        return self._open[spec]

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all of them; `get` opens them anew."""
        for env in self._open.values():
            env.close()
        self._open.clear()
