"""`eexp recover`: put mistakes into the expert's path, so that a policy learns to go on after one."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eexp.console import options
from eexp.console.parameters import command_options
from eexp.examples.settings import RecoverSettings
from eexp.records.outcomes import with_outcomes_asked_for

if TYPE_CHECKING:
    from eexp.console.stream import Stream


@click.command("recover")
@command_options(RecoverSettings)
@options.streams("trajectory", shards=True)
def command(settings: RecoverSettings, stream: Stream) -> None:
    """Put refused alternatives into the expert's path.

    Reads trajectories with outcomes, as `eexp rollout` writes them. Where the environment refused an alternative, the
    state is as it was, and the expert's action is still right: the alternative and its answer are put before it. Later
    stages show the mistake as history and never imitate it. So an agent learns to go on after a mistake of its own,
    which no expert shows. The mistakes are best the policy's own (`eexp branch -m MODEL --no-only-admissible`), and
    `eexp rollout` on what this writes checks that the expert's path still leads where it led.

    \b
    Example:
      eexp expert house -n 5 | eexp branch --no-only-admissible | eexp rollout > rollout.jsonl
      eexp recover rollout.jsonl | eexp imitation-data > recovery.jsonl
    """
    from eexp.examples.recover import INSERTED, recover

    with stream.open("recover", **asdict(settings)) as io:
        trajectories = with_outcomes_asked_for(io.records(), io.note)
        for trajectory in recover(trajectories, settings, count=io.count):
            io.write(trajectory)
        if io.counts["in"] and not io.counts[INSERTED]:
            io.note("no mistake was put in: all paths are written as they were")
