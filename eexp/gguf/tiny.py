"""The GGUF file of the built-in model, exported on first use."""

from __future__ import annotations

from pathlib import Path

from eexp.cache import cache_directory
from eexp.weights import TINY_DIR, fingerprint_of_files


def tiny_path() -> Path:
    """Return the path of the GGUF file, in the user's cache directory; the file may not exist yet."""
    name = f"tiny-{fingerprint_of_files(TINY_DIR / 'model.safetensors', TINY_DIR / 'tokenizer.json')[7:]}.gguf"
    return cache_directory() / name


def tiny_gguf() -> Path:
    """Return the path of the GGUF file, after exporting it if it does not exist."""
    path = tiny_path()
    if not path.exists():
        from eexp.gguf.export import export

        export(TINY_DIR, path, dtype="f32")
    return path
