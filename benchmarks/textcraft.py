"""Compare `textcraft` with AgentGym's own implementation of TextCraft, action by action.

    git clone --depth 1 https://github.com/WooooDyy/AgentGym
    PYTHONHASHSEED=0 python benchmarks/textcraft.py AgentGym/agentenv-textcraft

It needs gymnasium and about a minute. AgentGym's code is imported as it is; it draws from sets, so that its tasks
depend on the hash seed. Three comparisons:

    book        with the recipe files sorted by name: recipes, kinds, basic items, depths, and the commands of each goal
    episodes    with the same order, our tasks: every goal by the expert's and by random actions
    foreign     with the files in random orders, AgentGym's own tasks, set up here from their first observations

An observation, its reward, its end and whether the action was refused must be the same after every action. AgentGym's
code gets the action as AgentGym's client sends it. In foreign tasks, the first observation does not say which items are
basic if the goal does not need them. Differences that are about such items alone are counted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import random
import re
import sys
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from eexp.envs.worlds.crafting.recipes import NAMESPACE, spaced
from eexp.envs.worlds.textcraft import TextCraft, tidied

NONSENSE = [
    "",
    "look",
    "inventory, please",
    "Get 1 stick",
    "get stick",
    "get 1  oak log",
    "get 3 oak_log\nget 1 stick",
    "craft 1 stick",
    "craft stick using planks",
    "craft 1 using 2 using 3 stick",
    "craft using ",
]
REFUSED = re.compile("Could not |Wrong item format")


def load(directory: Path, order: Callable[[list[str]], list[str]]) -> tuple[Any, type]:
    """Return AgentGym's crafting tree, with its recipe files in an order, and its class of environments."""
    package = types.ModuleType("agentenv_textcraft")  # without __init__.py, which would import its server
    package.__path__ = [str(directory / "agentenv_textcraft")]
    sys.modules["agentenv_textcraft"] = package
    tree_module = importlib.import_module("agentenv_textcraft.crafting_tree")
    names = sorted(os.listdir(directory / "agentenv_textcraft" / "recipes"))
    with patch.object(tree_module.os, "listdir", lambda _: order(names)):
        tree = tree_module.CraftingTree(str(directory / "agentenv_textcraft"))
    return tree, importlib.import_module("agentenv_textcraft.environment").TextCraftEnv


def plain(name: str | None) -> str | None:
    return name and name.removeprefix(NAMESPACE)


def commands_of(recipes: Any) -> list[str]:
    return [recipe.recipe_str for recipe in recipes]


def compare_books(tree: Any, env: TextCraft) -> str:
    """Compare all that follows from the recipes; raise AssertionError if anything differs."""
    book = env._shared_book
    theirs = {plain(name): commands_of(recipes) for name, recipes in tree.itemid_recipes.items()}
    assert list(theirs) == list(book.by_output), "items that can be crafted"
    assert theirs == {name: [r.command for r in recipes] for name, recipes in book.by_output.items()}, "recipes"
    theirs = {plain(name): commands_of(recipes) for name, recipes in tree.tag_recipes.items()}
    assert theirs == {name: [r.command for r in recipes] for name, recipes in book.by_group.items()}, "recipes of kinds"
    assert set(map(plain, tree.itemid_set)) == book.items and set(map(plain, tree.tag_set)) == book.tags, "names"
    assert {plain(item): plain(tag) for item, tag in tree.item_id_to_tag.items()} == book.kind, "kinds"
    for name in book.by_output:
        assert tree.get_min_depth(NAMESPACE + name) == book.depth[name], f"depth of {name}"
        needed = set(commands_of(tree.traverse_recipe_tree(NAMESPACE + name)))
        assert needed == {recipe.command for recipe in book.needed(name)}, f"commands for {name}"
    return f"{len(book.by_output)} goals, {len(list(book.recipes()))} recipes"


