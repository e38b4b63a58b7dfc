"""Verify reflections: keep one if it makes the expert's action more probable, and more probable than all contenders.

The gain of a reflection is the log-probability of the expert's action after it, minus the one without a thought (as the
quality of a rationale is judged in RLPR, arXiv 2506.18254).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from eexp.errors import InputError
from eexp.examples.reflection.drafts import Draft
from eexp.examples.reflection.requests import acting_prompt
from eexp.models.base import Model, Sample, Samples, Score
from eexp.models.in_order import answer_in_order
from eexp.models.scoring import logprobs_of
from eexp.prompts import PromptStyle
from eexp.records.equality import action_form
from eexp.records.spans import spans_of

_DIGITS = 6  # decimals of log-probabilities


def verify_drafts(groups: Iterable[list[Draft]], scorer: Model, style: PromptStyle) -> Iterator[list[Draft]]:
    """Yield the drafts of each trajectory, with `gain` where they are kept and the reason where they are dropped.

    Args:
        scorer: The policy that is to be trained, or the writer.
    """

    def requests() -> Iterator[tuple[list[Draft], list[Score]]]:
        for drafts in groups:
            if not all(draft.skipped for draft in drafts):
                written = [draft for draft in drafts if draft.text]
                yield drafts, [request for draft in written for request in score_requests(draft, style, scorer)]

    for drafts, answers in answer_in_order(requests(), scorer):
        pairs = iter(answers)
        for draft in drafts:
            if draft.text:
                without, after = next(pairs), next(pairs)
                if style.action.calls:
                    after = _of_actions(draft, style, scorer, after)
                record_gain(draft, without, after)
        yield drafts


def score_requests(draft: Draft, style: PromptStyle, scorer: Model) -> tuple[Score, Score]:
    """Return the requests for the log-probability of each action without a thought, and after the reflection.

    Where actions are tool calls, only the chat template knows where an action begins, so that the second request is for
    thought and action together.
    """
    situation, opening = draft.situation, style.opening("never")
    if style.action.calls:
        return _calls_request(draft, style, scorer, ""), _calls_request(draft, style, scorer, draft.text)
    bare = [style.answer(action).text.removeprefix(opening) for action in compared_actions(draft)]
    answers = [style.answer(action, draft.text) for action in compared_actions(draft)]
    start = answers[0].spans[-1]["start"]
    return (
        Score(acting_prompt(style, situation, think=False), bare, opening),
        Score(
            acting_prompt(style, situation, think=True),
            [answer.text[start:] for answer in answers],
            answers[0].text[:start],
        ),
    )


def _calls_request(draft: Draft, style: PromptStyle, scorer: Model, thought: str) -> Score:
    prompt, tools = acting_prompt(style, draft.situation, think=bool(thought)), draft.situation.tools or ()
    answers = [style.answer(action, thought, draft.situation.i) for action in compared_actions(draft)]
    ids = [scorer.encode(prompt, answer.messages(), tools) for answer in answers]
    return Score(prompt, [answer.text for answer in answers], ids=ids, tools=tools)


def _of_actions(draft: Draft, style: PromptStyle, scorer: Model, samples: Samples) -> Samples:
    """Return samples of thought and action with the log-probabilities of the actions alone."""
    if isinstance(samples, InputError):
        return samples
    parts: list[Sample] = []
    for action, sample in zip(compared_actions(draft), samples):
        (message,) = style.answer(action, draft.text, draft.situation.i).messages()
        example = {"kind": "reflection", "completion": [message]}
        example["spans"] = style.answer(action, draft.text, draft.situation.i).spans
        by_span = logprobs_of(message, spans_of(example), sample, scorer)
        parts.append(replace(sample, logprob=math.fsum(by_span[-1])))
    return parts


def compared_actions(draft: Draft) -> list[str]:
    """Return the expert's action, then its contenders, each action once."""
    own, form = draft.situation.step["action"], action_form(draft.situation.trajectory)
    actions = {form(own): own}
    for contender in draft.situation.contenders:
        actions.setdefault(form(contender["action"]), contender["action"])
    return list(actions.values())


def record_gain(draft: Draft, without: Samples, after: Samples) -> None:
    """Record the gain of a reflection, or the reason why it is dropped.

    Args:
        without: The answer to the first of `score_requests`.
        after: The answer to the second.
    """
    for answer in (without, after):
        if isinstance(answer, InputError):
            draft.error = answer
            return
    before, *_ = _logprobs(without)
    own, *others = _logprobs(after)
    gain = round(own - before, _DIGITS)
    numbers: dict[str, float | dict[str, str | float]] = {"without": before, "after": own, "gain": gain}
    fault = "" if gain > 0 else "does not make the action more probable"
    if others and max(others) >= own:
        best = others.index(max(others))
        numbers["contender"] = {"action": compared_actions(draft)[1 + best], "after": others[best]}
        fault = fault or "makes another action more probable"
    if fault:
        draft.refuse("verify", fault, draft.text)
        texts = {"texts": draft.refused}  # with those that a guard refused before
        draft.dropped = InputError(f"refused by verify: the text {fault}", evidence={**numbers, **texts})
    else:
        draft.more["gain"] = gain


def _logprobs(answer: Samples) -> list[float]:
    """Return the rounded log-probabilities in an answer."""
    assert not isinstance(answer, InputError)
    return [round(sample.logprob or 0.0, _DIGITS) for sample in answer]
