"""`eexp imitation-data`: make examples of state -> expert action (Early Experience, equation for L_IL)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from eexp import options
from eexp.callbacks import OnError, stop_at_error
from eexp.errors import InputError
from eexp.outcomes import with_failures_counted
from eexp.records import example, example_id, is_only_shown, tools_at, with_lineage
from eexp.settings import command_options, option

if TYPE_CHECKING:
    from eexp.jsonl import Lines
    from eexp.memory import Memory
    from eexp.prompts import PromptStyle
    from eexp.stream import Stream


@dataclass(frozen=True)
class ImitationSettings:
    """Settings of `imitation_data`."""

    thoughts: bool = option(True, help="Keep the expert's own thoughts, where there are any.")
    recall: str | None = options.recall.field()
    recall_count: int = options.recall_count.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        return {
            "thoughts": None if self.thoughts else "no",
            "recall": self.recall,
            "recall_count": self.recall_count if self.recall else None,
        }


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
        trajectories: Trajectories of an expert.
        style: The prompt style of the examples.
        settings: Whether the expert's own thoughts stand before its actions.
        memory: Past episodes, `settings.recall_count` of which stand before each state; None shows none.
        on_error: Called with a trajectory without functions, where actions are tool calls.
    """
    from eexp.memory import shown
    from eexp.prompts.style import Dialogue

    settings = settings or ImitationSettings()
    dialogue, label = Dialogue(style), style.label
    for t in trajectories:
        try:
            style.shown_tools(tools_at(t, 0))
        except InputError as e:
            on_error(t, e)
            continue
        steps = _steps(t["steps"], settings.thoughts)
        recalled: list[dict] = []
        if memory and steps:
            recalled = memory.recall(t["task"], t["instruction"], steps[0]["observation"], settings.recall_count)
        past = [(words, _steps(turns, settings.thoughts)) for words, turns in shown(recalled)]
        dialogue.start(t["instruction"], recalled=past)
        for i, step in enumerate(steps):
            if not is_only_shown(step):
                thought = step.get("thought")
                answer = style.answer(step["action"], thought, i)
                prompt = dialogue.act(step["observation"], step.get("admissible"), think=bool(thought))
                yield example(
                    t,
                    f"{i}/imitation",
                    "imitation",
                    prompt,
                    answer.messages(),
                    label,
                    **style.tools_field(tools_at(t, i)),
                    spans=answer.spans,
                )
            dialogue.add(step)


def imitation_lines(
    trajectories: Iterator[dict],
    style: PromptStyle,
    settings: ImitationSettings,
    entry: str,
    *,
    memory: Memory | None = None,
    on_error: OnError = stop_at_error,
) -> Iterator[Lines]:
    """Yield the examples of `imitation_data` as lines of JSON, in a fraction of the time.

    Args:
        trajectories: Trajectories of an expert.
        style: The prompt style of the examples.
        settings, memory, on_error: As for `imitation_data`.
        entry: This stage's line of lineage.
    """
    import orjson

    from eexp.jsonl import BLOCK_BYTES, dumps, line_template
    from eexp.prompts.style import COMPLETION, COMPLETION_END, EncodedDialogue, encoded_contents

    if style.action.calls or memory:  # calls are messages with more than a text, and a memory goes by whole tasks
        for record in imitation_data(trajectories, style, settings, memory=memory, on_error=on_error):
            yield 1, dumps(with_lineage(record, entry))
        return
    dialogue, label = EncodedDialogue(style), style.label
    for t in trajectories:
        common = with_lineage(example(t, "", "imitation", [], [], label), entry)
        to_id, to_prompt, to_completion, to_spans, tail = line_template(common, "id", "prompt", "completion", "spans")
        to_id, to_prompt = to_id + b'"', b'"' + to_prompt
        to_text, to_spans = to_completion + COMPLETION, COMPLETION_END + to_spans
        steps = _steps(t["steps"], settings.thoughts)
        answers = [style.answer(step["action"], step.get("thought")) for step in steps]
        ids = encoded_contents([example_id(t, f"{i}/imitation") for i in range(len(steps))])
        texts = encoded_contents([answer.text for answer in answers])
        block: list[bytes] = []
        count = size = 0
        prompts = dialogue.acting(t["instruction"], steps)
        for step, own_id, prompt, text, answer in zip(steps, ids, prompts, texts, answers):
            if is_only_shown(step):
                continue
            spans = orjson.dumps(answer.spans)
            block += (to_id, own_id, to_prompt, *prompt, to_text, text, to_spans, spans, tail)
            count += 1
            size += len(prompt[0])
            if size > BLOCK_BYTES:
                yield count, b"".join(block)
                block, count, size = [], 0, 0
        yield count, b"".join(block)


def _steps(steps: list[dict], thoughts: bool) -> list[dict]:
    """Return the steps; without thoughts, the history has none either, since an agent that writes none sees none."""
    return steps if thoughts else [{**step, "thought": None} for step in steps]


@click.command("imitation-data")
@command_options(ImitationSettings)
@options.prompt_style()
@options.streams("trajectory")
def command(settings: ImitationSettings, prompt_style: str | None, stream: Stream) -> None:
    """Make training examples that imitate the expert.

    One example a step: the episode so far as the prompt, the expert's action as the completion. Trajectories that did
    not succeed are imitated like the others, and counted.

    \b
    Example:
      eexp expert house -n 20 | eexp imitation-data > il.jsonl
    """
    from eexp.memory import memory_of

    style = options.chosen_style(prompt_style, None)
    memory = memory_of(settings.recall)
    with stream.open("imitation-data", prompt_style=style.label, **settings.lineage()) as io:

        def examples(trajectories: Iterator[dict]) -> Iterator[Lines]:
            counted = with_failures_counted(trajectories, io.count)
            return imitation_lines(counted, style, settings, io.entry, memory=memory, on_error=io.fail)

        io.write_lines(examples)
