"""The TOML file of a prompt style: how it is written, and which of its answers would not be read back."""

from __future__ import annotations

import re

import orjson

from eexp.prompts.style import PromptStyle
from eexp.system.terminal import HIDDEN

_THOUGHT, _ACTION = "It is closed.", "open the door: now"  # an answer with characters that marks may consist of


def unreadable_answers(style: PromptStyle) -> list[str]:
    """Return the answers that a style writes and cannot read back, in words."""
    faults = []
    for thought in ("", _THOUGHT):
        answer = style.answer(_ACTION, thought)
        parsed = style.parse(answer.text)  # the action is no call, which chat templates write
        if (parsed.action, parsed.thought) != (_ACTION, thought):
            faults.append(f"{answer.text!r} is read back as action {parsed.action!r} and thought {parsed.thought!r}")
        cut = style.parse(answer.text[: -len(style.action.close) - 1], finished=False)
        if not cut.cut_off:
            faults.append(f"{answer.text!r}, cut before its end, is read as the action {cut.action!r}")
    return faults


def marks_not_read(style: PromptStyle) -> list[str]:
    """Return the tags that the system text of acting asks for and that no answer is read by, in words."""
    marks = " ".join((style.action.open, style.action.close, style.thought.open, style.thought.close))
    asked = dict.fromkeys(re.findall(r"</\w+>", style.acting.system))
    if style.action.calls:
        return []
    action = f"{style.action.open.strip()!r}" + (f" to {close!r}" if (close := style.action.close.strip()) else "")
    return [
        f"$.act.system: asks for {tag}, which is not read; actions are read from {action} and thoughts from "
        f"{style.thought.open.strip()!r}"
        for tag in asked
        if tag not in marks
    ]


def marks_not_shown(style: PromptStyle) -> list[str]:
    """Return the marks that answers are read by and that no text of acting shows, in words."""
    if style.action.calls or style.examples:  # examples are written with the marks
        return []
    texts = " ".join((style.acting.system, style.thought.ask, style.thought.ask_not))
    return [
        f"no text shows the mark {mark!r} of {what}: only a model that was trained with this style can know it"
        for what, mark in (("an action", style.action.open.strip()), ("a thought", style.thought.open.strip()))
        if mark not in texts
    ]


def toml_of(style: PromptStyle) -> str:
    """Return the text of a style's TOML file, with all defaults."""
    return _toml(style.as_dict())


def _toml(table: dict, prefix: str = "") -> str:
    """Return a table as TOML: strings, whole numbers, true and false, tables, and lists of tables; None is left out.

    Characters that a terminal would obey are written as escapes of TOML.
    """

    def literal(value: object) -> str:
        return HIDDEN.sub(lambda match: f"\\U{ord(match[0]):08x}", orjson.dumps(value).decode())

    plain = [
        f"{key} = {literal(value)}"
        for key, value in table.items()
        if value is not None and not isinstance(value, (dict, list, tuple))
    ]
    text = "".join(f"{line}\n" for line in plain)
    for key, value in table.items():
        if isinstance(value, dict):
            text += f"\n[{prefix}{key}]\n{_toml(value, f'{prefix}{key}.')}"
        elif isinstance(value, (list, tuple)):
            text += "".join(f"\n[[{prefix}{key}]]\n{_toml(entry)}" for entry in value)
    return text
