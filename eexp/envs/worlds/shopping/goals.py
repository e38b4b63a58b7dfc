"""Goals of the built-in shop: products to buy, in the words of an instruction.

A goal is made from a product: some of its attributes, a value of each of its options, and a price above its own. Other
products may fulfil it as well. All goals of a product are in the same split.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from eexp.envs.worlds.shopping.catalogue import PRODUCTS, WORLD, Catalogue, Options, Product, listed

GOALS = 2  # of each product
TEST = 5  # of the products of each type, those whose goals are in the split test
SHOWN = 10  # products on a page of results
LONGEST = 18  # actions that a goal may take, by `effort`
_TRIES = 50

_INSTRUCTIONS = (
    "Find me {thing} that is {attributes}, with {options}, and price lower than {price} dollars",
    "I am looking for {thing}, {attributes}, with {options}, and price lower than {price} dollars",
    "I need {thing}. It should be {attributes}, with {options}, and price lower than {price} dollars",
    "I want to buy {thing}: {attributes}, {options}, and price lower than {price} dollars",
)


@dataclass(frozen=True)
class Goal:
    """What is to be bought."""

    target: Product  # from which the goal was made
    attributes: tuple[str, ...]
    options: Options
    dollars: int  # the highest price
    instruction: str

    @property
    def queries(self) -> list[str]:
        """Searches that the instruction suggests: for all that it says first, for the type alone last."""
        values, thing = [value for _, value in self.options], self.target.type.name
        parts = ((*self.attributes, thing, *values), (*self.attributes, thing), *((a, thing) for a in self.attributes))
        return [" ".join(words) for words in (*parts, (thing, *values), (thing,))]


@lru_cache(maxsize=8)
def goals_of(catalogue: Catalogue) -> dict[str, tuple[Goal, ...]]:
    """Return the goals of a catalogue by split, each in an order without meaning."""
    rng = random.Random(f"{WORLD}/goals/{catalogue.number}")
    goals: dict[str, list[Goal]] = {"train": [], "test": []}
    for numbers in catalogue.by_type.values():
        assert len(numbers) == PRODUCTS
        for n, number in enumerate(numbers):
            goals["test" if n < TEST else "train"] += _goals(rng, catalogue, number, numbers)
    for split in goals.values():
        rng.shuffle(split)
    return {split: tuple(drawn) for split, drawn in goals.items()}


def _goals(rng: random.Random, catalogue: Catalogue, number: int, alike: Collection[int]) -> list[Goal]:
    """Return the goals of a product, of which no two ask for the same attributes, and none takes too long."""
    goals: list[Goal] = []
    for _ in range(_TRIES):
        goal = _goal(rng, catalogue.products[number])
        repeated = any(set(goal.attributes) == set(other.attributes) for other in goals)
        if not repeated and effort(catalogue, goal, catalogue.index.search(goal.queries[0], among=alike)) <= LONGEST:
            goals.append(goal)
        if len(goals) == GOALS:
            break
    return goals


def _goal(rng: random.Random, product: Product) -> Goal:
    in_title = rng.randrange(2)  # people ask for what titles say, and for more
    others = [attribute for n, attribute in enumerate(product.attributes) if n != in_title]
    attributes = (product.attributes[in_title], *rng.sample(others, rng.randint(1, 2)))
    options = tuple((name, rng.choice(values)) for name, values in product.options)
    dollars = max(rng.sample(range(10 * (product.cents // 1000 + 1), 1000, 10)[:4], 2))
    instruction = rng.choice(_INSTRUCTIONS).format(
        thing=_with_article(product.type.name),
        attributes=listed(attributes),
        options=", and ".join(f"{name}: {value}" for name, value in options),
        price=f"{dollars}.00",
    )
    return Goal(product, attributes, options, dollars, instruction)


def _with_article(name: str) -> str:
    if name.endswith("s") and not name.endswith("ss"):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def effort(catalogue: Catalogue, goal: Goal, found: Sequence[int]) -> int:
    """Return how many actions the expert takes with a search that finds these products, the search included.

    It opens the products of a page in the order of what their titles promise. One that lacks an option costs two
    actions, one that lacks an attribute up to six.
    """
    actions = 1
    for first in range(0, len(found), SHOWN):
        products = [catalogue.products[number] for number in found[first : first + SHOWN]]
        fitting = [p for p in products if p.type is goal.target.type and p.cents <= 100 * goal.dollars]
        for product in sorted(fitting, key=lambda p: -sum(p.says(a, "title") for a in goal.attributes)):
            offered = dict(product.options)
            if all(value in offered[name] for name, value in goal.options):
                open_ones = [a for a in goal.attributes if not product.says(a, "title")]
                for page in ("features", "description"):
                    actions += 2 if open_ones else 0
                    open_ones = [a for a in open_ones if not product.says(a, page)]
                if not open_ones:
                    return actions + 2 + len(goal.options)
            actions += 2
        actions += 1
    return actions + LONGEST  # never
