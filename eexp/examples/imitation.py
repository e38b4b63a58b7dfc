"""Examples that imitate the expert: state -> expert action (Early Experience, equation for L_IL)."""

from __future__ import annotations

from collections.abc import Iterator

from eexp.acting.recall import Memory, shown
from eexp.errors import InputError
from eexp.examples.settings import ImitationSettings
from eexp.prompts import PromptStyle
from eexp.prompts.style import Answer, Dialogue
from eexp.records.callbacks import OnError, stop_at_error
from eexp.records.imagination import imagined_by
from eexp.records.record import example, is_only_shown, tools_at


def imitation_data(
    trajectories: Iterator[dict],
    style: PromptStyle,
    settings: ImitationSettings | None = None,
    *,
    memory: Memory | None = None,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield one example a step, but for the mistakes that `eexp recover` put in.

    Args:
        memory: Past episodes, `settings.recall_count` of which stand before each state; None shows none.
        on_error: Called with a trajectory without functions, where actions are tool calls, or with an action that a
            completion of this style cannot hold.
    """
    settings = settings or ImitationSettings()
    dialogue, label = Dialogue(style), style.label
    for t in trajectories:
        try:
            style.shown_tools(tools_at(t, 0))
            answers = _answers(t["steps"], style, settings.thoughts)
        except InputError as e:
            on_error(t, e)
            continue
        steps = _steps(t["steps"], settings.thoughts)
        recalled: list[dict] = []
        if memory and steps:
            recalled = memory.recall(t["task"], t["instruction"], steps[0]["observation"], settings.recall_count)
        imagined = next(filter(None, map(imagined_by, [t, *recalled])), None)
        past = [(words, _steps(turns, settings.thoughts)) for words, turns in shown(recalled)]
        dialogue.start(t["instruction"], recalled=past)
        for i, step in enumerate(steps):
            if answer := answers.get(i):
                prompt = dialogue.act(step["observation"], step.get("admissible"), think=bool(step.get("thought")))
                yield example(
                    t,
                    f"{i}/imitation",
                    "imitation",
                    prompt,
                    answer.messages(),
                    label,
                    **style.tools_field(tools_at(t, i)),
                    spans=answer.spans,
                    imagined=imagined,
                )
            dialogue.add(step)


def _answers(steps: list[dict], style: PromptStyle, thoughts: bool) -> dict[int, Answer]:
    """Return the completion of every step that is imitated, by its number.

    Raises:
        InputError: A completion of this style cannot hold the action of one of them.
    """
    answers: dict[int, Answer] = {}
    for i, step in enumerate(_steps(steps, thoughts)):
        if not is_only_shown(step):
            try:
                answers[i] = style.completion(step["action"], step.get("thought"), i)
            except InputError as e:
                raise e.at(f"$.steps[{i}].action") from None
    return answers


def _steps(steps: list[dict], thoughts: bool) -> list[dict]:
    """Return the steps; without thoughts, the history has none either, since an agent that writes none sees none."""
    return steps if thoughts else [{**step, "thought": None} for step in steps]
