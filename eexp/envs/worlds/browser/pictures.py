"""Pictures of pages as files, which observations name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


class Pictures:
    """Pictures of pages in a directory, a file for every task and path of actions: `click-link/17/01-5f2c9a10.png`."""

    def __init__(self, directory: str):
        self._directory = Path(directory)
        self._kept: set[Path] = set()

    def keep(self, task: str, actions: list[str], take: Callable[[], bytes]) -> str:
        """Return the file for the page after these actions. The first time, the picture is taken and written."""
        path = "\n".join(actions).encode("utf-8", "surrogatepass")
        name = f"{len(actions):02d}-{hashlib.sha256(path).hexdigest()[:8]}.png" if actions else "00.png"
        file = self._directory / task / name
        if file not in self._kept:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_name(f"{name}.{os.getpid()}")
            part.write_bytes(take())
            part.replace(file)
            self._kept.add(file)
        return str(file)
