"""Data that comes with eexp: the built-in model, recipes of TextCraft, classes for ScienceWorld."""

#: The spec of the built-in model, and the name of its directory here: a base model for `house` and nothing else.
TINY = "tiny"
