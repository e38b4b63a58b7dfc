"""Plans: what to get and what to craft, in which order, to make an item."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from math import ceil
from typing import NamedTuple

from eexp.envs.worlds.crafting.book import RecipeBook
from eexp.envs.worlds.crafting.recipes import Ingredient, Recipe, spaced


def craft_action(recipe: Recipe, names: Iterable[str]) -> str:
    """Return the action that crafts by a recipe with these items."""
    used = ", ".join(f"{ingredient.count} {spaced(name)}" for ingredient, name in zip(recipe.ingredients, names))
    return f"craft {recipe.count} {spaced(recipe.output)} using {used}"


class Get(NamedTuple):
    """A step of a plan: get so many of a basic item."""

    name: str
    count: int


class Craft(NamedTuple):
    """A step of a plan: craft by a recipe with these items, so many times."""

    recipe: Recipe
    names: tuple[str, ...]
    times: int


Plan = list[Get | Craft]


class Planner:
    """Finds what to get and to craft, in which order, by some of the recipes of a book."""

    def __init__(self, book: RecipeBook, recipes: list[Recipe]):
        self._book = book
        self._by_output: dict[str, list[Recipe]] = {}
        for recipe in recipes:
            self._by_output.setdefault(recipe.output, []).append(recipe)

    def plan(self, goal: str, inventory: dict[str, int]) -> Plan:
        """Return the steps that craft the goal; none where the recipes do not lead to it."""
        return self._make(goal, 1, dict(inventory), frozenset()) or []

    def _make(self, name: str, count: int, stock: dict[str, int], above: frozenset[str]) -> Plan | None:
        """Return the steps to have so many of an item, and take them out of `stock`; None if there are none.

        Of several recipes, the one with the fewest steps is taken. Ingredients are planned one after the other.
        A plan in which two of them share something may therefore be longer than it has to be.

        Args:
            stock: What is at hand. What is left over by the steps is added to it.
            above: The items for which this one is needed; a recipe that needs one of them leads nowhere.
        """
        used = min(stock.get(name, 0), count)
        if used:
            stock[name] -= used
        missing = count - used
        if not missing:
            return []
        if self._book.is_basic(name):
            return [Get(name, missing)]
        best: tuple[Plan, dict[str, int]] | None = None
        for recipe in self._by_output.get(name, []):
            times = ceil(missing / recipe.count)
            choices = [self._choices(ingredient) for ingredient in recipe.ingredients]
            for names in product(*choices):
                if above & {name, *names} or name in names:
                    continue
                left = dict(stock)
                steps = self._make_all(recipe, names, times, left, above | {name})
                if steps is not None and (best is None or _cost(steps) < _cost(best[0])):
                    left[name] = left.get(name, 0) + times * recipe.count - missing
                    best = steps, left
        if best is None:
            return None
        stock.clear()
        stock.update(best[1])
        return best[0]

    def _choices(self, ingredient: Ingredient) -> list[str]:
        """Return the items that may be used for an ingredient and can be made."""
        if not ingredient.is_tag:
            return [ingredient.name]
        return [item for item in self._by_output if self._book.fits(item, ingredient)]

    def _make_all(
        self, recipe: Recipe, names: tuple[str, ...], times: int, stock: dict[str, int], above: frozenset[str]
    ) -> Plan | None:
        """Return the steps to craft by a recipe so many times with these items, as `_make` does."""
        steps: Plan = []
        for name, ingredient in zip(names, recipe.ingredients):
            made = self._make(name, ingredient.count * times, stock, above)
            if made is None:
                return None
            steps += made
        return [*steps, Craft(recipe, names, times)]


def actions_of(steps: Plan) -> list[str]:
    """Return the actions of a plan. A basic item is got once, in the amount that is needed altogether."""
    amounts: dict[str, int] = {}
    for step in steps:
        if isinstance(step, Get):
            amounts[step.name] = amounts.get(step.name, 0) + step.count
    actions: list[str] = []
    for step in steps:
        if isinstance(step, Craft):
            actions += [craft_action(step.recipe, step.names)] * step.times
        elif step.name in amounts:
            actions.append(f"get {amounts.pop(step.name)} {spaced(step.name)}")
    return actions


def described_craft(step: Craft) -> str:
    """Return what a step of a plan makes, and from what, such as "3 iron ingot from 27 iron nugget"."""
    needed = zip(step.recipe.ingredients, step.names)
    ingredients = listing((step.times * ingredient.count, name) for ingredient, name in needed)
    return f"{step.times * step.recipe.count} {spaced(step.recipe.output)} from {ingredients}"


def listing(counted: Iterable[tuple[int, str]]) -> str:
    return ", ".join(f"{count} {spaced(name)}" for count, name in counted)


def _cost(steps: Plan) -> tuple[int, int]:
    """Return what makes a plan long: the number of its actions, then that of the items it gets."""
    actions = sum(step.times if isinstance(step, Craft) else 1 for step in steps)
    return actions, sum(step.count for step in steps if isinstance(step, Get))
