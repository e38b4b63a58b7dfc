"""The prompts of a trajectory, built step by step, equal those made one by one."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from eexp.prompts import get_style
from eexp.prompts.style import Dialogue, PromptStyle

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
TARGET = TEXT | st.sampled_from(["%b and %s", "\x7f", '",', 'a "b"\\', "\x00\x1f", "the same"])
STEPS = st.lists(
    st.fixed_dictionaries(
        {"observation": TARGET, "action": TARGET},
        optional={"thought": st.none() | TEXT, "admissible": st.none() | st.lists(TEXT, max_size=3)},
    ),
    max_size=5,
)
STYLES = st.builds(
    lambda name, **tables: msgspec.convert({**msgspec.to_builtins(get_style(name)), **tables}, PromptStyle),
    st.sampled_from(["react", "react-list", "think"]),
    history=st.fixed_dictionaries(
        {},
        optional={
            "steps": st.integers(1, 4),
            "observation_characters": st.integers(1, 9),
            "thoughts": st.just("keep"),
        },
    ),
    examples=st.just([]) | st.just([{"user": "A room.", "assistant": "Action: go"}]),
)


def _prompt(words: PromptStyle, instruction: str, steps: list[dict], ending: str) -> list[str]:
    """Return the turns of a prompt, made at once: an independent form of what a dialogue builds step by step."""
    history = words.history
    recent = steps if history.steps is None else steps[-history.steps :]
    observations = []
    for step in recent:
        text, limit = step["observation"], history.observation_characters
        observations.append(text if limit is None or len(text) <= limit else f"{text[:limit]} ...")
    observations.append(ending)
    if len(recent) < len(steps):
        observations[0] = f"({len(steps) - len(recent)} earlier steps are left out.)\n{observations[0]}"
    if instruction:
        observations[0] = f"{words.acting.task_label} {instruction}\n{observations[0]}"
    keep = history.thoughts == "keep"
    answers = [
        words.answer(step["action"], step.get("thought")).text
        if keep
        else f"{words.action.open}{step['action']}{words.action.close}"
        for step in recent
    ]
    turns = [text for turn in zip(observations, answers) for text in turn]
    return [
        words.acting.system,
        *(t for example in words.examples for t in (example.user, example.assistant)),
        *turns,
        observations[-1],
    ]


@settings(deadline=None, max_examples=60)
@given(TEXT, STEPS, STYLES)
def test_a_dialogue_has_the_same_prompts_as_each_state_alone(instruction, steps, words):
    dialogue = Dialogue(words).start(instruction)
    for i, step in enumerate(steps):
        state = step["observation"], step["action"]
        predicting = words.world_model(instruction, steps[:i], *state)
        assert [m["content"] for m in predicting] == [
            *_prompt(words, instruction, steps[:i], step["observation"]),
            f"{words.action.open}{step['action']}{words.action.close}",
            words.predicting.request,
        ]
        assert [m["role"] for m in predicting] == [
            "system",
            *["user", "assistant"] * (len(predicting) // 2 - 1),
            "user",
        ]
        assert dialogue.world_model(*state) == predicting
        acting = words.act(instruction, steps[:i], step["observation"], step.get("admissible"), think=True)
        prompt = dialogue.act(step["observation"], step.get("admissible"), think=True)
        assert prompt == acting
        assert acting[:-1] == predicting[:-3] and acting[-1]["content"].endswith(words.thought.ask)
        for message in prompt:  # which is the caller's: later prompts do not change with it
            message["content"] = "changed"
        dialogue.add(step)
