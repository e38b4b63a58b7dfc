"""The files that `eexp mix` takes, with their marks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Source:
    """A file of examples in a mixture.

    Attributes:
        name: The file, "-" for standard input.
        share: How much of it is taken: 1 for all, 0.5 for a random half, 2 for all of it twice.
        weight: A factor of the examples' loss weights.
    """

    name: str
    share: float = 1.0
    weight: float = 1.0

    @property
    def shown(self) -> str:
        """The name of the file in messages."""
        return "<stdin>" if self.name == "-" else self.name
