"""A page in words, line by line, and the actions on it, such as `click [12]` and `type [3] "text"`.

The lines are made in the page (page.js): the visible elements in document order, with roles as in an accessibility
tree, names, values and states. Elements that can be acted on have a number. An element keeps its number as long as it
is on the page; new ones get the next numbers, in document order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

WAIT = "wait"

#: The keys that may be pressed by themselves, as parameters of the protocol's Input.dispatchKeyEvent.
KEYS = {
    name: {"key": key, "code": code, "windowsVirtualKeyCode": number, **({"text": text} if text else {})}
    for name, key, code, number, text in (
        ("ENTER", "Enter", "Enter", 13, "\r"),
        ("TAB", "Tab", "Tab", 9, ""),
        ("ESCAPE", "Escape", "Escape", 27, ""),
        ("SPACE", " ", "Space", 32, " "),
        ("BACKSPACE", "Backspace", "Backspace", 8, ""),
        ("DELETE", "Delete", "Delete", 46, ""),
        ("HOME", "Home", "Home", 36, ""),
        ("END", "End", "End", 35, ""),
        ("PAGE_UP", "PageUp", "PageUp", 33, ""),
        ("PAGE_DOWN", "PageDown", "PageDown", 34, ""),
        ("ARROW_LEFT", "ArrowLeft", "ArrowLeft", 37, ""),
        ("ARROW_UP", "ArrowUp", "ArrowUp", 38, ""),
        ("ARROW_RIGHT", "ArrowRight", "ArrowRight", 39, ""),
        ("ARROW_DOWN", "ArrowDown", "ArrowDown", 40, ""),
    )
}
SELECT_ALL = {"key": "a", "code": "KeyA", "windowsVirtualKeyCode": 65, "modifiers": 2, "commands": ["selectAll"]}

#: The keys that are listed as admissible where an element with a role has the focus.
_KEYS_OF = {
    "textbox": ("ENTER", "TAB"),
    "spinbutton": ("ENTER", "TAB", "ARROW_UP", "ARROW_DOWN"),
    "combobox": ("TAB", "ARROW_UP", "ARROW_DOWN"),
    "slider": ("ARROW_LEFT", "ARROW_RIGHT", "HOME", "END"),
    "clickable": ("ENTER", "TAB", "ARROW_LEFT", "ARROW_RIGHT", "HOME", "END"),
}

_ACTION = re.compile(
    r"(?P<mouse>click|hover) \[(?P<at>\d{1,9})\]"
    r"|(?P<verb>type|select) \[(?P<id>\d{1,9})\] (?P<text>\".*\")"
    r"|key (?P<key>[A-Z_]+)"
    r"|(?P<wait>wait)",
    re.DOTALL,
)
USAGE = 'Actions are: click [ID], hover [ID], type [ID] "TEXT", select [ID] "OPTION", key NAME, wait.'


_PHRASE = re.compile(r'"([^"]+)"')


class Refused(Exception):
    """Error for an action that the page does not allow; the message says why."""


@dataclass(frozen=True)
class Line:
    """One line of a page: a text, or an element."""

    depth: int  # how deep it lies in the elements that have lines
    text: str = ""  # the text of a line that is no element
    role: str | None = None  # the element's role, such as button; None for a text
    name: str = ""  # its accessible name
    id: int | None = None  # its number, by which actions name it; None where it cannot be acted on
    value: str | None = None  # what a field holds
    states: tuple[str, ...] = ()  # such as checked, focused
    options: tuple[str, ...] | None = None  # of a list of choices
    selected: tuple[bool, ...] | None = None  # whether each of the options is chosen, for a list where several may be
    source: str = ""  # what an element without a name is called in the page's source: `#id`, `name=...` or `.class`
    shape: str = ""  # of something that is drawn
    color: str = ""
    size: str = ""
    place: str = ""  # where its middle is in the drawing
    kind: str | None = None  # the type of an input field that is filled all at once, such as date
    clickable: bool = False
    editable: bool = False  # whether it can be typed into
    range: bool = False  # whether it is filled with one of a range of values

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Line:
        """Return the line for what page.js says of it."""
        values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in fields.items()}
        return cls(**{**values, "source": word(values.get("source", ""))})

    @property
    def fills(self) -> bool:
        """Whether it takes a value all at once and not key by key."""
        return self.kind is not None or self.range

    def render(self) -> str:
        """Return the line as the agent reads it."""
        return "  " * self.depth + (f"text {quoted(self.text)}" if self.role is None else self._element())

    def _element(self) -> str:
        parts = [f"[{self.id}] {self.role}" if self.id is not None else str(self.role)]
        if self.kind:
            parts[0] += f" ({self.kind})"
        if self.name:
            parts.append(quoted(self.name))
        elif self.source:
            parts.append(self.source)
        text = " ".join(parts)
        text += "".join(f", {part}" for part in (self.shape, self.color, self.size) if part)
        text += f" at ({self.place})" if self.place else ""
        if self.value is not None:
            text += f" = {quoted(self.value)}"
        if self.options is not None:
            text += " of " + ", ".join(self._options())
        return text + "".join(f", {state}" for state in self.states)

    def _options(self) -> Iterator[str]:
        for i, option in enumerate(self.options or ()):
            yield quoted(option) + (" (chosen)" if self.selected and self.selected[i] else "")


# -- what a page says, cleaned ---------------------------------------------------------------------------------------
# Every text of a page comes to the agent through one of these three, so that none can look like a line, an element or a
# cell that the page does not have.

#: Control characters, line ends, and halves of characters, which UTF-8 cannot write.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def quoted(text: str) -> str:
    """Return a text in quotation marks, on one line. `unquoted` gives the text again."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))


