"""`eexp summarise`: summarise long observations, as targets of a world model."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eexp.console import options
from eexp.console.options import ModelOptions
from eexp.console.parameters import command_options, parameter
from eexp.examples.settings import SummariseSettings

if TYPE_CHECKING:
    from eexp.console.stream import Stream


@click.command("summarise")
@command_options(SummariseSettings)
@options.model(
    "The model that writes the summaries; `eexp models` lists what MODEL may be.  [default: the built-in tiny model]"
)
@parameter(options.style_option())
@options.streams("trajectory", resume=True, shards=True)
def command(settings: SummariseSettings, model: ModelOptions, prompt_style: str | None, stream: Stream) -> None:
    """Add summaries of long observations, written by a model.

    Reads trajectories with outcomes, as `eexp rollout` writes them, and adds `summary` where an observation is long:
    pages of a shop, search results, accessibility trees. world-model-data takes the summary as its target. A text that
    is empty, cut off, or no shorter than the observation is sampled again, up to three times. If that does not help,
    --on-error skip sets the observation aside and writes the trajectory without that summary.

    \b
    Example:
      eexp expert house -n 5 | eexp branch | eexp rollout | eexp summarise > summarised.jsonl
    """
    from eexp.examples.summarise import summarise

    with model.open(stream.note) as writer:
        style = options.chosen_style(prompt_style, None)
        identity = {"prompt_style": style.label, "model": writer.fingerprint}
        with stream.open("summarise", **identity, **asdict(settings)) as io:
            trajectories = summarise(io.records(), style, writer, settings, count=io.count, on_error=io.fail)
            for trajectory in io.progress(trajectories, "trajectory"):
                io.write(trajectory)
            io.counts.update(writer.counts)
