"""Open a model by its spec."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from eexp.data import BUILT_IN
from eexp.errors import EexpError, UsageError, describe
from eexp.models.backends.fleet_file import fleet_spec, is_fleet
from eexp.models.base import Engine, Model, Request, Samples
from eexp.models.registry import BACKENDS, FLEET, GGUF, HTTP, TRANSFORMERS, spec_list
from eexp.records.runs import refuse_missing, split_adapter
from eexp.system.late import large_imports

Answer = Callable[[Iterable[Sequence[Request]]], Iterator[list[Samples]]]

_SCHEMES = ("hf", "http", "https")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def open_model(spec: str, engine: Engine | None = None) -> Model:
    """Open the language model that `spec` names, to run as `engine` says.

    Raises:
        UsageError: The spec is of no known kind.
        EexpError: The model exists and cannot be opened.
    """
    name = backend_of(spec)
    model = BACKENDS.guarded(name, BACKENDS.load(name))(spec, engine or Engine())
    entry = BACKENDS.get(name)
    if not isinstance(model, Model):
        raise EexpError(f"model {spec!r}: {entry.path} of {entry.origin} returned no eexp.models.Model")
    if entry.package:  # what answers is a version of the package as much as weights
        model.spec = spec
        model.fingerprint = f"{model.fingerprint or spec}@{entry.package}-{entry.version}"
        model.answer = _with_errors_in_one_line(model.answer, model.fingerprint)  # type: ignore[method-assign]
    return model


def _with_errors_in_one_line(answer: Answer, fingerprint: str) -> Answer:
    """Return `Model.answer` of another package so that an exception in it becomes an error of one line."""

    def guarded(groups: Iterable[Sequence[Request]]) -> Iterator[list[Samples]]:
        try:
            yield from answer(groups)
        except (EexpError, MemoryError, OSError):
            raise
        except Exception as e:
            raise EexpError(f"model {fingerprint}: {describe(e)}") from e

    return guarded


def backend_of(spec: str) -> str:
    """Return the name in `BACKENDS` of what opens a spec.

    Raises:
        UsageError: The spec is of no known kind.
    """
    name, colon, _ = spec.partition(":")
    if colon and name not in _SCHEMES and not os.path.exists(spec) and _of_another_package(name):
        return name
    if is_fleet(spec):
        return FLEET
    if spec.startswith(("http://", "https://")):
        return HTTP
    base, _ = split_adapter(spec)
    if spec.startswith("hf:") or os.path.isdir(base):
        return TRANSFORMERS
    if base in BUILT_IN or base.endswith(".gguf"):
        return GGUF
    if not colon and _of_another_package(name):
        return name
    hint = f"a name on the hub needs hf:, as in hf:{spec}; else " if _HUB_ID.fullmatch(base) else ""
    raise UsageError(f"unknown model {spec!r}: {hint}give {spec_list()}")


def _of_another_package(name: str) -> bool:
    return name not in BACKENDS.built_in and BACKENDS.find(name) is not None


def open_fleet(spec: str, engine: Engine) -> Model:
    """Open one model at several servers."""
    from eexp.models.backends.fleet import FleetModel

    return FleetModel(fleet_spec(spec))


def open_http(spec: str, engine: Engine) -> Model:
    """Open a model at a server."""
    from eexp.models.backends.http import HttpModel

    return HttpModel(spec)


def open_transformers(spec: str, engine: Engine) -> Model:
    """Open a model of transformers, with its adapter."""
    base, _ = split_adapter(spec.removeprefix("hf:"))
    refuse_missing(base)
    with large_imports():
        from eexp.models.backends.hf import HfModel

    return HfModel(spec, engine=engine)


def open_gguf(spec: str, engine: Engine) -> Model:
    """Open a model in a GGUF file, or a built-in one, with its adapter."""
    from eexp.gguf.built_in import built_in_gguf
    from eexp.models.backends.llama_cpp import LlamaCppModel

    base, adapter = split_adapter(spec)
    return LlamaCppModel(built_in_gguf(base) if base in BUILT_IN else Path(base), adapter, spec=spec, engine=engine)
