"""`eexp imitation-data`: state -> expert action, the baseline (Early Experience, equation for L_IL)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import click
import orjson

from eexp import options
from eexp.jsonl import BLOCK_BYTES, Lines, line_template
from eexp.prompts import PromptStyle
from eexp.prompts.style import COMPLETION, COMPLETION_END, Dialogue, EncodedDialogue, encoded_contents
from eexp.records import example, example_id, with_lineage


def imitation_data(trajectories: Iterator[dict], style: PromptStyle, *, thoughts: bool = True) -> Iterator[dict]:
    """Yield one example a step, but for the mistakes that `eexp recover` put in.

    thoughts: keep an expert's own thought, where there is one, before the action.
    """
    dialogue, label = Dialogue(style), style.label
    for t in trajectories:
        dialogue.start(t["instruction"])
        for i, step in enumerate(_steps(t, thoughts)):
            if not step.get("mistake"):
                thought = step.get("thought")
                answer = style.answer(step["action"], thought)
                prompt = dialogue.act(step["observation"], step.get("admissible"), think=bool(thought))
                yield example(t, f"{i}/imitation", "imitation", prompt, answer.messages(), label, spans=answer.spans)
            dialogue.add(step)


def imitation_lines(
    trajectories: Iterator[dict], style: PromptStyle, entry: str, *, thoughts: bool = True
) -> Iterator[Lines]:
    """Yield the same examples as the lines that are written of them, in a fraction of the time.

    entry: this stage's line of lineage.
    """
    dialogue, label = EncodedDialogue(style), style.label
    for t in trajectories:
        common = with_lineage(example(t, "", "imitation", [], [], label), entry)
        to_id, to_prompt, to_completion, to_spans, tail = line_template(common, "id", "prompt", "completion", "spans")
        to_id, to_prompt = to_id + b'"', b'"' + to_prompt
        to_text, to_spans = to_completion + COMPLETION, COMPLETION_END + to_spans
        steps = _steps(t, thoughts)
        answers = [style.answer(step["action"], step.get("thought")) for step in steps]
        ids = encoded_contents([example_id(t, f"{i}/imitation") for i in range(len(steps))])
        texts = encoded_contents([answer.text for answer in answers])
        block: list[bytes] = []
        count = size = 0
        prompts = dialogue.acting(t["instruction"], steps)
        for step, own_id, prompt, text, answer in zip(steps, ids, prompts, texts, answers):
            if step.get("mistake"):
                continue
            spans = orjson.dumps(answer.spans)
            block += (to_id, own_id, to_prompt, *prompt, to_text, text, to_spans, spans, tail)
            count += 1
            size += len(prompt[0])
            if size > BLOCK_BYTES:
                yield count, b"".join(block)
                block, count, size = [], 0, 0
        yield count, b"".join(block)


def _steps(t: dict, thoughts: bool) -> list[dict]:
    """The steps; without thoughts, none of earlier ones either: an agent that writes none will not see any."""
    return t["steps"] if thoughts else [{**step, "thought": None} for step in t["steps"]]


@click.command("imitation-data")
@click.option(
    "--thoughts/--no-thoughts",
    default=True,
    show_default=True,
    help="Keep the expert's own thoughts, where there are any.",
)
@options.prompt_style()
@options.streams("trajectory")
def command(thoughts, prompt_style, stream) -> None:
    """Make training examples that imitate the expert.

    One example a step: the episode so far as the prompt, the expert's action as the completion.

    \b
    Example:
      eexp expert house -n 20 | eexp imitation-data > il.jsonl
    """
    style = options.chosen_style(prompt_style, None)
    with stream.open(
        "imitation-data", "trajectory", prompt_style=style.label, thoughts=None if thoughts else "no"
    ) as io:
        io.write_lines(partial(imitation_lines, style=style, entry=io.entry, thoughts=thoughts))
