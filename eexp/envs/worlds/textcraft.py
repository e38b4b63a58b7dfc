"""`textcraft`: TextCraft, crafting in the manner of Minecraft, in pure Python.

TextCraft is a game of ADaPT (Prasad et al. 2023, arXiv 2311.05772). The first observation lists crafting commands, some
of them needed and some not, and names the goal. The agent gets basic items, crafts others, and has reached the goal as
soon as it crafts the goal's item. This is the game as AgentGym plays it (Xi et al. 2024, arXiv 2406.04151; its
agentenv-textcraft at 3ef9235): the same recipes, the same rules, and answers in the same words.

What depends on chance in AgentGym is fixed here. There, the order of a folder decides which recipes are left out
because they are circular, and how deep an item is; here, the recipe files are sorted by name. There, the commands that
are not needed depend on what was played before; here, they are drawn by the task.

Every item that can be crafted is a goal. A hash of the goal decides its split:
    train       about seven of ten goals, each with ten lists of commands
    dev, test   about one and two of ten goals, each with one list

Options:
    depth           goals of this depth only, such as `2` or `2-4`: how many crafts build on each other, at the least
    distractors     how many commands are listed that are not needed, at the most; 10 by default
    max_steps       actions in an episode; 50 by default
    recipes         a directory of recipe files in Minecraft's format, in place of the recipes that come with eexp

A task of AgentGym, whose commands were drawn there, can be played as well: `task_beginning` makes it from its first
observation, and with it the rules that hold there.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import option_error, parse_step_limit
from eexp.errors import EexpError, InputError
from eexp.records import seed_of

#: Changed whenever a task, a text or a rule changes, so that old records are not mixed with new ones.
WORLD = "textcraft-1"

RECIPES = Path(__file__).parents[2] / "data" / "textcraft" / "recipes.txt"

#: The lists of commands of a goal, by split: each is a task.
LISTS = {"train": 10, "dev": 1, "test": 1}

NAMESPACE = "minecraft:"
#: How to act. It has no articles: a noun after one is a thing that the task is about (eexp/reflection/words.py).
HOW = (
    "Actions: `get 2 oak logs`, for basic items, which no command crafts; `craft 4 oak planks using 1 oak logs`, with "
    "exactly those ingredients that commands have (oak planks, for example, in place of planks); `inventory`."
)

_COUNTED = re.compile("([0-9]{1,18}) (.*)")
_LINE = re.compile(r"(?P<count>\d+) (?P<output>\w+)(?: \((?P<group>\w+)\))? = (?P<ingredients>.+)")
_FIRST_OBSERVATION = re.compile(
    r"\s*Crafting commands:\s*(?P<commands>.*?)\s*Goal: craft (?P<goal>[^\n]+?)\.?\s*", re.S
)


# -- recipes -----------------------------------------------------------------------------------------------------------


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


# -- rules -------------------------------------------------------------------------------------------------------------


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


@cache
def _shipped_recipes() -> tuple[Recipe, ...]:
    lines = RECIPES.read_text(encoding="utf-8").splitlines()
    return tuple(parse_recipe(line) for line in lines if line and not line.startswith("#"))


@lru_cache(8)
def _read_recipes(directory: str) -> tuple[Recipe, ...]:
    """Return the recipes in a directory, or those that come with eexp where it is empty."""
    if not directory:
        return _shipped_recipes()
    if not Path(directory).is_dir():
        raise option_error("textcraft", "recipes", directory, "no such directory")
    try:
        recipes = read_directory(Path(directory))
    except (OSError, ValueError) as e:
        raise EexpError(f"textcraft: {e}") from None
    if not recipes:
        expected = "expected recipe files of Minecraft, *.json with a type of minecraft:crafting_..."
        raise option_error("textcraft", "recipes", directory, expected)
    return tuple(recipes)


@lru_cache(64)
def _book(directory: str, listed: frozenset[str] = frozenset(), goal: str = "") -> RecipeBook:
    return RecipeBook(_read_recipes(directory), listed, goal)


# -- the environment ---------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """Error raised for an action that the game refuses; its text is the answer."""


class TextCraft(Environment):
    """Crafting by listed commands, in pure Python. See the module's docstring for the options.

    Raises:
        UsageError: An option makes no sense.
        EexpError: The recipe files cannot be read.
    """

    spec = "textcraft"
    in_process = True
    light = True
    record_options = frozenset({"depth", "distractors", "max_steps"})

    def __init__(self, depth: str = "", distractors: str = "10", max_steps: str = "50", recipes: str = "") -> None:
        self.max_steps = parse_step_limit("textcraft", max_steps)
        if not re.fullmatch("[0-9]{1,4}", distractors):
            raise option_error("textcraft", "distractors", distractors, "expected a number")
        self._distractors = int(distractors)
        self._directory = recipes
        self._shared_book = _book(recipes)
        self._depths = _parse_depths(depth, max(self._shared_book.depth.values()))

    # -- tasks ---------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        return list(LISTS)

    def tasks(self, split: str) -> Iterator[dict]:
        """Yield first one task for every goal, in an order without meaning, then the next one for each."""
        self.check_split(split)
        depth = self._shared_book.depth
        goals = [g for g in self._shared_book.by_output if split_of(g) == split and depth[g] in self._depths]
        goals.sort(key=lambda goal: (seed_of(WORLD, "order", goal), goal))
        for number in range(LISTS[split]):
            for goal in goals:
                yield {"id": f"{goal}/{number}", "split": split, "depth": depth[goal], "world": WORLD}

    def task_named(self, name: str) -> dict:
        """Return the task with this id, such as `oak_sign/3`.

        Raises:
            InputError: There is none. AgentGym's `textcraft_12` is none: what it means depends on the order in which a
                file system listed the recipes.
        """
        goal, number = self._parse_id(name)
        return {
            "id": f"{goal}/{number}",
            "split": split_of(goal),
            "depth": self._shared_book.depth[goal],
            "world": WORLD,
        }

    def task_beginning(self, observation: str) -> dict | None:
        """Return the task with the commands and the goal of a first observation; None if it is no such observation."""
        match = _FIRST_OBSERVATION.fullmatch(observation)
        if not match:
            return None
        goal = match["goal"].replace(" ", "_")
        commands = [" ".join(line.split()) for line in match["commands"].splitlines() if line.strip()]
        name = f"{goal}/listed-{seed_of(goal, *commands):016x}"
        return {"id": name, "split": split_of(goal), "goal": goal, "commands": commands, "world": WORLD}

    def kind_of(self, task: dict) -> str:
        """Return the depth of the goal, such as "depth 2"."""
        goal, book = self._game(task)
        return f"depth {book.depth[goal]}"

    def reset(self, task: dict) -> Observation:
        self._goal, self._book = self._game(task)
        self._commands: list[str] = task["commands"] if "commands" in task else self._draw_commands(str(task["id"]))
        listed = frozenset(self._commands)
        self._recipes = [recipe for recipe in self._book.recipes() if recipe.command in listed]
        self._inventory: dict[str, int] = {}
        self._over = False
        commands = "\n".join(self._commands)
        return self._observe(f"Crafting commands:\n{commands}\n\nGoal: craft {spaced(self._goal)}.")

    def _game(self, task: dict) -> tuple[str, RecipeBook]:
        """Return the goal of a task and the recipes that hold in it.

        Raises:
            InputError: There is no such task.
        """
        if task.get("world", WORLD) != WORLD:
            raise InputError(f"made for world {task['world']!r}, this is {WORLD!r}", "$.task.world")
        if "commands" in task:
            return self._listed_game(task["commands"], task.get("goal"))
        return self._parse_id(str(task.get("id", "")))[0], self._shared_book

    def _parse_id(self, name: str) -> tuple[str, int]:
        """Return (goal, number of the list of commands). Raises InputError if there is no such task."""
        goal, _, number = name.partition("/")
        known = goal in self._shared_book.by_output
        if not known or not re.fullmatch("[0-9]{1,9}", number) or int(number) >= LISTS[split_of(goal)]:
            raise InputError(f"textcraft has no task {name!r}", "$.task.id")
        return goal, int(number)

    def _listed_game(self, commands: Any, goal: Any) -> tuple[str, RecipeBook]:
        """Return the game of a task that brings its own list of commands, as `_game` does."""
        if not isinstance(commands, list) or not all(isinstance(command, str) for command in commands):
            raise InputError("expected a list of strings", "$.task.commands")
        listed = frozenset(commands)
        known = {recipe.command for recipe in _read_recipes(self._directory)}
        for command in commands:
            if command not in known:
                raise InputError(f"no recipe here is {command!r}", "$.task.commands")
        book = _book(self._directory, listed, str(goal))
        if not any(recipe.command in listed for recipe in book.by_output.get(str(goal), [])):
            raise InputError(f"no command in the list crafts {goal!r}", "$.task.goal")
        return str(goal), book

    def _draw_commands(self, name: str) -> list[str]:
        """Return the crafting commands of a task: all that may be needed, and some that need the same ingredients."""
        goal, number = self._parse_id(name)
        rng = random.Random(f"{WORLD}/{goal}/{number}")
        needed = self._shared_book.needed(goal)
        others: set[str] = set()
        for ingredient in (ingredient for recipe in needed for ingredient in recipe.ingredients):
            uses = self._shared_book.uses[ingredient.name]
            others.update(recipe.command for recipe in rng.sample(uses, min(len(uses), 10)))
        commands = sorted({recipe.command for recipe in needed})
        others.difference_update(commands)
        commands += rng.sample(sorted(others), min(len(others), self._distractors))
        rng.shuffle(commands)
        return commands

    def instruction(self) -> str:
        return f"Craft {spaced(self._goal)}.\n{HOW}"

    # -- acting --------------------------------------------------------------------------------------------------

    def _observe(self, text: str, valid: bool = True) -> Observation:
        return Observation(text, done=self._over, score=float(self._over), valid=valid, success=self._over)

    def step(self, action: str) -> Observation:
        """Execute an action, tidied as AgentGym's client does it (`tidied`)."""
        if self._over:
            return self._observe("The task is over.", valid=False)
        try:
            return self._observe(self._execute(tidied(action)))
        except _Refused as e:
            return self._observe(str(e), valid=False)

    def _execute(self, action: str) -> str:
        """Execute an action and return the answer, in AgentGym's words. Raises _Refused if it is refused."""
        if match := re.match("craft (.*) using (.*)", action):
            return self._craft(match[1], match[2])
        if (match := re.match("get (.*)", action)) and (counted := _COUNTED.match(match[1])):
            return self._get(int(counted[1]), counted[2])
        if action.startswith("inventory"):
            listed = "".join(f"[{spaced(name)}] ({count}) " for name, count in self._inventory.items())
            return f"Inventory: {listed or 'You are not carrying anything.'}"
        raise _Refused(f"Could not execute {action}")

    def _get(self, count: int, words: str) -> str:
        name = words.replace(" ", "_")
        if not self._book.is_basic(name):
            raise _Refused(f"Could not find {words}")
        self._inventory[name] = self._inventory.get(name, 0) + count
        return f"Got {count} {words}"

    def _craft(self, output_words: str, ingredient_words: str) -> str:
        counted = _COUNTED.match(output_words)
        count, words = (int(counted[1]), counted[2]) if counted else (1, output_words)
        output = words.replace(" ", "_")
        given = [_parse_ingredient(words.strip()) for words in ingredient_words.split(",")]
        self._check_held(given, output)
        recipe = self._book.crafted(output, given)
        if recipe is None:
            raise _Refused(f"Could not find a valid recipe for {self._described(output, count)}")
        for name, amount in given:
            self._inventory[name] -= amount
            if not self._inventory[name]:
                del self._inventory[name]
        self._inventory[output] = self._inventory.get(output, 0) + recipe.count
        self._over = output == self._goal
        return f"Crafted {recipe.count} {NAMESPACE}{output}"

    def _check_held(self, given: list[tuple[str, int]], output: str) -> None:
        """Raise _Refused if the inventory does not hold all that is given, however often an item is named."""
        total: dict[str, int] = {}
        for name, amount in given:
            total[name] = total.get(name, 0) + amount
            if name not in self._inventory or self._inventory[name] < total[name]:
                missing_for = None if output in self._book.tags else f"{NAMESPACE}{output}"
                raise _Refused(f"Could not find enough items to craft {missing_for}")

    def _described(self, output: str, count: int) -> str:
        """Return an item that cannot be crafted as AgentGym's answer has it, which is the form of a Python object."""
        name = f"{NAMESPACE}{output}"
        tag, item = (name, None) if output in self._book.tags else (None, name)
        return f"ItemTagWithCount(item_tag=ItemTag(tag={tag!r}, item_id={item!r}), count={count})"

    def harmless(self, action: str) -> bool:
        return tidied(action).startswith("inventory")

    def admissible(self) -> list[str]:
        """Return the listed crafts that are possible now, and gets of their basic items in the amounts they need.

        Any other amount can be got as well, and recipes that are not listed can be crafted, too.
        """
        if self._over:
            return []
        gets = {
            f"get {ingredient.count} {spaced(ingredient.name)}"
            for recipe in self._recipes
            for ingredient in recipe.ingredients
            if self._book.is_basic(ingredient.name)
        }
        crafts = {command for recipe in self._recipes for command in self._possible_crafts(recipe)}
        return [*sorted(crafts), *sorted(gets), "inventory"]

    def _possible_crafts(self, recipe: Recipe) -> Iterator[str]:
        """Yield the crafts by a recipe for which the inventory has the items, with each item that fits."""
        choices = [
            [n for n, held in self._inventory.items() if held >= ingredient.count and self._book.fits(n, ingredient)]
            for ingredient in recipe.ingredients
        ]
        return (_craft_action(recipe, names) for names in product(*choices))

    def fork(self) -> TextCraft:
        copy = object.__new__(type(self))
        vars(copy).update(vars(self))
        copy._inventory = dict(self._inventory)
        return copy

    # -- the expert ----------------------------------------------------------------------------------------------

    def expert(self) -> str | None:
        """Return the first action of the shortest plan by the listed commands, from what is in the inventory."""
        if self._over:
            return None
        actions = _actions(self._plan())
        return actions[0] if actions else None

    def explain(self) -> str | None:
        """Return the crafts that the goal still needs, in order and with their amounts, and what is in the inventory.

        All of it follows from the listed commands and what the agent has got and crafted.
        """
        crafts = [step for step in self._plan() if isinstance(step, _Craft)]
        if self._over or not crafts:
            return None
        have = _listing((count, name) for name, count in self._inventory.items() if count)
        return f"Still to craft: {'; '.join(map(_described_craft, crafts))}. I have {have or 'nothing'}."

    def _plan(self) -> _Plan:
        return _Planner(self._book, self._recipes).plan(self._goal, self._inventory)


