"""Verify reflections: one is kept if it makes the expert's action more probable to a model, and the most probable one.

The gain of a reflection is the log-probability of the expert's action after it, minus the one without a thought (as the
quality of a rationale is judged in RLPR, arXiv 2506.18254).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from eexp.errors import InputError
from eexp.models.base import Answer, Model, Score
from eexp.prompts import PromptStyle
from eexp.records import canonical
from eexp.reflection.drafts import Draft
from eexp.reflection.requests import acting_prompt

_DIGITS = 6  # of log-probabilities


def verify_drafts(written: Iterable[list[Draft]], scorer: Model, style: PromptStyle) -> Iterator[list[Draft]]:
    """Yield the drafts of each trajectory, with `gain` where they are kept and the reason where they are dropped.

    Args:
        written: The drafts of each trajectory, written.
        scorer: The policy that is to be trained, or the writer.
        style: The prompt style of the examples.
    """
    in_flight: deque[list[Draft]] = deque()  # read, and not answered yet

    def groups() -> Iterator[list[Score]]:
        for drafts in written:
            if not all(draft.skipped for draft in drafts):
                in_flight.append(drafts)
                yield [request for draft in drafts if draft.text for request in requests(draft, style)]

    for answers in scorer.answer(groups()):
        drafts = in_flight.popleft()
        pairs = iter(answers)
        for draft in drafts:
            if draft.text:
                judge(draft, next(pairs), next(pairs))
        yield drafts


def requests(draft: Draft, style: PromptStyle) -> tuple[Score, Score]:
    """Ask how probable each action is without a thought, and after the reflection."""
    situation, opening = draft.situation, style.opening("never")
    bare = [style.answer(action).text.removeprefix(opening) for action in actions(draft)]
    answers = [style.answer(action, draft.text) for action in actions(draft)]
    start = answers[0].spans[-1]["start"]
    return (
        Score(acting_prompt(style, situation, think=False), bare, opening),
        Score(
            acting_prompt(style, situation, think=True),
            [answer.text[start:] for answer in answers],
            answers[0].text[:start],
        ),
    )


def actions(draft: Draft) -> list[str]:
    """Return the expert's action, then the contenders to it."""
    own = draft.situation.step["action"]
    found = {canonical(own): own}
    for contender in draft.situation.contenders:
        found.setdefault(canonical(contender["action"]), contender["action"])
    return list(found.values())


def judge(draft: Draft, without: Answer, after: Answer) -> None:
    """Record the gain of a reflection, or why it is dropped."""
    for answer in (without, after):
        if isinstance(answer, InputError):
            draft.error = answer
            return
    before, *_ = _logprobs(without)
    own, *others = _logprobs(after)
    gain = round(own - before, _DIGITS)
    numbers = {"without": before, "after": own, "gain": gain}
    fault = "" if gain > 0 else "does not make the action more probable"
    if others and max(others) >= own:
        best = others.index(max(others))
        numbers["contender"] = {"action": actions(draft)[1 + best], "after": others[best]}
        fault = fault or "makes another action more probable"
    if fault:
        draft.drop(
            "verify", InputError(f"refused by verify: the text {fault}", evidence={**numbers, "text": draft.text})
        )
    else:
        draft.more["gain"] = gain


def _logprobs(answer: Answer) -> list[float]:
    assert not isinstance(answer, InputError)
    return [round(sample.logprob or 0.0, _DIGITS) for sample in answer]
