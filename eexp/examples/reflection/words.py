"""Split a text into sentences, words and roots of words, and find the nouns in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from eexp.examples.reflection.vocabulary import FUNCTION_WORDS, IRREGULAR, VAGUE_NOUNS

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]?\s+|\n+")
_ENDING = re.compile(r"(?<=[^\W\d]{2})(ings?|ed|e?s|e)$")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return [word.casefold() for word in _WORD.findall(text)]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part and part.strip()]


@lru_cache(maxsize=65536)
def root(word: str) -> str:
    """Return the root that the forms of a word share: "taking", "took" and "takes" all give "tak"."""
    word = re.sub(r"['\u2019](s|d|ll|ve|re)?$", "", word.casefold())
    word = IRREGULAR.get(word, word)
    if word.endswith(("ies", "ied")) and len(word) > 4:
        word = word[:-3] + "y"
    if not word.endswith(("ss", "us", "is", "eed")) or word.endswith("sses"):
        word = _ENDING.sub("", word)
    word = re.sub(r"([^\W\d])\1$", r"\1", word)
    return word[:-1] + "f" if word.endswith("v") else word  # knives, knife


def roots(texts: Iterable[str]) -> set[str]:
    """Return the roots of all words of some texts."""
    return {root(word) for text in texts for word in words(text)}


def things(text: str) -> list[str]:
    """Return the nouns after articles, each once, in order: "Put the hot egg in a box." gives egg and box."""
    nouns: dict[str, None] = {}
    for clause in re.split(r"[.,;:!?()\n]", text):
        tokens = words(clause)
        for at, token in enumerate(tokens):
            if token not in ("the", "a", "an"):
                continue
            phrase = []
            for word in tokens[at + 1 : at + 5]:
                if word in FUNCTION_WORDS or word.isdigit():
                    break
                phrase.append(word)
            if phrase and phrase[-1] not in VAGUE_NOUNS:
                nouns.setdefault(phrase[-1])
    return list(nouns)
