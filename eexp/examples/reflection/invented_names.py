"""Find names in a reflection that appear in none of the texts that its writer was given."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from eexp.examples.reflection.situations import Situation
from eexp.examples.reflection.vocabulary import FUNCTION_WORDS, ORDINARY, word_set
from eexp.examples.reflection.words import root, roots, sentences, words

_DETERMINERS = word_set(
    """a an the my for with your his her its our their this that these those another some any no each every either
    neither two three four five six seven eight nine ten more of"""
)
_ORDINARY = frozenset(root(word) for word in ORDINARY)
#: Endings of words for ideas, qualities and activities.
_ABSTRACT = re.compile(
    r"(tion|sion|ness|ment|ity|ance|ence|ship|ism|ing|ly|ful|less|able|ible|ive|ous|ical|ed|est|ward)s?$"
)
_TOKEN = re.compile(r"[^\W_]+(?:['\u2019._-][^\W_]+)*")
_QUOTED = re.compile(r"`([^`\n]{1,40})`|\"([^\"\n]{1,40})\"|(?<!\w)'([^'\n]{1,40})'(?!\w)")
_NUMBERED = re.compile(r"\b([^\W\d_]{3,}) (\d{1,3})\b(?![.,]\d)")
_JOINT = re.compile(r"[^\W_][._][^\W_]")
_PHRASE = 4  # number of words of a noun phrase that are examined


def texts_given(situation: Situation, outcomes: bool = True) -> list[str]:
    """Return all texts that a writer was given or, without `outcomes`, those the agent had before it acted."""
    step = situation.step
    texts = [situation.trajectory["instruction"], step["observation"], step["action"], *(step.get("admissible") or [])]
    texts += [step.get("thought") or "", step.get("notes") or ""]
    for past in situation.history:
        texts += [past["observation"], past["action"], *(past.get("admissible") or [])]
    for alternative in situation.contenders:
        texts.append(alternative["action"])
        texts += [alternative["outcome"]["observation"]] if outcomes else []
    return texts + ([situation.outcome["observation"]] if outcomes and situation.outcome else [])


def invented(text: str, situation: Situation) -> str | None:
    """Find a name that no text given to the writer contains: an object, a place, a person, an identifier.

    Names are quoted texts, capitalised words within a sentence, identifiers, numbered names ("drawer 4") and nouns:
    words after a determiner, and after the verb of an action. Ordinary words for ideas, qualities and activities are no
    names (`vocabulary.ORDINARY`).
    """
    texts = texts_given(situation)
    known = roots(texts)
    for name in (*_marked(text), *_nouns(text, _verbs(situation), known)):
        if not _known(name, known):
            return f"names {name!r}, which is nowhere in what was given"
    whole = " ".join(texts)
    numbered_nouns = {noun for noun, _ in numbered(whole)}
    for noun, number in sorted(numbered(text) - numbered(whole)):
        if noun in numbered_nouns or not _known(noun, known):
            return f"names '{noun} {number}', which is nowhere in what was given"
    return None


def numbered(text: str) -> set[tuple[str, str]]:
    """Return names with a number, such as ("drawer", "4")."""
    return {(noun.casefold(), number) for noun, number in _NUMBERED.findall(text)}


def identifiers(text: str) -> set[str]:
    """Return file names, codes and the like: words with a digit or a joint inside."""
    tokens = {token.strip("._-'") for token in _TOKEN.findall(text)}
    return {t.casefold() for t in tokens if _JOINT.search(t) or (re.search(r"\d", t) and re.search(r"[^\W\d]", t))}


def names_in(text: str) -> set[str]:
    """Return the roots of words that may name a thing in the environment."""
    return {root(word) for word in words(text) if not is_ordinary(word) and not word.isdigit() and len(word) > 2}


@lru_cache(maxsize=65536)
def is_ordinary(word: str) -> bool:
    """Return whether a word names an idea, a quality or an activity rather than a thing in an environment."""
    word = re.sub(r"['\u2019]s$", "", word.casefold())
    if root(word) in _ORDINARY:
        return True
    return len(word) > 5 and bool(_ABSTRACT.search(word)) and not word.endswith(("table", "fly", "bed", "shed"))


def _known(name: str, known: set[str]) -> bool:
    """Return whether every word of a name is ordinary or known."""
    parts = [word for word in words(name) if word not in FUNCTION_WORDS]
    return all(is_ordinary(part) or _is_among(root(part), known) for part in parts)


def _is_among(part: str, known: set[str]) -> bool:
    """Return whether a root is known, by itself or as the first or last part of a compound ("lamp" of "desklamp")."""
    return part in known or (len(part) > 3 and any(k.startswith(part) or k.endswith(part) for k in known))


def _verbs(situation: Situation) -> set[str]:
    """Return the roots of the verbs of the actions, without "look"."""
    actions = [situation.step["action"], *(situation.step.get("admissible") or [])]
    return {root(action.split()[0]) for action in actions if action[:1].isalpha() and " " in action} - {"look"}


def _marked(text: str) -> Iterable[str]:
    """Yield names marked by their spelling: quoted, capitalised in a sentence, or with digits or joints inside."""
    for groups in _QUOTED.findall(text):
        yield from (group for group in groups if group)
    for sentence in sentences(text):
        for at, match in enumerate(_TOKEN.finditer(sentence)):
            token = match.group(0)
            after_colon = sentence[: match.start()].rstrip()[-1:] in (":", '"')
            if identifiers(token) or (
                at and token[0].isupper() and token != "I" and not token.startswith("I'") and not after_colon
            ):
                yield token


def _nouns(text: str, verbs: set[str], known: set[str]) -> Iterable[str]:
    """Yield unknown words in the positions of nouns."""
    for clause in re.split(r"[.,;:!?()\"`\n]", text):
        tokens = words(clause)
        for at, token in enumerate(tokens):
            if token in _DETERMINERS or root(token) in verbs:
                yield from _head(tokens[at + 1 : at + 1 + _PHRASE], known)


def _head(phrase: list[str], known: set[str]) -> Iterable[str]:
    """Yield the noun of a noun phrase, at most one, unless the phrase has a known word."""
    head = ""
    for word in phrase:
        if word in FUNCTION_WORDS or (word.isdigit() and head):
            break
        if not is_ordinary(word) and _is_among(root(word), known):
            return
        if word.isdigit():
            continue
        if is_ordinary(word):
            if head:
                break
            continue
        if head:
            break
        head = word
    if head:
        yield head
