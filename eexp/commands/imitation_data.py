"""`eexp imitation-data`: make examples of state -> expert action (Early Experience, equation for L_IL)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eexp.console import options
from eexp.console.parameters import command_options, parameter
from eexp.examples.settings import ImitationSettings
from eexp.records.outcomes import with_failures_counted

if TYPE_CHECKING:
    from eexp.console.stream import Stream


@click.command("imitation-data")
@command_options(ImitationSettings)
@parameter(options.style_option())
@options.streams("trajectory", shards=True)
def command(settings: ImitationSettings, prompt_style: str | None, stream: Stream) -> None:
    """Make training examples that imitate the expert.

    One example a step: the episode so far as the prompt, the expert's action as the completion. Trajectories that did
    not succeed are imitated like the others, and counted.

    \b
    Example:
      eexp expert house -n 20 | eexp imitation-data > il.jsonl
    """
    from eexp.examples.imitation import imitation_data

    style = options.chosen_style(prompt_style, None)
    memory = options.open_memory(settings.recall, stream.note)
    with stream.open("imitation-data", prompt_style=style.label, **settings.lineage()) as io:
        records = options.with_hidden_functions_noted(io.records(), style, io)
        trajectories = with_failures_counted(records, io.count)
        for record in imitation_data(trajectories, style, settings, memory=memory, on_error=io.fail):
            io.write(record)
