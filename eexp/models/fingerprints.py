"""Fingerprints of weights, so that lineage says which model it was and an adapter finds its base."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from eexp.errors import EexpError


def of_files(*paths: str | os.PathLike) -> str:
    """`sha256:` and 16 hex digits over the contents of `paths`, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as f:
                while chunk := f.read(1 << 20):
                    digest.update(chunk)
        except OSError as e:
            raise EexpError(f"{path}: {e.strerror or e}") from None
    return f"sha256:{digest.hexdigest()[:16]}"


def of_model_dir(directory: str | os.PathLike) -> str | None:
    """The fingerprint of the weight files in a transformers or PEFT directory; None where there are none."""
    found = sorted(
        p
        for p in Path(directory).iterdir()
        if p.suffix in (".safetensors", ".bin") and p.is_file() and p.name != "training_args.bin"
    )
    return of_files(*found) if found else None