def random_action(env: TextCraft, rng: random.Random) -> str:
    """Return an action of any kind: sensible, possible, nearly possible, or nonsense."""
    listed = env.admissible()
    names = [spaced(name) for name in sorted(env._book.items | env._book.tags)]
    command = rng.choice(env._commands)
    match rng.randrange(10):
        case 0 | 1:
            return rng.choice(listed)
        case 2:
            return command
        case 8:
            return "inventory"
        case 3:
            return f"get {rng.choice([0, 1, 2, 64, 10**12])} {rng.choice(names)}"
        case 4:
            return re.sub(r"\d+", lambda m: str(int(m[0]) + rng.choice([0, 0, 1, -1])), command)
        case 5:
            output, _, needed = command.partition(" using ")
            parts = needed.split(", ")
            rng.shuffle(parts)
            return f"{output} using {', '.join(parts)}{rng.choice(['', '.', ', ', ', 1 stick', ' please'])}"
        case 6:
            return command.replace(spaced(rng.choice(["oak", "stick", "planks", "1"])), rng.choice(names), 1)
        case 7:
            return f"craft {rng.choice(names)} using {rng.randrange(3)} {rng.choice(names)}, 1 {rng.choice(names)}"
    return rng.choice(NONSENSE)


def is_about_the_goal(env: TextCraft, action: str) -> bool:
    """Return whether an action gets or crafts something that may be needed for the goal."""
    needed = {
        env._goal,
        *(ingredient.name for recipe in env._book.needed(env._goal) for ingredient in recipe.ingredients),
    }
    match = re.match(r"(?:get|craft) (?:\d+ )?(.*?)(?: using .*)?$", tidied(action))
    return bool(match) and match[1].replace(" ", "_") in needed


def play(
    env: TextCraft, task: dict, peer: Any, rng: random.Random, straight: float, counts: Counter, foreign: bool = False
) -> None:
    """Take the same actions in both; raise AssertionError at the first difference.

    A difference in a foreign task that is not about the goal is counted, and ends the episode.
    """
    observation = env.reset(task)
    text, _ = peer.reset(commands="\n".join(env._commands), goal=NAMESPACE + env._goal)
    assert observation.text == text, "first observation"
    for _ in range(60):
        if observation.done:
            break
        action = (rng.random() < straight and env.expert()) or random_action(env, rng)
        observation = env.step(action)
        text, reward, done, _, _ = peer.step(tidied(action))
        ours = (observation.text, observation.score, observation.done, not observation.valid)
        theirs = (text, reward, done, bool(REFUSED.match(text)))
        counts["actions"] += 1
        if foreign and ours != theirs and not is_about_the_goal(env, action):
            counts["differences that are not about the goal"] += 1
            break
        assert ours == theirs, f"{task['id']}, {action!r}: {ours} here, {theirs} there"
        counts["refused"] += not observation.valid
    counts["episodes"] += 1
    counts["at the goal"] += observation.done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="AgentGym's agentenv-textcraft")
    parser.add_argument("--orders", type=int, default=10, help="random orders of the recipe files")
    parser.add_argument("--goals", type=int, default=60, help="goals to play in each of these orders")
    given = parser.parse_args()
    silent = contextlib.redirect_stdout(io.StringIO())  # AgentGym's code prints
    env, rng = TextCraft(recipes=str(given.directory / "agentenv_textcraft" / "recipes")), random.Random(0)
    tree, peer_class = load(given.directory, list)
    with silent:
        found = compare_books(tree, env)
    print("book:    ", found)
    assert TextCraft()._shared_book.by_output == env._shared_book.by_output, (
        "eexp/data/textcraft/recipes.txt is another"
    )
    counts: Counter[str] = Counter()
    peer = peer_class(tree, None, None)
    for task in (task for split in env.splits() for task in env.tasks(split) if task["id"].endswith("/0")):
        with silent:
            for straight in (1.0, 0.5, 0.0):
                play(env, task, peer, rng, straight, counts)
    print("episodes:", dict(counts))
    counts.clear()
    for seed in range(given.orders):

        def shuffled(names: list[str], seed: int = seed) -> list[str]:
            return random.Random(seed).sample(names, len(names))

        with silent:
            tree, peer_class = load(given.directory, shuffled)
            drawn = peer_class(tree, None, None)
            for number in rng.sample(range(len(tree.itemid_recipes)), given.goals):
                text, _ = drawn.reset(data_idx=number)
                task = env.task_beginning(text)
                assert task, text
                assert env.reset(task).text == text
                for straight in (1.0, 0.7):
                    play(env, task, peer_class(tree, None, None), rng, straight, counts, foreign=True)
    print("foreign: ", dict(counts))


if __name__ == "__main__":
    main()