def tidied(action: str) -> str:
    """Return an action as AgentGym's client sends it: its first line, with letters, digits, commas and blanks only."""
    line = action.strip().partition("\n")[0]
    return " ".join(re.sub("[^A-Za-z0-9, ]+", "", line).split())


def split_of(goal: str) -> str:
    """Return the split of a goal, which its name alone decides."""
    share = seed_of(WORLD, "split", goal) % 10
    return "dev" if share == 0 else "test" if share < 3 else "train"


def _parse_depths(value: str, deepest: int) -> range:
    """Return the depths that the option names: `2`, or `2-4`; all of them for nothing. Raises UsageError."""
    if not value:
        return range(1, deepest + 1)
    match = re.fullmatch("([0-9]{1,3})(?:-([0-9]{1,3}))?", value)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= deepest:
        raise option_error(
            "textcraft", "depth", value, f"expected a depth from 1 to {deepest}, such as 2 or 2-{deepest}"
        )
    return range(first, last + 1)


def _parse_ingredient(words: str) -> tuple[str, int]:
    """Return (item, count). Raises _Refused if there is no count before the item."""
    match = _COUNTED.match(words)
    if not match:
        raise _Refused(f"Wrong item format: {words}")
    return match[2].replace(" ", "_"), int(match[1])


