"""`eexp policy-data`: make examples of an agent's own episodes, weighted by how much better each did than its like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eexp.console import options
from eexp.console.parameters import command_options, parameter
from eexp.examples.settings import PolicySettings

if TYPE_CHECKING:
    from eexp.console.stream import Stream


@click.command("policy-data")
@command_options(PolicySettings)
@parameter(options.style_option())
@options.streams("episode")
def command(settings: PolicySettings, prompt_style: str | None, stream: Stream) -> None:
    """Make training examples of an agent's own episodes, weighted by their success.

    Reads several trials of each task, as `eexp eval --trials 8 --temperature 1` writes them. Each turn becomes an
    example. Its weight is its advantage: the reward of its episode minus a baseline, the mean reward of the task
    (--baseline). Training makes answers with a positive weight more likely, and those with a negative weight less
    likely. One update of `eexp finetune --init` on all examples is a policy-gradient step, as in GRPO. recipes/rl
    alternates play and training. Tasks whose turns all have weight 0 are left out.

    \b
    Example:
      eexp eval house -n 4 --trials 4 --temperature 1 --max-steps 9 > episodes.jsonl
      eexp policy-data --refused 0.1 episodes.jsonl > policy.jsonl
    """
    from eexp.examples.policy_gradient import policy_data

    if settings.reward == "none" and not (settings.turn_rewards or settings.refused):
        raise click.UsageError("--reward none leaves --turn-rewards and --refused; give one of them")
    if settings.reward == "none" and settings.scale:
        raise click.UsageError("--scale is for the rewards of episodes, not for --reward none")
    style = options.chosen_style(prompt_style, None)
    with stream.open("policy-data", prompt_style=style.label, **settings.lineage()) as io:
        for record in policy_data(io.records(), style, settings, count=io.count, on_error=io.fail):
            io.write(record)
