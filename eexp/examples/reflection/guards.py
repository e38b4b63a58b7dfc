"""Guards: rules that find faults in a reflection that a model has written.

A guard is a pure function of the text and its situation that returns the fault in words, or None. A reflection with a
fault is drawn again. One that also shortens a text, or that has to know more, is a class derived from `Guard`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from eexp.errors import EexpError
from eexp.examples.reflection.invented_names import texts_given
from eexp.examples.reflection.situations import Situation
from eexp.examples.reflection.vocabulary import word_set
from eexp.examples.reflection.words import words
from eexp.examples.settings import GUARDS, GuardSettings

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


class Guard:
    """A guard with settings of its own, or one that shortens a text.

    Args:
        settings: Those of all guards.

    Attributes:
        cut: The fault in words of a text that it shortens.
    """

    cut = "is cut"

    def __init__(self, settings: GuardSettings):
        self.settings = settings

    def shortened(self, text: str) -> str:
        """Return the text without what is too much; all guards do so before the first looks for faults."""
        return text

    def fault(self, text: str, situation: Situation, finished: bool) -> str | None:
        """Return the fault in words, or None; a text that is not `finished` has reached the token limit."""
        return None


class FunctionGuard(Guard):
    """A guard that is one function of the text and its situation."""

    def __init__(self, settings: GuardSettings, function: Callable[[str, Situation], str | None]):
        super().__init__(settings)
        self.function = function

    def fault(self, text: str, situation: Situation, finished: bool) -> str | None:
        return self.function(text, situation)


class Repeated(Guard):
    """Cuts a text that is written twice to one copy."""

    cut = "is written twice, cut to one copy"

    def shortened(self, text: str) -> str:
        return without_copies(text)


class CutOff(Guard):
    """Finds a text that breaks off."""

    def fault(self, text: str, situation: Situation, finished: bool) -> str | None:
        return unfinished(text) if finished else "does not end within the token limit (--max-tokens)"


class Length(Guard):
    """Finds a text that is too short or too long."""

    def fault(self, text: str, situation: Situation, finished: bool) -> str | None:
        count, fewest, most = len(words(text)), self.settings.min_words, self.settings.max_words
        if count < fewest:
            return f"has {count} words, fewer than {fewest}"
        return f"has {count} words, more than {most}" if count > most else None


def open_guards(settings: GuardSettings, by_model: bool = True) -> dict[str, Guard]:
    """Return the guards of texts by a model, or by a rule, by their names in records.

    Raises:
        UsageError: There is no guard of a name.
        EexpError: One cannot be loaded.
    """
    guards: dict[str, Guard] = {}
    for name in settings.of(by_model):
        loaded = GUARDS.load(name)
        if isinstance(loaded, type) and issubclass(loaded, Guard):
            guard = GUARDS.guarded(name, loaded)(settings)
            guard.shortened, guard.fault = GUARDS.guarded(name, guard.shortened), GUARDS.guarded(name, guard.fault)
        else:
            guard = FunctionGuard(settings, loaded)
        guards[GUARDS.label(name)] = guard
    return guards


@dataclass(frozen=True)
class Verdict:
    """The judgement of the guards on a text."""

    text: str  # the text as it was shortened
    guard: str = ""  # the guard that refuses it, or ""
    fault: str = ""  # the fault in words, or ""
    cuts: tuple[tuple[str, str], ...] = ()  # the guards that shortened it, each with the fault


def judge(text: str, situation: Situation, guards: Mapping[str, Guard], finished: bool = True) -> Verdict:
    """Return the verdict on a text; an empty text is never accepted."""
    text, cuts = text.strip(), []
    for name, guard in guards.items():
        shorter = guard.shortened(text)
        if shorter != text:
            text = shorter
            cuts.append((name, guard.cut))
    if not text:
        return Verdict(text, "length", "is empty")
    for name, guard in guards.items():
        if fault := guard.fault(text, situation, finished):
            if not isinstance(fault, str):
                raise EexpError(f"guard {name}: returned {type(fault).__name__}, not a text")
            return Verdict(text, name, fault)
    return Verdict(text, cuts=tuple(cuts))
