"""A module that a record names as its environment. No record may have it imported, so the import leaves a trace."""

from pathlib import Path

Path("canary").touch()
