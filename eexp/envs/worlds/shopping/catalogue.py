"""Catalogues of the built-in shop: products of invented brands, drawn from a number.

Every attribute of a product can be read in its title, its features or its description, and none of these says that it
has another one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from eexp.envs.worlds.shopping.goods import ProductType, product_types
from eexp.envs.worlds.shopping.ranking import SearchIndex

#: Changed whenever a product, a goal, a page or a rule changes, so that old records are not mixed with new ones.
WORLD = "shop-1"

PRODUCTS = 27  # of each type
FOUND = 50  # most products that a search finds

Options = tuple[tuple[str, str], ...]  # names and values


@dataclass(frozen=True)
class Product:
    """A product."""

    id: str
    type: ProductType
    brand: str
    title: str
    cents: int  # its price
    rating: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...]  # names and values
    description: str
    features: tuple[str, ...]
    reviews: tuple[tuple[str, int, str], ...]  # title, stars and text of each
    uses: tuple[str, ...]  # in its title

    @property
    def price(self) -> str:
        return f"${self.cents / 100:.2f}"

    def says(self, attribute: str, page: str) -> bool:
        """Return whether a page of the product says that it has an attribute: `title`, `features`, `description`."""
        text = "\n".join(self.features) if page == "features" else getattr(self, page)
        return attribute in text.lower()


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Products and their search index."""

    number: int
    products: tuple[Product, ...]

    @cached_property
    def by_id(self) -> dict[str, int]:
        """The number of each product, by its id in lower case."""
        return {product.id.lower(): number for number, product in enumerate(self.products)}

    @cached_property
    def by_type(self) -> dict[str, list[int]]:
        """The numbers of the products of each type."""
        numbers: dict[str, list[int]] = {}
        for number, product in enumerate(self.products):
            numbers.setdefault(product.type.name, []).append(number)
        return numbers

    @cached_property
    def index(self) -> SearchIndex:
        return SearchIndex([_searched(product) for product in self.products])


@lru_cache(maxsize=1024)
def found_by(catalogue: Catalogue, query: str) -> tuple[int, ...]:
    """Return the numbers of the products that a search finds, the best first."""
    return tuple(catalogue.index.search(query, FOUND))


def _searched(product: Product) -> str:
    """Return the text in which words are searched: as in WebShop, of the features the first one alone."""
    options = (f"{name} {' '.join(values)}" for name, values in product.options)
    return " ".join((product.title, product.description, product.features[0], *options))


@lru_cache(maxsize=8)
def catalogue_of(number: int) -> Catalogue:
    """Return the catalogue with a number."""
    rng = random.Random(f"{WORLD}/catalogue/{number}")
    brands, ids = _brands(rng), _ids(rng)
    drawn = [_product(rng, kind, rng.choice(brands), next(ids)) for kind in product_types() for _ in range(PRODUCTS)]
    rng.shuffle(drawn)
    return Catalogue(number, tuple(drawn))


def _brands(rng: random.Random) -> list[str]:
    """Return invented names."""
    names = [
        a + b + c
        for a in ("Bra", "Dro", "Fen", "Gal", "Kor", "Lum", "Mir", "Nov", "Pel", "Quil", "Ras", "Sel", "Tor", "Vel")
        for b in ("a", "e", "i", "o")
        for c in ("dell", "fort", "kin", "lux", "mark", "nix", "ra", "sson", "tiva", "vane")
    ]
    return rng.sample(names, 60)


def _ids(rng: random.Random) -> Iterator[str]:
    """Yield names of products, no two alike."""
    used: set[str] = set()
    while True:
        name = "B0" + "".join(rng.choices("0123456789BCDFGHJKLMNPQRSTVWXYZ", k=8))
        if name not in used:
            used.add(name)
            yield name


def _product(rng: random.Random, kind: ProductType, brand: str, name: str) -> Product:
    attributes = rng.sample(kind.attributes, rng.randint(4, 6))
    in_title, rest = attributes[:2], attributes[2:]
    in_description = [attribute for attribute in rest if rng.random() < 0.3]
    in_features = [attribute for attribute in rest if attribute not in in_description]
    uses = tuple(rng.sample(kind.uses, 3))
    title = f"{brand} {kind.name.title()}, {', '.join(in_title)}, for {uses[0]}, {uses[1]} and {uses[2]}"
    return Product(
        id=name,
        type=kind,
        brand=brand,
        title=title,
        cents=_cents(rng, *kind.prices),
        rating=f"{rng.randint(25, 50) / 10:.1f}",
        attributes=tuple(attributes),
        options=tuple((option, _values(rng, values)) for option, values in kind.options),
        description=_description(rng, kind, brand, in_description),
        features=_features(rng, kind, brand, in_features),
        reviews=tuple(_review(rng, kind) for _ in range(rng.randint(0, 3))),
        uses=uses,
    )


def _cents(rng: random.Random, low: int, high: int) -> int:
    """Return a price: as many between 10 and 20 dollars as between 20 and 40."""
    return 100 * round(low * (high / low) ** rng.random()) - rng.choice((1, 1, 5, 50, 100))


def _values(rng: random.Random, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return some of the values of an option, in their order."""
    chosen = rng.sample(values, rng.randint(3, min(6, len(values) - 1)))
    return tuple(value for value in values if value in chosen)


def listed(parts: list[str] | tuple[str, ...]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _description(rng: random.Random, kind: ProductType, brand: str, attributes: list[str]) -> str:
    opening = rng.choice(
        (
            f"{brand} has made this {kind.name} for people who want one thing done well.",
            f"A {kind.name} from {brand}, which is at home in {kind.department}.",
            f"This is the {kind.name} that {brand} is known for.",
        )
    )
    about = rng.choice(("It is {0}.", "Our customers like that it is {0}.", "What sets it apart: it is {0}."))
    closing = rng.choice(("Questions are answered within a day.", "Sent in a plain box.", "Returned free of charge."))
    return " ".join((opening, *([about.format(listed(attributes))] if attributes else ()), closing))


def _features(rng: random.Random, kind: ProductType, brand: str, attributes: list[str]) -> tuple[str, ...]:
    lines = [f"{attribute.capitalize()}{rng.choice(_REMARKS)}" for attribute in attributes]
    lines.append(f"{rng.choice(('Sold by', 'A product of', 'Checked by'))} {brand}")
    rng.shuffle(lines)
    return tuple(lines)


_REMARKS = (", as tests show", "", ": no compromise", ", day after day", ", which few others are")

_REVIEWS = (
    ("As described", 5, "The {0} came on time and is what the page says."),
    ("Good value", 4, "I would buy this {0} again at this price."),
    ("Not for me", 2, "A fair {0}, but I had pictured something else."),
    ("Fine", 3, "The {0} does what it should."),
    ("A gift", 5, "I bought the {0} for my sister and she is happy with it."),
)


def _review(rng: random.Random, kind: ProductType) -> tuple[str, int, str]:
    title, stars, text = rng.choice(_REVIEWS)
    return title, stars, text.format(kind.name)
