"""The prompts of a trajectory, written and encoded once, equal those made one by one, and those of the records."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from eexp.jsonl import dumps
from eexp.prompts import get_style, style
from eexp.prompts.style import Dialogue, EncodedDialogue, PromptStyle
from eexp.records import with_lineage
from eexp.stage_settings.world_model_data import WorldModelSettings
from eexp.stages.imitation_data import ImitationSettings, imitation_data, imitation_lines
from eexp.stages.world_model_data import world_model_data, world_model_lines

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
TARGET = TEXT | st.sampled_from(["%b and %s", "\x7f", '",', 'a "b"\\', "\x00\x1f", "the same"])
OUTCOMES = st.fixed_dictionaries(
    {"observation": TARGET},
    optional={
        "valid": st.booleans(),
        "done": st.booleans(),
        "summary": st.none() | TEXT,
        "unknown": st.none() | st.just([[0, 0]]),
    },
)
STEPS = st.fixed_dictionaries(
    {"observation": TARGET, "action": TARGET},
    optional={
        "thought": st.none() | TEXT,
        "admissible": st.none() | st.lists(TEXT, max_size=3),
        "mistake": st.booleans(),
        "more": st.integers(),
        "alternatives": st.lists(
            st.fixed_dictionaries({"action": TARGET, "source": TEXT}, optional={"outcome": st.none() | OUTCOMES}),
            max_size=3,
        ),
    },
)
TRAJECTORIES = st.fixed_dictionaries(
    {
        "type": st.just("trajectory"),
        "id": TARGET,
        "env": TEXT,
        "task": st.just({}),
        "instruction": TEXT,
        "steps": st.lists(STEPS, max_size=5),
    },
    optional={"outcome": st.none() | OUTCOMES, "origin": st.none() | TEXT, "lineage": st.lists(TEXT, max_size=2)},
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
@given(TRAJECTORIES, STYLES)
def test_a_dialogue_has_the_same_prompts_as_each_state_alone(t, words):
    dialogue, encoded = Dialogue(words).start(t["instruction"]), EncodedDialogue(words).start(t["instruction"])
    for i, step in enumerate(t["steps"]):
        state = step["observation"], step["action"]
        predicting = words.world_model(t["instruction"], t["steps"][:i], *state)
        assert [m["content"] for m in predicting] == [
            *_prompt(words, t["instruction"], t["steps"][:i], step["observation"]),
            f"{words.action.open}{step['action']}{words.action.close}",
            words.predicting.request,
        ]
        assert [m["role"] for m in predicting] == [
            "system",
            *["user", "assistant"] * (len(predicting) // 2 - 1),
            "user",
        ]
        assert dialogue.world_model(*state) == predicting == orjson.loads(encoded.world_model(*state))
        acting = words.act(t["instruction"], t["steps"][:i], step["observation"], step.get("admissible"), think=True)
        arguments = step["observation"], step.get("admissible"), True
        assert dialogue.act(*arguments) == acting == orjson.loads(encoded.act(*arguments))
        assert acting[:-1] == predicting[:-3] and acting[-1]["content"].endswith(words.thought.ask)
        dialogue.add(step)
        encoded.add(step)


@settings(deadline=None, max_examples=60)
@given(st.lists(TRAJECTORIES, max_size=2), STYLES, st.booleans())
def test_lines_are_the_examples_as_they_are_written(trajectories, words, flag):
    expected = [
        dumps(with_lineage(e, "by %b"))
        for e in imitation_data(iter(trajectories), words, ImitationSettings(thoughts=flag))
    ]
    blocks = list(imitation_lines(iter(trajectories), words, ImitationSettings(thoughts=flag), "by %b"))
    assert b"".join(block for _, block in blocks) == b"".join(expected) and sum(n for n, _ in blocks) == len(expected)
    chosen = WorldModelSettings(changes=flag, max_repeats=None if flag else 2, seed=1)
    counts, names, common = ([], []), ([], []), {"on_error": lambda t, error: None}
    calls = [
        {
            **common,
            "count": lambda *args, n=n: counts[n].append(args),
            "skip": lambda name, n=n: names[n].append(name) or name.endswith("1"),
        }
        for n in (0, 1)
    ]
    examples = world_model_data(iter(trajectories), words, chosen, **calls[0])
    expected = [dumps(with_lineage(e, "by %b")) for e in examples]
    assert list(world_model_lines(iter(trajectories), words, chosen, "by %b", **calls[1])) == [(1, e) for e in expected]
    assert sorted(counts[0]) == sorted(counts[1]) and names[0] == names[1]


def test_shared_turns_of_prompts_are_encoded_once(monkeypatch):
    steps = [{"observation": f"{i}" * 50, "action": "go on"} for i in range(200)]
    t = {"type": "trajectory", "id": "t", "instruction": "Go.", "steps": steps}
    encoded = []
    counting = SimpleNamespace(dumps=lambda value: encoded.append(len(str(value))) or orjson.dumps(value))
    monkeypatch.setattr(style, "orjson", counting)
    lines = list(imitation_lines(iter([t]), get_style("react"), ImitationSettings(), "test"))
    assert sum(n for n, _ in lines) == len(steps) and sum(len(block) for _, block in lines) > 2_000_000
    assert max(len(block) for _, block in lines) < 200_000, "a long trajectory is not held as a whole"
    assert sum(encoded) < 3 * len(orjson.dumps(t))
