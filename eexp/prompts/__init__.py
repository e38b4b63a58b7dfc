"""Prompt styles by name, label or file. `style.py` defines them; `styles/` has the built-in ones.

What comes in are the states of an episode, as records have them, and the text that a policy wrote. What goes out are
chat messages, their text under a chat template, and the thought and the action in the policy's text. What must hold:
training and playing see the same words, so a style has a fingerprint that records and models carry, and a built-in
style that has changed is refused rather than used.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

import msgspec

from eexp.errors import EexpError, InputError, UsageError, short
from eexp.prompts.style import Answer, Message, Messages, ParsedAnswer, PromptStyle
from eexp.records.types import explain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DEFAULT_STYLE",
    "Answer",
    "Message",
    "Messages",
    "ParsedAnswer",
    "PromptStyle",
    "built_in_style",
    "built_in_styles",
    "get_style",
    "load_style",
    "style_from_dict",
]

_DIRECTORY = Path(__file__).parent / "styles"
DEFAULT_STYLE = "react"


def built_in_styles() -> list[str]:
    """Return the names of the built-in styles, the default first."""
    names = sorted(path.stem for path in _DIRECTORY.glob("*.toml"))
    return sorted(names, key=lambda name: name != DEFAULT_STYLE)


def load_style(path: str | os.PathLike) -> PromptStyle:
    """Read a style from a TOML file.

    Raises:
        EexpError: The file cannot be read.
        InputError: It holds no style; the error names the first place that is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as e:
        raise EexpError(f"{path}: {e.strerror or e}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text in UTF-8") from None
    try:
        return style_from_dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as e:
        raise InputError(f"{path}: not valid TOML: {e}") from None
    except InputError as e:
        raise InputError(f"{path}: {e}") from None


def style_from_dict(table: dict) -> PromptStyle:
    """Make a style of the contents of its file, or of those that a training run saved.

    Raises:
        InputError: They are no style; the error names the first place that is wrong.
    """
    try:
        style = msgspec.convert(table, PromptStyle)
    except msgspec.ValidationError as e:
        raise explain(str(e), PromptStyle) from None
    _check(style)
    return style


def _check(style: PromptStyle) -> None:
    """Raise InputError for a style whose answers could not be parsed, or whose prompts do not ask for a thought."""
    if style.action.calls:
        if style.action.open or style.action.close or style.thought.open or style.thought.absent != "omit":
            raise InputError(
                'calls = true leaves no place for marks: set open = "" here and for thoughts, whose absent is "omit"',
                "$.action",
            )
    elif style.action.open.strip() == "" or style.thought.open.strip() == "":
        table = "action" if style.action.open.strip() == "" else "thought"
        raise InputError("is blank, so that what was written could not be found again", f"$.{table}.open")
    elif style.action.open.strip() in style.thought.open + style.thought.close:
        raise InputError("holds the mark of an action", "$.thought")
    if style.thought.absent == "omit" and style.thought.ask == style.thought.ask_not:
        raise InputError(
            "the same as $.thought.ask_not, so that a prompt with a thought is one without; "
            'make them differ, or set absent = "empty"',
            "$.thought.ask",
        )
    try:
        style.history.left_out.format(n=1)
    except (KeyError, IndexError, ValueError):
        raise InputError("may hold {n} and no other braces", "$.history.left_out") from None


@cache
def _built_in(name: str) -> PromptStyle:
    return load_style(_DIRECTORY / f"{name}.toml")


def get_style(name: str) -> PromptStyle:
    """Return the style that a command line names: a name, a label (`name@fingerprint`) or a TOML file.

    Raises:
        UsageError: There is no such style.
        InputError: The fingerprint of a label is not that of the style in this version.
    """
    return load_style(name) if name.endswith(".toml") or os.sep in name else built_in_style(name)


def built_in_style(name: str) -> PromptStyle:
    """Return the built-in style of a name or a label; no file is opened that it might name.

    Labels in records and in models come from anywhere, and are looked up here.

    Raises:
        UsageError: There is no such style.
        InputError: The fingerprint of a label is not that of the style in this version.
    """
    bare, _, fingerprint = name.partition("@")
    if bare not in built_in_styles():
        raise UsageError(
            f"unknown prompt style {short(bare)}; built in: {', '.join(built_in_styles())}; or give a .toml file"
        )
    style = _built_in(bare)
    if fingerprint and fingerprint != style.fingerprint:
        raise InputError(
            f"prompt style {name} differs from the built-in {style.label}: it is that of another version, or of a file "
            f"that kept the built-in name (give a style of your own another name); training and playing would see "
            f"different words"
        )
    return style
