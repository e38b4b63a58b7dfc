"""The GGUF files of the built-in models, exported on first use."""

from __future__ import annotations

from pathlib import Path

from eexp.data import TINY
from eexp.records.runs import built_in_directory, fingerprint_of_files
from eexp.system.cache import cache_directory


def built_in_gguf(name: str = TINY) -> Path:
    """Return the path of a built-in model's GGUF file, after exporting it if the user's cache does not have it."""
    directory = built_in_directory(name)
    fingerprint = fingerprint_of_files(directory / "model.safetensors", directory / "tokenizer.json")
    path = cache_directory() / f"{name}-{fingerprint[7:]}.gguf"
    if not path.exists():
        from eexp.gguf.export import export

        export(directory, path, dtype="f32")
    return path
