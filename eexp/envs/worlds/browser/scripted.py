"""Demonstrations by hand: actions that name elements by role and name, such as `click link "Trees"`.

An element is named by its role and its name, or its role and what it is called in the page's source (`textbox #q`,
`textbox name=q`). `(2)` after it takes the second of several.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches

from eexp.envs.worlds.browser.lines import Line, quoted, unquoted

_STRING = r'"(?:[^"\\]|\\.)*"'
_ELEMENT = re.compile(
    rf"(?P<verb>click|hover|type|select) (?P<role>[a-z]+)(?: (?P<name>{_STRING})| (?P<source>(?:[#.]|name=)[^\s\"]+))?"
    rf"(?: \((?P<nth>[1-9]\d*)\))?(?: -> (?P<text>{_STRING}))?"
)
_OTHER = re.compile(r"key [A-Z_]+|wait|go back|scroll (?:down|up)|open /.*|stop(?: \[.*\])?", re.DOTALL)


@dataclass(frozen=True)
class ScriptedAction:
    """One action of a demonstration."""

    verb: str = ""  # click, hover, type or select; empty for an action that names no element
    role: str = ""
    name: str | None = None
    source: str | None = None
    nth: int = 1
    text: str | None = None  # what is typed or selected
    other: str = ""  # the whole action, where it names no element

    @classmethod
    def of(cls, line: str) -> ScriptedAction:
        """Return the action that a line describes. Raises ValueError if it is none."""
        if _OTHER.fullmatch(line):
            return cls(other=line)
        match = _ELEMENT.fullmatch(line)
        if not match or (match["verb"] in ("type", "select")) != (match["text"] is not None):
            raise ValueError(
                f'expected an action such as click link "NAME", type textbox "NAME" -> "TEXT" or stop [], got {line!r}'
            )
        name, text = (None if match[key] is None else unquoted(match[key]) for key in ("name", "text"))
        return cls(match["verb"], match["role"], name, match["source"], int(match["nth"] or 1), text)

    def on(self, lines: list[Line]) -> str | None:
        """Return the action by the number of its element on a page; None where the page has no such element."""
        if self.other:
            return self.other
        found = [line for line in lines if line.id is not None and self._names(line)]
        if len(found) < self.nth:
            return None
        action = f"{self.verb} [{found[self.nth - 1].id}]"
        return action if self.text is None else f"{action} {quoted(self.text)}"

    @classmethod
    def naming(cls, verb: str, line: Line, lines: list[Line], text: str | None = None) -> ScriptedAction:
        """Return the action with which `on` finds an element on a page.

        Args:
            verb: click, hover, type or select.
            line: The element, which is one of `lines`.
            text: What is typed or selected.
        """
        name, source = line.name or None, None if line.name or not line.source else line.source
        action = cls(verb, str(line.role), name, source, 1, text)
        alike = [one.id for one in lines if one.id is not None and action._names(one)]
        return replace(action, nth=alike.index(line.id) + 1)

    def __str__(self) -> str:
        """Return the line that describes the action."""
        if self.other:
            return self.other
        name = "" if self.name is None else f" {quoted(self.name)}"
        name = f" {self.source}" if self.source else name
        text = "" if self.text is None else f" -> {quoted(self.text)}"
        return f"{self.verb} {self.role}{name}{f' ({self.nth})' if self.nth > 1 else ''}{text}"

    def nearest(self, lines: list[Line]) -> str:
        """Return the elements of a page that are most like one that it does not have, in words."""
        elements = [line for line in lines if line.id is not None and line.role]
        names = dict.fromkeys(str(self.naming(self.verb, line, lines, self.text)) for line in elements)
        close = get_close_matches(str(self), names, n=3, cutoff=0.5)
        return f"nearest: {', '.join(name[:100] for name in close)}" if close else "nothing there is like it"

    def _names(self, line: Line) -> bool:
        if line.role != self.role:
            return False
        if self.name is not None:
            return line.name == self.name
        return self.source is None or line.source == self.source
