"""Compose reflections by rule: from the recorded outcomes, or from the environment's notes on a state.

A composed reflection claims nothing that the record does not support, and words every outcome as an expectation. It
stands in for the text of a capable model, and is short: in a small model, the loss of a long thought outweighs that of
the few tokens of the action.
"""

from __future__ import annotations

import re
from collections import defaultdict

from eexp.errors import InputError
from eexp.examples.reflection.base import FunctionRule
from eexp.examples.reflection.situations import Situation
from eexp.examples.reflection.vocabulary import FUNCTION_WORDS
from eexp.examples.reflection.words import roots, things, words
from eexp.examples.settings import ReflectSettings
from eexp.records.equality import action_form
from eexp.records.record import succeeded

_GIST_WORDS = 14
_PLAIN = re.compile(r"[a-z][\w'-]*( [\w'-]+)+")
#: Up to the end of a sentence, a colon or the end of a line; what stands in quotation marks has no end of a clause.
_FIRST_CLAUSE = re.compile(r'(?:"(?:[^"\\\n]|\\.)*"|[^\n])*?(?=(?<=[.!?])\s|\n|:(?!\S)|$)')


def compose(situation: Situation, weigh: int = 1) -> str:
    """Compose a reflection from the outcomes: its contenders, the use of the action for the task, the choice.

    The contenders stand first, so that the choice follows what speaks for it. Small models tend to take the action that
    was named last.

    Args:
        weigh: The largest number of contenders to weigh.

    Returns:
        "" where the record supports neither a use of the action nor a reason against a contender.
    """
    focus = _focus(situation)
    facts = [fact for fact in (*_weighed(situation, focus, weigh), _use(situation, focus)) if fact]
    return " ".join([*facts, _choice(situation)]) if facts else ""


def compose_from_notes(situation: Situation, weigh: int = 1) -> str:
    """Compose a reflection from the environment's notes on the state: the contenders, the notes, the choice.

    Raises:
        InputError: The state has no notes.
    """
    notes = " ".join((situation.step.get("notes") or "").split())
    if not notes:
        raise InputError(
            "no notes on the state: run `eexp rollout` again, with an environment that offers `explain`",
            f"$.steps[{situation.i}].notes",
        )
    return " ".join([*_weighed(situation, _focus(situation), weigh), notes, _choice(situation)])


def without_notes(situation: Situation) -> str:
    """Return why a state without notes is left out; "" if it has notes or if its whole trajectory has none."""
    has_notes = [bool((step.get("notes") or "").strip()) for step in situation.trajectory["steps"]]
    return "state[s] without notes" if any(has_notes) and not has_notes[situation.i] else ""


def by_outcome(situation: Situation, settings: ReflectSettings) -> str:
    """Compose a reflection from the outcomes (--rationale outcome)."""
    return compose(situation, settings.weigh)


class ByNotes(FunctionRule):
    """Reflections that start from the environment's notes (--rationale environment)."""

    def __init__(self, settings: ReflectSettings):
        super().__init__(settings, lambda situation, settings: compose_from_notes(situation, settings.weigh))

    def left_out(self, situation: Situation) -> str:
        return without_notes(situation)


def _focus(situation: Situation) -> list[str]:
    """Return the things in the task that the action names."""
    named = roots([situation.step["action"]])
    return [thing for thing in things(situation.trajectory["instruction"]) if roots([thing]) <= named]


def _use(situation: Situation, focus: list[str]) -> str:
    """Return a sentence on the use of the action for the task; "" where the record supports none."""
    action, outcome = situation.step["action"], situation.outcome or {}
    founded = not _is_guess(situation)
    if succeeded(outcome) and founded and (focus or not things(situation.trajectory["instruction"])):
        return f"To {as_verb(action)} would complete the task."
    if focus:
        return f"The task is about {_listed(focus, ' and ')}, and I can {as_verb(action)}."
    shown = roots([*(step["observation"] for step in situation.history), situation.step["observation"]])
    later = roots(_seen_later(situation))  # what never comes is no thing of this world: "the rules" of a game
    unseen = [t for t in things(situation.trajectory["instruction"]) if roots([t]) & later and not roots([t]) & shown]
    if unseen:
        return f"I have not come across {_listed(unseen)} yet."
    expected = gist(outcome) if outcome else ""
    new = founded and _says_more(expected, action) and expected != gist(situation.step)
    mark = "`" if '"' in expected else '"'
    return f"If I {as_verb(action)}, I expect {mark}{expected}{mark}." if new else ""


