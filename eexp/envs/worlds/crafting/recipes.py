"""Recipes of Minecraft for the crafting table: as commands, as lines of a file, and in Minecraft's own files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

NAMESPACE = "minecraft:"

_LINE = re.compile(r"(?P<count>\d+) (?P<output>\w+)(?: \((?P<group>\w+)\))? = (?P<ingredients>.+)")


class Ingredient(NamedTuple):
    """An item, or a tag (a kind of items), that a recipe needs."""

    name: str
    count: int
    is_tag: bool = False


class Recipe(NamedTuple):
    """A recipe: what it makes, how many of it, the kind (Minecraft's group) of that, and what it needs."""

    output: str
    count: int
    group: str | None
    ingredients: tuple[Ingredient, ...]

    @property
    def command(self) -> str:
        """The recipe as a crafting command."""
        needed = ", ".join(f"{count} {spaced(name)}" for name, count, _ in self.ingredients)
        return f"craft {self.count} {spaced(self.output)} using {needed}"

    @property
    def line(self) -> str:
        """The recipe as a line of the file that comes with eexp, which `parse_recipe` reads."""
        group = f" ({self.group})" if self.group else ""
        needed = ", ".join(f"{count} {'#' * is_tag}{name}" for name, count, is_tag in self.ingredients)
        return f"{self.count} {self.output}{group} = {needed}"


def spaced(name: str) -> str:
    """Return the name of an item in words."""
    return name.replace("_", " ")


def parse_recipe(line: str) -> Recipe:
    """Return the recipe on a line such as `4 acacia_planks (planks) = 1 #acacia_logs`.

    Raises:
        ValueError: The line has another form.
    """
    match = _LINE.fullmatch(line)
    if not match:
        raise ValueError(f"no recipe: {line!r}")
    pairs = [part.split(" ") for part in match["ingredients"].split(", ")]
    ingredients = tuple(Ingredient(name.lstrip("#"), int(count), name.startswith("#")) for count, name in pairs)
    return Recipe(match["output"], int(match["count"]), match["group"], ingredients)


def read_directory(directory: Path) -> list[Recipe]:
    """Return the recipes for the crafting table in files of Minecraft's format (*.json), in the order of their names.

    Where a recipe takes any of several items, the first one stands for all, as in AgentGym.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is not in Minecraft's format.
    """
    recipes = []
    for path in sorted(directory.glob("*.json"), key=lambda path: path.name):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            ingredients = _ingredients(content)
            if ingredients:
                recipes.append(_recipe(content, ingredients))
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            raise ValueError(f"{path}: not a recipe in Minecraft's format: {type(e).__name__}: {e}") from None
    return recipes


def _ingredients(content: dict[str, Any]) -> tuple[Ingredient, ...]:
    """Return what a recipe file says is needed; nothing for recipes that are not for the crafting table."""
    counted: list[tuple[Any, int]] = []
    if content["type"] == "minecraft:crafting_shaped":
        rows = "".join(content["pattern"])
        counted = [(needed, rows.count(key)) for key, needed in content["key"].items()]
        return tuple(Ingredient(name, count, is_tag) for (name, is_tag), count in ((_named(n), c) for n, c in counted))
    merged: dict[str, Ingredient] = {}
    if content["type"] == "minecraft:crafting_shapeless":
        for name, is_tag in map(_named, content["ingredients"]):
            merged[name] = Ingredient(name, merged[name].count + 1 if name in merged else 1, is_tag)
    return tuple(merged.values())


def _named(needed: Any) -> tuple[str, bool]:
    """Return (name, whether it is a tag) for an ingredient as a recipe file has it, in old and new versions."""
    first = needed[0] if isinstance(needed, list) else needed
    if isinstance(first, str):
        return _plain(first.removeprefix("#")), first.startswith("#")
    return (_plain(first["tag"]), True) if "tag" in first else (_plain(first["item"]), False)


def _recipe(content: dict[str, Any], ingredients: tuple[Ingredient, ...]) -> Recipe:
    result = content["result"]
    output, count = (
        (result, 1) if isinstance(result, str) else (result.get("item") or result["id"], result.get("count"))
    )
    return Recipe(_plain(output), count or 1, content.get("group") or None, ingredients)


def _plain(name: str) -> str:
    """Return a name without `minecraft:`. Raises ValueError for one that no action could name."""
    plain = name.removeprefix(NAMESPACE)
    if not re.fullmatch("[a-z0-9_]+", plain):
        raise ValueError(f"the name {name!r}")
    return plain
