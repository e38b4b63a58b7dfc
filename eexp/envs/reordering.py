"""The parts of a text in another order, for texts of any environment.

Three kinds of parts change places: lines, sentences of a line, and items of a list in a sentence. What a text begins
with stays where it is, since it answers the action: its first line, and the first sentence of a line. So do headings (a
line that ends with a colon, and what comes before the items of a list), empty lines, and the last item of a list that
begins with "and" or "or". Lines that are indented move with the line above them. A sentence with brackets or quotation
marks keeps its commas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from eexp.envs.pieces import Part, Piece

Key = Callable[[str], int]  # a text's place among others

_LINE = re.compile(r"[^\n]*")
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])[ \t]+(?=[^\W\d_a-z])")
_COMMA = re.compile(r",[ \t]+")
_HEAD = re.compile(r".*?(?::|\bsees?)[ \t]+", re.IGNORECASE)
_BRACKETS = re.compile(r"[()\[\]{}<>\"“”`]")
_LAST_ITEM = re.compile(r"(?:and|or)\b", re.IGNORECASE)
_END = re.compile(r"[.!?;]*[ \t]*$")


def reordered(text: str, key: Key) -> list[Piece]:
    """Return pieces that make up the whole text, in another order.

    Args:
        text: The text.
        key: A number for the beginning of a part, and one for a whole part. The parts stand in the order of both.
    """
    lines = [match.span() for match in _LINE.finditer(text) if match.start() == 0 or text[match.start() - 1] == "\n"]
    slots = [lines[0], *_lines(text, lines[1:], key)]
    pieces: list[Piece] = []
    for i, line in enumerate(slots):
        pieces += _sentences(text, line, key)
        if i + 1 < len(lines):
            pieces.append(Piece(lines[i][1], lines[i + 1][0]))
    return pieces


def _lines(text: str, lines: Sequence[Part], key: Key) -> list[Part]:
    """Return lines in their new order, each with the lines below it that are indented more."""
    result: list[Part] = []
    run: list[list[Part]] = []  # lines that may change places, each with its own
    i = 0
    while i < len(lines):
        end = i + 1
        while _indent(text, lines[i]) >= 0 and end < len(lines) and _indent(text, lines[end]) > _indent(text, lines[i]):
            end += 1
        item = [lines[i], *_lines(text, lines[i + 1 : end], key)]
        content = text[slice(*lines[i])].strip()
        if content and not content.endswith(":"):
            run.append(item)
        else:
            result += _flat(_in_order(text, run, key))
            result += item
            run = []
        i = end
    return result + _flat(_in_order(text, run, key))


def _indent(text: str, line: Part) -> int:
    """Return the number of blanks that a line begins with; -1 for an empty one."""
    content = text[slice(*line)]
    return len(content) - len(content.lstrip()) if content.strip() else -1


def _flat(items: list[list[Part]]) -> list[Part]:
    return [line for item in items for line in item]


def _in_order(text: str, items: list[list[Part]], key: Key) -> list[list[Part]]:
    return sorted(items, key=lambda item: _place(text[slice(*item[0])], key))


def _place(part: str, key: Key) -> tuple[int, int]:
    """Return a part's place: by its first word, so that it keeps its place while the rest changes, and by the rest."""
    words = part.split(maxsplit=1)
    return key(words[0] if words else ""), key(part)


def _sentences(text: str, line: Part, key: Key) -> list[Piece]:
    """Return the pieces of a line, its sentences in their new order."""
    start, end = line
    gaps = [match.span() for match in _BETWEEN_SENTENCES.finditer(text, start, end)]
    sentences = list(zip([start, *(b for _, b in gaps)], [*(a for a, _ in gaps), end]))
    first, *rest = sentences
    pieces = _items(text, first, key)
    for gap, sentence in zip(gaps, sorted(rest, key=lambda part: _place(text[slice(*part)], key))):
        pieces += [Piece(*gap), *_items(text, sentence, key)]
    return pieces


def _items(text: str, sentence: Part, key: Key) -> list[Piece]:
    """Return the pieces of a sentence, the items of its list in their new order."""
    start, end = sentence
    content = text[start:end]
    if _BRACKETS.search(content):
        return [Piece(start, end)]
    head = _HEAD.match(text, start, end)
    begins = head.end() if head else start
    ending = _END.search(content)
    ends = start + ending.start() if ending else end
    commas = [match.span() for match in _COMMA.finditer(text, begins, ends)]
    if ends <= begins or not commas:
        return [Piece(start, end)]
    items = list(zip([begins, *(b for _, b in commas)], [*(a for a, _ in commas), ends]))
    fixed = set() if head else {0}  # without a heading, the first item may begin with the words before the list
    if _LAST_ITEM.match(text, items[-1][0]):
        fixed.add(len(items) - 1)
    movable = iter(
        sorted(
            (item for i, item in enumerate(items) if i not in fixed),
            key=lambda part: _place(text[slice(*part)], key),
        )
    )
    pieces = [Piece(start, begins)]
    for i, item in enumerate(items):
        pieces.append(Piece(*(item if i in fixed else next(movable))))
        pieces.append(Piece(*(commas[i] if i < len(commas) else (ends, end))))
    return pieces
