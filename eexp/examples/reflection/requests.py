"""Build the prompts for a situation: those that ask a model for a reflection, and the one in which the policy acts."""

from __future__ import annotations

from eexp.examples.reflection.situations import Situation, complete_list
from eexp.prompts.style import Messages, PromptStyle


def reflection_prompt(style: PromptStyle, situation: Situation) -> Messages:
    """Return the prompt that asks for a reflection.

    A list of admissible actions that is only a sample is left out: it would read as complete.
    """
    step = situation.step
    if complete_list(step) is None:
        step = {**step, "admissible": None}
    assert situation.outcome is not None
    return style.ask_reflection(
        situation.trajectory["instruction"],
        situation.history,
        step,
        situation.outcome["observation"],
        situation.contenders,
        step.get("notes") or "",
    )


def acting_prompt(style: PromptStyle, situation: Situation, think: bool) -> Messages:
    """Return the prompt in which the policy acts in this state."""
    return style.act(
        situation.trajectory["instruction"],
        situation.history,
        situation.step["observation"],
        situation.step.get("admissible"),
        think=think,
    )


def own_prompt(style: PromptStyle, situation: Situation, trained: bool) -> Messages:
    """Return the prompt that asks for a thought and an action from the state alone.

    A model that was trained to act (`trained`) gets the prompt under which it acts; for any other model, the style's
    request to think about the goal first (`reflection.decide`) follows that prompt.
    """
    prompt = acting_prompt(style, situation, think=True)
    if not trained and style.reflection.decide:
        prompt[-1] = {**prompt[-1], "content": f"{prompt[-1]['content']}\n{style.reflection.decide}"}
    return prompt
