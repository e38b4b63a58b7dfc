"""Make eexp/data/textcraft/recipes.txt from a directory of recipe files in Minecraft's format.

    git clone --depth 1 https://github.com/WooooDyy/AgentGym
    python recipes/textcraft/make_recipes.py AgentGym/agentenv-textcraft/agentenv_textcraft/recipes \\
        > eexp/data/textcraft/recipes.txt

The order of the lines is that of the files' names. It matters: of recipes in a circle, the first are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from eexp.envs.worlds.crafting.recipes import parse_recipe, read_directory

HEADER = """\
# Recipes of Minecraft for the crafting table, as AgentGym's TextCraft has them (github.com/WooooDyy/AgentGym at
# 3ef9235, agentenv-textcraft/agentenv_textcraft/recipes). Written by recipes/textcraft/make_recipes.py; not edited by
# hand.
#
#     COUNT ITEM (KIND) = COUNT ITEM, COUNT #TAG, ...
#
# A tag stands for any item of this kind. The lines are in the order of the recipe files' names."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="the directory of recipe files")
    recipes = read_directory(parser.parse_args().directory)
    assert all(parse_recipe(recipe.line) == recipe for recipe in recipes)
    print(HEADER, *(recipe.line for recipe in recipes), sep="\n")


if __name__ == "__main__":
    main()