def one_line(text: str) -> str:
    """Return a text without quotation marks on one line, with a blank for every run of blanks."""
    return " ".join(_CONTROLS.sub(" ", text).split())


def word(text: str) -> str:
    """Return a text as one word: with `_` for every run of blanks, quotation marks and characters that do not show."""
    return re.sub(" +", "_", "".join(" " if c == '"' or not c.isprintable() else c for c in text))


@dataclass
class View:
    """What a page shows at one time."""

    lines: list[Line] = field(default_factory=list)
    waiting: bool = False  # whether something on it happens by itself later

    @classmethod
    def of(cls, answer: dict[str, Any]) -> View:
        """Return the view that page.js describes."""
        return cls([Line.of(fields) for fields in answer["lines"]], answer["waiting"])

    def render(self) -> str:
        """Return the page as the agent reads it."""
        return "\n".join(line.render() for line in self.lines) or "The page is empty."

    def line(self, number: int) -> Line:
        """Return the element with a number. Raises Refused if there is none."""
        for line in self.lines:
            if line.id == number:
                return line
        raise Refused(f"There is no [{number}] on the page.")

    def admissible(self, texts: Iterable[str]) -> list[str]:
        """Return actions that the page accepts, sorted: all clicks and choices, and these texts for typing."""
        texts, actions = list(texts), set()
        for line in self.lines:
            if line.clickable:
                actions.add(f"click [{line.id}]")
            if line.role == "menuitem" and line.clickable:
                actions.add(f"hover [{line.id}]")
            if line.id is not None:
                actions |= {f"select [{line.id}] {quoted(option)}" for option in line.options or ()}
            if line.editable and not line.fills:
                actions |= {f"type [{line.id}] {quoted(text)}" for text in texts}
            if "focused" in line.states:
                actions |= {f"key {key}" for key in _KEYS_OF.get(str(line.role), ())}
        if self.waiting:
            actions.add(WAIT)
        return sorted(actions, key=_order)


def _order(action: str) -> tuple:
    match = re.match(r"(\w+) \[(\d+)\]", action)
    return (match[1], int(match[2]), action) if match else (action, 0, action)


@dataclass(frozen=True)
class PageAction:
    """An action as it was read."""

    verb: str  # click, hover, type, select, key or wait
    line: Line | None = None  # the element that it names; None for key and wait
    text: str = ""  # what to type, the option to select, or the key's name
    option: int = -1  # the number of the option to select


def parse(action: str, view: View) -> PageAction:
    """Return an action on a page. Raises Refused if it is none, or one that the page does not allow."""
    match = _ACTION.fullmatch(action.strip())
    if not match:
        raise Refused(f"That is not an action. {USAGE}")
    if match["wait"]:
        return PageAction(WAIT)
    if key := match["key"]:
        if key not in KEYS:
            raise Refused(f"There is no key {key}. Keys are: {', '.join(KEYS)}.")
        return PageAction("key", text=key)
    if match["mouse"]:
        line = view.line(int(match["at"]))
        if match["mouse"] == "click" and not line.clickable:
            raise Refused(f'[{line.id}] is a list of choices: use select [{line.id}] "OPTION".')
        return PageAction(match["mouse"], line)
    line, text = view.line(int(match["id"])), unquoted(match["text"])
    if match["verb"] == "type":
        if not (line.editable or line.fills):
            raise Refused(f"[{line.id}] is no field to type into.")
        return PageAction("type", line, text)
    if line.options is None:
        raise Refused(f"[{line.id}] is no list of choices.")
    if text not in line.options:
        raise Refused(f"[{line.id}] has no option {quoted(text)}.")
    return PageAction("select", line, text, line.options.index(text))


def unquoted(text: str) -> str:
    """Return what is between quotation marks, with its escapes read where they make sense."""
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError:
        return text[1:-1]


def keys_of(text: str) -> list[dict]:
    """Return the keys that type a text, as parameters of Input.dispatchKeyEvent."""
    return [KEYS["ENTER"] if character == "\n" else _key_of(character) for character in text]


def _key_of(character: str) -> dict:
    upper = character.upper()
    code = ord(upper) if len(upper) == 1 and (upper.isascii() and upper.isalnum()) else 32 if character == " " else 0
    return {"key": character, "text": character, "windowsVirtualKeyCode": code}


def texts_of(instruction: str) -> list[str]:
    """Return what an instruction may want to be typed: its quoted phrases, else its words with capitals or digits."""
    phrases = _PHRASE.findall(instruction)
    if not phrases:
        words = [word.strip(".,:;!?()") for word in instruction.split()[1:]]
        phrases = [word for word in words if re.search(r"[A-Z0-9]", word)]
    return list(dict.fromkeys(phrases))[:8]
