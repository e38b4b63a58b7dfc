"""The goods of which catalogues of the built-in shop are made: types, their attributes and options.

They stand in eexp/data/shop/goods.toml. No attribute of a type is part of another one or of a word that every page of
the type has, and no two options of a type share a value, so that pages say exactly what a product has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from eexp.records.toml_file import read_toml

FILE = Path(__file__).parents[3] / "data" / "shop" / "goods.toml"


@dataclass(frozen=True)
class ProductType:
    """A type of goods, of which a catalogue has many products."""

    name: str  # such as "rain jacket"
    category: tuple[str, ...]  # from the department down
    prices: tuple[int, int]  # the lowest and the highest, in dollars
    attributes: tuple[str, ...]  # those that a product may have
    options: tuple[tuple[str, tuple[str, ...]], ...]  # names, and the values that a product may have
    uses: tuple[str, ...]  # what it may be sold for

    @property
    def department(self) -> str:
        return self.category[0]


@lru_cache(maxsize=1)
def product_types() -> tuple[ProductType, ...]:
    """Return all types, in the order of the file."""
    table = read_toml(FILE)
    return tuple(
        ProductType(
            name=name,
            category=(department, *own["category"]),
            prices=tuple(own["prices"]),
            attributes=(*own["attributes"], *common["attributes"]),
            options=tuple((option, tuple(table["options"][option])) for option in own["options"]),
            uses=tuple(common["uses"]),
        )
        for department, common in table["departments"].items()
        for name, own in common["types"].items()
    )
