"""Directories whose contents change while programs work in them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def copy_contents(source: Path, target: Path) -> None:
    """Copy what is in a directory into another one, which may exist; links stay links."""
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def empty(directory: Path) -> None:
    """Remove what is in a directory, which itself stays: it may be the working directory of a program."""
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
