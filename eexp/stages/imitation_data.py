"""`eexp imitation-data`: state -> expert action, the baseline (Early Experience, equation for L_IL)."""

from __future__ import annotations

from collections.abc import Iterator

import click

from eexp import options
from eexp.prompts import PromptStyle
from eexp.prompts.style import Dialogue, EncodedDialogue
from eexp.records import example, example_id


def imitation_data(trajectories: Iterator[dict], style: PromptStyle, *, thoughts: bool = True,
                   encoded: bool = False) -> Iterator[dict]:  # fmt: skip
    """Yield one example a step, but for the mistakes that `eexp recover` put in.

    thoughts: keep an expert's own thought, where there is one, before the action. encoded: give prompts as the JSON
    that is written of them (`EncodedDialogue`), not as messages.
    """
    dialogue, label = (EncodedDialogue if encoded else Dialogue)(style), style.label
    for t in trajectories:
        # Without thoughts, none of earlier ones either: an agent that writes none will not see any.
        steps = t["steps"] if thoughts else [{**step, "thought": None} for step in t["steps"]]
        dialogue.start(t["instruction"])
        common = example(t, "", "imitation", [], [], label)
        for i, step in enumerate(steps):
            if not step.get("mistake"):
                thought = step.get("thought")
                answer = style.answer(step["action"], thought)
                prompt = dialogue.act(step["observation"], step.get("admissible"), think=bool(thought))
                own = {"id": example_id(t, f"{i}/imitation"), "prompt": prompt, "completion": answer.messages()}
                yield {**common, **own, "spans": answer.spans}
            dialogue.add(step)


@click.command("imitation-data")
@click.option("--thoughts/--no-thoughts", default=True, show_default=True,
              help="Keep the expert's own thoughts, where there are any.")  # fmt: skip
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
    with stream.open("imitation-data", "trajectory", prompt_style=style.label,
                     thoughts=None if thoughts else "no") as io:  # fmt: skip
        for made in imitation_data(io.records(), style, thoughts=thoughts, encoded=True):
            io.write(made, flush=False)
