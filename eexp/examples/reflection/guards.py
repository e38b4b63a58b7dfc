"""Guards: rules that find faults in a reflection that a model has written.

A guard is a pure function of the text and its situation that returns the fault in words, or None. A reflection with a
fault is drawn again; one that is written twice is cut to one copy instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from eexp.examples.reflection.claims import hindsight, other_action
from eexp.examples.reflection.invented_names import invented, texts_given
from eexp.examples.reflection.situations import Situation
from eexp.examples.reflection.vocabulary import word_set
from eexp.examples.reflection.words import words
from eexp.examples.settings import GuardSettings

Guard = Callable[[str, Situation], "str | None"]

# Words of the training set-up that the policy never sees when it acts (about 16 % of published reflections had some).
_LEAKS = re.compile(
    r"\b(ground[- ]truth|gold(en)? (action|step|trajectory|path|answer|label)|(correct|true) label"
    r"|reference (action|trajectory|solution)"
    r"|demonstrat(ed|ion|ions|or|ors)\b|as an ai\b|(as a|ai|large) language model"
    r"|(action|option|alternative|possibility|candidate|choice)\s*(#\s*|number\s+|no\.?\s*)?\d+\b(?!\s*(of|steps?|times?)))",
    re.IGNORECASE,
)
# "an expert cook" and "experts on chess" are people in a task; "the expert opens" is a term of the training set-up.
_EXPERT = re.compile(
    r"\b(the|this|our) expert\b(?!\s+(in|on|at|of)\b)"
    r"|\bexpert('s)? (action|agent|behaviou?r|trajectory|policy|choice|step|demonstration)"
    r"|\bexpert's\b",
    re.IGNORECASE,
)
_DANGLING = word_set(
    """a an the my your his its our their this these those and or but nor so because since as while when where which
    who whose than if to of in at for with from by into onto about between during without is are was were be been
    has have had will would can could should must may might not very more most no every each"""
)


def training_terms(text: str, situation: Situation) -> str | None:
    """Find words of the training set-up, which the policy never sees when it acts: "the expert", "option 2"."""
    source_text = " ".join(texts_given(situation)).casefold()
    for match in (*_LEAKS.finditer(text), *_EXPERT.finditer(text)):
        if match.group(0).casefold() not in source_text:
            return f"says {match.group(0)!r}"
    return None


def without_copies(text: str) -> str:
    """Return the text without further copies of itself (about 3 % of long generations are written twice)."""
    text = text.strip()
    squeezed = " ".join(text.split())
    for cut in re.finditer(r"\s+", text):
        head = text[: cut.start()]
        first = " ".join(head.split())
        if len(first) < 20:
            continue
        rest = squeezed[len(first) :].strip()
        while rest.startswith(first):
            rest = rest[len(first) :].strip()
        whole_copy = rest == "" and squeezed != first
        begun_copy = first.startswith(rest) and len(rest) > 0.8 * len(first)
        if whole_copy or begun_copy:
            return head
    return text


def unfinished(text: str) -> str | None:
    """Find a text that breaks off in the middle of a sentence."""
    last = (words(text) or [""])[-1]
    if text.rstrip()[-1:] in (",", ";", "-") or (text.rstrip()[-1:].isalnum() and last in _DANGLING):
        return f"breaks off after {text.split()[-1]!r}"
    return None


#: Guards that judge the text in its situation, in the order in which they are applied.
CONTENT_GUARDS: dict[str, Guard] = {
    "setup": training_terms,
    "hindsight": hindsight,
    "other-action": other_action,
    "invented": invented,
}


@dataclass(frozen=True)
class Verdict:
    """The judgement of the guards on a text."""

    text: str  # the text without further copies of itself
    guard: str = ""  # the guard that refuses it, or ""
    fault: str = ""  # the fault in words, or ""


def judge(text: str, situation: Situation, guards: GuardSettings, finished: bool = True) -> Verdict:
    """Return the verdict on a text; an empty text is never accepted, one that is not `finished` is cut off."""
    text = text.strip()
    if "repeated" in guards.names:
        text = without_copies(text)
    if not text:
        return Verdict(text, "length", "is empty")
    if "cut-off" in guards.names and not finished:
        return Verdict(text, "cut-off", "does not end within the token limit (--max-tokens)")
    if "cut-off" in guards.names and (fault := unfinished(text)):
        return Verdict(text, "cut-off", fault)
    if "length" in guards.names and (fault := _wrong_length(text, guards)):
        return Verdict(text, "length", fault)
    for name, guard in CONTENT_GUARDS.items():
        if name in guards.names and (fault := guard(text, situation)):
            return Verdict(text, name, fault)
    return Verdict(text)


def _wrong_length(text: str, guards: GuardSettings) -> str | None:
    """Find a text that is too short or too long."""
    count = len(words(text))
    if count < guards.min_words:
        return f"has {count} words, fewer than {guards.min_words}"
    return f"has {count} words, more than {guards.max_words}" if count > guards.max_words else None
