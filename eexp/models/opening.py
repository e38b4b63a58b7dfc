"""Open a model by its spec."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from eexp.data import BUILT_IN
from eexp.errors import UsageError
from eexp.models.backends.fleet_file import fleet_spec, is_fleet
from eexp.models.base import Engine, Model
from eexp.models.registry import spec_list
from eexp.records.runs import split_adapter
from eexp.system.late import without_collection

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def open_model(spec: str, engine: Engine | None = None) -> Model:
    """Open the language model that `spec` names, to run as `engine` says.

    Raises:
        UsageError: The spec is of no known kind.
        EexpError: The model exists and cannot be opened.
    """
    engine = engine or Engine()
    if is_fleet(spec):
        from eexp.models.backends.fleet import FleetModel

        return FleetModel(fleet_spec(spec))
    if spec.startswith(("http://", "https://")):
        from eexp.models.backends.http import HttpModel

        return HttpModel(spec)
    base, adapter = split_adapter(spec)
    if spec.startswith("hf:") or os.path.isdir(base):
        with without_collection():
            from eexp.models.backends.hf import HfModel

        return HfModel(spec, engine=engine)
    if base in BUILT_IN or base.endswith(".gguf"):
        from eexp.gguf.built_in import built_in_gguf
        from eexp.models.backends.llama_cpp import LlamaCppModel

        if base in BUILT_IN:  # so small that threads wait for each other longer than they work
            engine = replace(engine, threads=engine.threads or 1)
        return LlamaCppModel(built_in_gguf(base) if base in BUILT_IN else Path(base), adapter, spec=spec, engine=engine)
    hint = f"a name on the hub needs hf:, as in hf:{spec}; else " if _HUB_ID.fullmatch(base) else ""
    raise UsageError(f"unknown model {spec!r}: {hint}give {spec_list()}")
