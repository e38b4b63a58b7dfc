"""Models by spec, spelled the same on every command line.

model.gguf[+adapter.gguf]     llama.cpp, in process
hf:DIR_OR_ID[+ADAPTER]        transformers and PEFT; a directory may be given bare; an adapter alone knows its base
http://host:8000/v1#name      any OpenAI-compatible server (key from EEXP_API_KEY or OPENAI_API_KEY)
tiny[+adapter.gguf]           the small model that ships with eexp, through llama.cpp
random                        uniform over the admissible actions
expert                        the environment's own expert (eval only)
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from eexp.errors import UsageError
from eexp.models.base import Engine, Model, Sample
from eexp.weights import split_adapter

__all__ = ["DEFAULT_MODEL", "Engine", "Model", "Sample", "open_model"]

DEFAULT_MODEL = "tiny"


def open_model(spec: str, engine: Engine | None = None) -> Model:
    """Open the language model that `spec` names, to run as `engine` says.

    Raises UsageError for a spec that names nothing, EexpError for a model that is there and cannot be opened.
    """
    engine = engine or Engine()
    if spec.startswith(("http://", "https://")):
        from eexp.models.http import HttpModel

        return HttpModel(spec)
    if spec.startswith("hf:") or os.path.isdir(split_adapter(spec)[0]):
        from eexp.models.hf import HfModel

        return HfModel(spec, engine=engine)
    base, adapter = split_adapter(spec)
    if base == "tiny" or base.endswith(".gguf"):
        from eexp.gguf.tiny import tiny_gguf
        from eexp.models.llama_cpp import LlamaCppModel

        path = tiny_gguf() if base == "tiny" else Path(base)
        if base == "tiny":  # so small that threads wait for each other longer than they work
            engine = replace(engine, threads=engine.threads or 1)
        return LlamaCppModel(path, adapter, spec=spec, engine=engine)
    raise UsageError(
        f"unknown model {spec!r}: give FILE.gguf[+ADAPTER.gguf], hf:DIR_OR_ID[+ADAPTER], "
        f"http://HOST/v1#NAME, tiny, random or expert"
    )