def _craft_action(recipe: Recipe, names: Iterable[str]) -> str:
    used = ", ".join(f"{ingredient.count} {spaced(name)}" for ingredient, name in zip(recipe.ingredients, names))
    return f"craft {recipe.count} {spaced(recipe.output)} using {used}"


class _Get(NamedTuple):
    """A step of a plan: get so many of a basic item."""

    name: str
    count: int


class _Craft(NamedTuple):
    """A step of a plan: craft by a recipe with these items, so many times."""

    recipe: Recipe
    names: tuple[str, ...]
    times: int


_Plan = list[_Get | _Craft]


class _Planner:
    """Finds what to get and to craft, in which order, by some of the recipes of a book."""

    def __init__(self, book: RecipeBook, recipes: list[Recipe]):
        self._book = book
        self._by_output: dict[str, list[Recipe]] = {}
        for recipe in recipes:
            self._by_output.setdefault(recipe.output, []).append(recipe)

    def plan(self, goal: str, inventory: dict[str, int]) -> _Plan:
        """Return the shortest steps that craft the goal; none where the recipes do not lead to it."""
        return self._make(goal, 1, dict(inventory), frozenset()) or []

    def _make(self, name: str, count: int, stock: dict[str, int], above: frozenset[str]) -> _Plan | None:
        """Return the shortest steps to have so many of an item, and take them out of `stock`; None if there are none.

        Args:
            name: The item.
            count: How many of it.
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
            return [_Get(name, missing)]
        best: tuple[_Plan, dict[str, int]] | None = None
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
    ) -> _Plan | None:
        """Return the steps to craft by a recipe so many times with these items, as `_make` does."""
        steps: _Plan = []
        for name, ingredient in zip(names, recipe.ingredients):
            made = self._make(name, ingredient.count * times, stock, above)
            if made is None:
                return None
            steps += made
        return [*steps, _Craft(recipe, names, times)]


def _actions(steps: _Plan) -> list[str]:
    """Return the actions of a plan. A basic item is got once, in the amount that is needed altogether."""
    amounts: dict[str, int] = {}
    for step in steps:
        if isinstance(step, _Get):
            amounts[step.name] = amounts.get(step.name, 0) + step.count
    actions: list[str] = []
    for step in steps:
        if isinstance(step, _Craft):
            actions += [_craft_action(step.recipe, step.names)] * step.times
        elif step.name in amounts:
            actions.append(f"get {amounts.pop(step.name)} {spaced(step.name)}")
    return actions


def _described_craft(step: _Craft) -> str:
    """Return what a step of a plan makes, and from what, such as "3 iron ingot from 27 iron nugget"."""
    needed = zip(step.recipe.ingredients, step.names)
    ingredients = _listing((step.times * ingredient.count, name) for ingredient, name in needed)
    return f"{step.times * step.recipe.count} {spaced(step.recipe.output)} from {ingredients}"


def _listing(counted: Iterable[tuple[int, str]]) -> str:
    return ", ".join(f"{count} {spaced(name)}" for count, name in counted)


def _cost(steps: _Plan) -> tuple[int, int]:
    """Return what makes a plan long: the number of its actions, then that of the items it gets."""
    actions = sum(step.times if isinstance(step, _Craft) else 1 for step in steps)
    return actions, sum(step.count for step in steps if isinstance(step, _Get))
