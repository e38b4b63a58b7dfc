"""The recipes of a game of TextCraft and what follows from them: kinds, basic items, depths, what a goal needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

from eexp.envs.worlds.crafting.recipes import Ingredient, Recipe


class RecipeBook:
    """The recipes of a game and all that follows from them. It never changes.

    Attributes:
        by_output: The recipes of every item that can be crafted, in order.
        by_group: The recipes of every kind of items.
        items: Everything that has a name in a recipe and is no kind of items.
        tags: The names of the kinds of items.
        kind: The kind of an item, for items that have one.
        depth: How many crafts have to build on each other to make an item or a kind of items.

    Args:
        recipes: The recipes. Of recipes in a circle, those that come first are kept.
        listed: The crafting commands of a game from elsewhere, where its recipes in a circle may have come in another
            order. They are kept, and what they need for `goal` is crafted by them alone.
        goal: The item that is to be crafted in that game.
    """

    def __init__(self, recipes: Iterable[Recipe], listed: frozenset[str] = frozenset(), goal: str = ""):
        self.by_output: dict[str, list[Recipe]] = {}
        self.by_group: dict[str, list[Recipe]] = {}
        self.items: set[str] = set()
        self.tags: set[str] = set()
        self.kind: dict[str, str] = {}
        in_order = sorted(recipes, key=lambda recipe: recipe.command not in listed)
        kept = list(self._kept(in_order, listed, goal))
        craftable_kinds = {self.kind[recipe.output] for recipe in kept if recipe.output in self.kind}
        for recipe in kept:
            self._add(recipe, craftable_kinds)
        self.depth: dict[str, int] = {}
        for name in [*self.by_output, *self.by_group]:
            self._measure(name)
        self.uses: dict[str, list[Recipe]] = {}
        for recipe in self.recipes():
            for ingredient in recipe.ingredients:
                self.uses.setdefault(ingredient.name, []).append(recipe)

    def _kept(self, recipes: list[Recipe], listed: frozenset[str], goal: str) -> Iterator[Recipe]:
        """Yield the recipes that are kept, and note the names in all of them.

        As in AgentGym, recipes that turn a block into something are left out, and so are those that need what is made
        from their output.
        """
        closed = _needed_names([recipe for recipe in recipes if recipe.command in listed], goal)
        needs: dict[str, set[str]] = {}
        for recipe in recipes:
            for name, _, is_tag in recipe.ingredients:
                (self.tags if is_tag else self.items).add(name)
            self.items.add(recipe.output)
            if len(recipe.ingredients) == 1 and recipe.ingredients[0].name.endswith("_block"):
                continue
            if recipe.group and recipe.group != recipe.output:
                self.tags.add(recipe.group)
                self.kind[recipe.output] = recipe.group
            own = needs.setdefault(recipe.output, set())
            names = [ingredient.name for ingredient in recipe.ingredients]
            circular = closed & {recipe.output, recipe.group} or any(recipe.output in needs.get(n, ()) for n in names)
            if circular and recipe.command not in listed:
                continue
            for name in names:
                own |= {name, *needs.get(name, ())}
            yield recipe

    def _add(self, recipe: Recipe, craftable_kinds: set[str]) -> None:
        """Add a recipe. A kind of which no item can be crafted is an item itself, as in AgentGym."""
        ingredients = []
        for name, count, is_tag in recipe.ingredients:
            if is_tag and name not in craftable_kinds:
                self.tags.discard(name)
                self.items.add(name)
            ingredients.append(Ingredient(name, count, is_tag and name in craftable_kinds))
        recipe = recipe._replace(ingredients=tuple(ingredients))
        self.by_output.setdefault(recipe.output, []).append(recipe)
        if recipe.group:
            self.by_group.setdefault(recipe.group, []).append(recipe)

    def _measure(self, name: str, above: frozenset[str] = frozenset()) -> int:
        """Note and return the depth of an item or a kind of items: that of its simplest recipe."""
        if name not in self.depth:
            deeper = above | {name}
            depths = [
                max(1 + self._measure(ingredient.name, deeper) for ingredient in recipe.ingredients)
                for recipe in self.recipes_for(name)
                if not any(ingredient.name in deeper for ingredient in recipe.ingredients)
            ]
            self.depth[name] = min(depths, default=0)
        return self.depth[name]

    def recipes(self) -> Iterator[Recipe]:
        for recipes in self.by_output.values():
            yield from recipes

    def listed(self, commands: frozenset[str]) -> list[Recipe]:
        """Return the recipes with these crafting commands, in the order of the book."""
        return [recipe for command, recipe in self._commands if command in commands]

    @cached_property
    def _commands(self) -> list[tuple[str, Recipe]]:
        return [(recipe.command, recipe) for recipe in self.recipes()]

    def recipes_for(self, name: str) -> list[Recipe]:
        """Return the recipes that make an item, or items of a kind."""
        return self.by_output.get(name) or self.by_group.get(name) or []

    def is_basic(self, name: str) -> bool:
        """Return whether `get` gets the item."""
        craftable = name in self.by_output or name in self.by_group
        return name in self.items and name not in self.tags and not craftable

    def fits(self, item: str, ingredient: Ingredient) -> bool:
        """Return whether an item may be used for an ingredient."""
        return self.kind.get(item) == ingredient.name if ingredient.is_tag else item == ingredient.name

    def crafted(self, output: str, given: list[tuple[str, int]]) -> Recipe | None:
        """Return the first recipe for an item that needs exactly the items `given`; None if there is none."""
        for recipe in self.by_output.get(output, []):
            left = list(given)
            for ingredient in recipe.ingredients:
                match = next((pair for pair in left if self.fits(pair[0], ingredient)), None)
                if match is None or match[1] != ingredient.count:
                    break
                left.remove(match)
            else:
                if not left:
                    return recipe
        return None

    def needed(self, goal: str) -> list[Recipe]:
        """Return all recipes by which the goal, and anything that may be needed for it, can be crafted."""
        recipes: dict[Recipe, None] = {}
        names, known = [goal], {goal}
        for name in names:
            for recipe in self.recipes_for(name):
                recipes[recipe] = None
                new = [ingredient.name for ingredient in recipe.ingredients if ingredient.name not in known]
                names += new
                known.update(new)
        return list(recipes)


def _needed_names(recipes: list[Recipe], goal: str) -> set[str | None]:
    """Return the goal and the names of all that these recipes may need for it; nothing where there is no recipe."""
    names: set[str | None] = {goal} if recipes else set()
    size = -1
    while size != len(names):
        size = len(names)
        for recipe in recipes:
            if recipe.output in names or recipe.group in names:
                names.update(ingredient.name for ingredient in recipe.ingredients)
    return names - {None}
