"""`textcraft`: TextCraft, crafting in the manner of Minecraft, in pure Python.

This is the game of ADaPT (Prasad et al. 2023, arXiv 2311.05772) as AgentGym plays it (Xi et al. 2024, arXiv 2406.04151;
its agentenv-textcraft at 3ef9235): the same recipes, the same rules, and answers in the same words. What depends on
chance there is fixed here. docs/environments/textcraft.md has these differences, the splits and the options.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import option_error, parse_step_limit
from eexp.envs.worlds.crafting.book import RecipeBook
from eexp.envs.worlds.crafting.plans import Craft, Plan, Planner, actions_of, craft_action, described_craft, listing
from eexp.envs.worlds.crafting.recipes import NAMESPACE, Recipe, parse_recipe, read_directory, spaced
from eexp.errors import EexpError, InputError
from eexp.records.record import seed_of

#: Changed whenever a task, a text or a rule changes, so that old records are not mixed with new ones.
WORLD = "textcraft-1"

RECIPES = Path(__file__).parents[2] / "data" / "textcraft" / "recipes.txt"

LISTS = {"train": 10, "dev": 1, "test": 1}  # the lists of commands of a goal, by split: each is a task

#: How to act. It has no articles: a noun after one is a thing that the task is about
#: (eexp/examples/reflection/words.py).
HOW = (
    "Actions: `get 2 oak logs`, for basic items, which no command crafts; `craft 4 oak planks using 1 oak logs`, with "
    "exactly those ingredients that commands have (oak planks, for example, in place of planks); `inventory`."
)

_COUNTED = re.compile("([0-9]{1,18}) (.*)")
_FIRST_OBSERVATION = re.compile(
    r"\s*Crafting commands:\s*(?P<commands>.*?)\s*Goal: craft (?P<goal>[^\n]+?)\.?\s*", re.S
)


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
    if not RecipeBook(recipes).by_output:
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
    """Crafting by listed commands, in pure Python. docs/environments/textcraft.md lists the options."""

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
        return _listed_task(goal, commands)

    def kind_of(self, task: dict) -> str:
        """Return the depth of the goal, such as "depth 2"."""
        goal, book = self._game(task)
        return f"depth {book.depth[goal]}"

    def reset(self, task: dict) -> Observation:
        self._goal, self._book = self._game(task)
        self._commands: list[str] = task["commands"] if "commands" in task else self._draw_commands(str(task["id"]))
        self._recipes = self._book.listed(frozenset(self._commands))
        self._inventory: dict[str, int] = {}
        self._over = False
        commands = "\n".join(self._commands)
        return self._observe(f"Crafting commands:\n{commands}\n\nGoal: craft {spaced(self._goal)}.")

    def _game(self, task: dict) -> tuple[str, RecipeBook]:
        """Return the goal of a task and the recipes that hold in it. Raises InputError if there is no such task."""
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
        before = dict(self._inventory)
        try:
            observation = self._observe(self._execute(tidied(action)))
            # A second `Got 1 log` reads like the first.
            return replace(observation, changed=True if self._inventory != before else None)
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
        return (craft_action(recipe, names) for names in product(*choices))

    def achieved(self, task: dict, actions: Sequence[str]) -> list[tuple[int, dict]]:
        """Return the task to craft what the last action crafts, with the same commands, where it is of this split."""
        world = copy(self)
        world.reset(task)
        world._goal = ""  # no action ends the episode
        if not all([world.step(action).valid for action in actions]):
            return []
        match = re.match("craft (.*) using ", tidied(actions[-1]))
        counted = match and _COUNTED.match(match[1])
        if not match:
            return []
        goal, commands = (counted[2] if counted else match[1]).replace(" ", "_"), world._commands
        split = str(task.get("split") or split_of(self._game(task)[0]))
        listed = any(recipe.output == goal for recipe in world._recipes)
        return [(0, _listed_task(goal, commands))] if listed and split_of(goal) == split else []

    def fork(self) -> TextCraft:
        fork = copy(self)
        fork._inventory = dict(self._inventory)
        return fork

    # -- the expert ----------------------------------------------------------------------------------------------

    def expert(self) -> str | None:
        """Return the first action of a plan by the listed commands, from what is in the inventory."""
        if self._over:
            return None
        actions = actions_of(self._plan())
        return actions[0] if actions else None

    def explain(self) -> str | None:
        """Return the crafts that the goal still needs, in order and with their amounts, and what is in the inventory.

        All of it follows from the listed commands and what the agent has got and crafted.
        """
        crafts = [step for step in self._plan() if isinstance(step, Craft)]
        if self._over or not crafts:
            return None
        have = listing((count, name) for name, count in self._inventory.items() if count)
        return f"Still to craft: {'; '.join(map(described_craft, crafts))}. I have {have or 'nothing'}."

    def _plan(self) -> Plan:
        return Planner(self._book, self._recipes).plan(self._goal, self._inventory)


def tidied(action: str) -> str:
    """Return an action as AgentGym's client sends it: its first line, with letters, digits, commas and blanks only."""
    line = action.strip().partition("\n")[0]
    return " ".join(re.sub("[^A-Za-z0-9, ]+", "", line).split())


def _listed_task(goal: str, commands: list[str]) -> dict:
    """Return the task to craft `goal` with these commands."""
    name = f"{goal}/listed-{seed_of(goal, *commands):016x}"
    return {"id": name, "split": split_of(goal), "goal": goal, "commands": commands, "world": WORLD}


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
