"""Words of a text, and the things that it names: what rules about language need."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Words that may follow an article without naming a thing, and that end a noun phrase.
FUNCTION_WORDS = _set(
    """a an the this that these those my your his her its our their some any each every all both no none
    and or but nor so yet if then than as because while when where who whom whose which what how why whether
    of in on at by to from with without into onto under over above below behind beside between near next inside outside
    out off up down through across along around after before until since for about against during via per like
    i me you he she it we they them us myself yourself itself there here one ones
    is are was were be been being am do does did done has have had having will would shall should can could may might
    must not only also just still already even again now soon later first last never always"""
)

#: Nouns that say how much of a thing there is, or that stand for something named elsewhere.
VAGUE_NOUNS = _set(
    """task goal thing things object objects item items place places way step steps time one kind kinds sort type
    types piece pieces pair set list number amount part parts rest lot bit following right left same other others
    first second third last next end beginning one two three four five"""
)


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return [word.casefold() for word in _WORD.findall(text)]


def stem(word: str) -> str:
    """Return a word without the ending of a plural or of a possessive, so that "apples" and "apple" are the same."""
    word = re.sub(r"['\u2019]s?$", "", word)
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        return word[:-2]
    if len(word) > 4 and word.endswith("ves"):
        return word[:-3] + "f"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def stems(texts: Iterable[str]) -> set[str]:
    """Return the stems of all words of some texts."""
    return {stem(word) for text in texts for word in words(text)}


def things(text: str) -> list[str]:
    """Return the nouns after articles, each once, in order: "Put the hot egg in a box." gives egg and box."""
    found: dict[str, None] = {}
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
                found.setdefault(phrase[-1])
    return list(found)
