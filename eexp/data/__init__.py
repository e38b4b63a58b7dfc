"""Data that comes with eexp: built-in models, recipes of TextCraft, classes for ScienceWorld.

Nothing comes in: recipes/tiny and recipes/scienceworld made these files, and TextCraft's recipes are Minecraft's. What
goes out are their names and places, for the rooms that read them. What must hold: they are in the wheel, and none is
written to.
"""

#: The spec of the built-in model that is the default, and the name of its directory here: a base model for `house`.
TINY = "tiny"
#: The built-in models and what they are for. recipes/tiny made them.
BUILT_IN = {
    TINY: "a base model for house only",
    "tiny-reader": "a base model for house that has seen no action's outcome",
    "tiny-reactions": "a base model for reactions only",
}
