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

    Reads trajectories with outcomes, as `eexp rollout` writes them. A refused action leaves the state as it was, so the
    expert's action is still right after it. This stage puts the refused alternative and the environment's answer before
    the expert's action. Later stages show the mistake as history and never imitate it. So an agent learns to go on
    after its own mistakes, which no expert shows.

    Mistakes of the policy itself are best (`eexp branch -m MODEL --no-only-admissible`). `eexp rollout` on the output
    checks that the expert's path still leads where it led.

    \b
    Example:
      eexp expert house -n 5 | eexp branch --no-only-admissible | eexp rollout > rollout.jsonl
      eexp recover rollout.jsonl | eexp imitation-data > recovery.jsonl
    """
    from eexp.examples.recover import INSERTED, recover

    with stream.open("recover", **asdict(settings)) as io:
        trajectories = with_outcomes_asked_for(io.records(), io.note)
        for trajectory in recover(trajectories, settings, count=io.count, on_error=io.fail):
            io.write(trajectory)
        if io.counts["in"] and not io.counts[INSERTED]:
            io.note("no mistake was put in: all paths are written as they were")
