"""Guards: what is wrong with a reflection that a model has written, found by rule.

A guard is a pure function of the text and its situation that returns what is wrong, in words, or None. A reflection
with a fault is drawn again; one that is written twice is cut to one copy instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from eexp.contenders import Situation
from eexp.prompts.words import words

Guard = Callable[[str, Situation], "str | None"]

# Words of the training set-up that the policy never sees when it acts (about 16 % of published reflections had some).
_LEAKS = re.compile(
    r"\b(expert|demonstrat\w*|ground[- ]truth|gold (action|path)|as an ai|language model"
    r"|(action|option|alternative|possibility|candidate)\s*(#|number|no\.?)?\s*\d+)\b",
    re.IGNORECASE,
)


def setup(text: str, situation: Situation) -> str | None:
    """Find words of the training set-up, which the policy never sees when it acts: the expert, option 2."""
    found = _LEAKS.search(text)
    return f"says {found.group(0)!r}" if found else None


def once(text: str) -> str:
    """Return the text without a second copy of itself (about 3 % of long generations are written twice)."""
    text = text.strip()
    paragraphs = [p.strip() for p in text.split("\n\n") if p.strip()]
    half = len(paragraphs) // 2
    if half and paragraphs[:half] == paragraphs[half : 2 * half]:
        return "\n\n".join(paragraphs[:half])
    for cut in re.finditer(r"\s+", text):
        head, tail = text[: cut.start()], text[cut.end() :]
        if len(head) >= 20 and tail and head.startswith(tail) and len(tail) > 0.8 * len(head):
            return head
    return text


#: Guards that judge the text in its situation, in the order in which they are asked.
OF_CONTENT: dict[str, Guard] = {"setup": setup}

#: All guards, by the name that `--no-guard` knows.
NAMES = ("cut-off", "repeated", "length", *OF_CONTENT)


@dataclass(frozen=True)
class Verdict:
    """What the guards make of a text. guard: the one that refuses it, or "". text: without a second copy of itself."""

    text: str
    guard: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Guards:
    """The guards in use. min_words, max_words: what `length` accepts."""

    names: frozenset[str] = frozenset(NAMES)
    min_words: int = 5
    max_words: int = 150

    @classmethod
    def without(cls, names: Iterable[str], min_words: int = 5, max_words: int = 150) -> Guards:
        """Use all guards but these; "all" stands for every one."""
        left_out = set(NAMES) if "all" in names else set(names)
        return cls(frozenset(NAMES) - left_out, min_words, max_words)

    def judge(self, text: str, situation: Situation, finished: bool = True) -> Verdict:
        """Return what is wrong with a text; an empty text is never accepted."""
        text = text.strip()
        if "repeated" in self.names:
            text = once(text)
        if not text:
            return Verdict(text, "length", "is empty")
        if "cut-off" in self.names and not finished:
            return Verdict(text, "cut-off", "does not end within the token limit (--max-tokens)")
        if "length" in self.names and (fault := self._length(text)):
            return Verdict(text, "length", fault)
        for name, guard in OF_CONTENT.items():
            if name in self.names and (fault := guard(text, situation)):
                return Verdict(text, name, fault)
        return Verdict(text)

    def _length(self, text: str) -> str | None:
        """Find a text that is too short or too long."""
        count = len(words(text))
        if count < self.min_words:
            return f"has {count} words, fewer than {self.min_words}"
        return f"has {count} words, more than {self.max_words}" if count > self.max_words else None