def _is_guess(situation: Situation) -> bool:
    """Return whether the action has a word that nothing before it contains, so that its outcome cannot be expected.

    Its first word, the verb, and function words do not count.
    """
    step = situation.step
    shown = [situation.trajectory["instruction"], step["observation"], step.get("notes") or ""]
    shown += step.get("admissible") or []
    for past in situation.history:
        shown += [past["observation"], past["action"]]
    named = roots(word for word in words(step["action"])[1:] if word not in FUNCTION_WORDS)
    return not named <= roots(shown)


def _seen_later(situation: Situation) -> list[str]:
    """Return what is observed after the state, on the path and after executed alternatives."""
    steps = situation.trajectory["steps"]
    alternatives = [a for step in steps for a in step.get("alternatives") or []]
    ends = [situation.trajectory.get("outcome"), *(alternative.get("outcome") for alternative in alternatives)]
    return [
        *(step["observation"] for step in steps[situation.i + 1 :]),
        *(outcome["observation"] for outcome in ends if outcome),
    ]


def _weighed(situation: Situation, focus: list[str], most: int) -> list[str]:
    """Return sentences on contenders, each with the reason that its outcome gives; those without one are not named."""
    observations = {step["observation"] for step in situation.history} - _said_of_many(situation)
    reasons = [(a["action"], _reason(a, focus, observations)) for a in situation.real_contenders]
    return [f"I could {as_verb(action)}, but {reason}." for action, reason in reasons if reason][:most]


def _choice(situation: Situation) -> str:
    return f"So I {as_verb(situation.step['action'])}."


def _said_of_many(situation: Situation) -> set[str]:
    """Return what several actions of the state led to, which does not tell states apart, as "Too low." does not."""
    led_to: dict[str, set[str]] = defaultdict(set)
    form = action_form(situation.trajectory)
    for alternative in situation.step.get("alternatives") or []:
        if alternative.get("outcome"):
            led_to[alternative["outcome"]["observation"]].add(form(alternative["action"]))
    return {observation for observation, actions in led_to.items() if len(actions) > 1}


def _reason(alternative: dict, focus: list[str], observations: set[str]) -> str:
    """Return the reason against a contender that its outcome supports; "" where there is none.

    Args:
        focus: The things in the task that the expert's action names.
        observations: The earlier observations that tell states apart.
    """
    outcome = alternative["outcome"]
    if outcome.get("done"):
        return "that would end it without success"
    if focus and not roots(focus) & roots([alternative["action"], outcome["observation"]]):
        return f"that does nothing with {_listed(focus)}"
    return "that would show me nothing new" if outcome["observation"] in observations else ""


def as_verb(action: str) -> str:
    """Return an action so that it can follow "I" or "to": plain words as they are, other text quoted after "do"."""
    action = " ".join(action.split())
    return action if _PLAIN.fullmatch(action) else f"do `{action}`"


def gist(outcome: dict) -> str:
    """Return the first clause of an outcome's observation, or a step's, up to the first part marked as unknown."""
    text = outcome["observation"]
    start = min((part[0] for part in outcome.get("unknown") or []), default=len(text))
    first = _FIRST_CLAUSE.match(text[:start].strip())
    assert first  # an empty clause matches, too
    clause = " ".join(first[0].split()).rstrip(".!?:, ")
    cut = clause.split()[:_GIST_WORDS]
    return " ".join(cut) + ("..." if len(cut) < len(clause.split()) else "")


def _says_more(expected: str, action: str) -> bool:
    """Return whether an expectation has a word that its action does not have."""
    return bool(roots(word for word in words(expected) if word not in FUNCTION_WORDS) - roots([action]))


def _listed(names: list[str], between: str = " or ") -> str:
    """Return at most two names with articles, joined."""
    return between.join(f"the {name}" for name in names[:2])
