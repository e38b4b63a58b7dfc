"""The GGUF file of the built-in model, exported on first use."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from eexp.weights import TINY_DIR, fingerprint_of_files


def tiny_path() -> Path:
    """Return the path of the GGUF file, in the user's cache directory; the file may not exist yet."""
    name = f"tiny-{fingerprint_of_files(TINY_DIR / 'model.safetensors', TINY_DIR / 'tokenizer.json')[7:]}.gguf"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eexp"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        writable = os.access(cache, os.W_OK)
    except OSError:
        writable = False
    return (cache if writable else Path(tempfile.gettempdir())) / name


def tiny_gguf() -> Path:
    """Return the path of the GGUF file, after exporting it if it does not exist."""
    path = tiny_path()
    if not path.exists():
        from eexp.gguf.export import export

        export(TINY_DIR, path, dtype="f32")
    return path
