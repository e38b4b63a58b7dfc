"""`eexp preference-data`: make preferences, the expert's action before an alternative that did worse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from eexp.console import options
from eexp.console.parameters import command_options, parameter
from eexp.errors import UsageError
from eexp.examples.settings import PreferenceSettings
from eexp.records.outcomes import with_failures_counted, with_outcomes_asked_for

if TYPE_CHECKING:
    from eexp.console.stream import Stream


@click.command("preference-data")
@command_options(PreferenceSettings)
@parameter(options.style_option())
@options.streams("trajectory", shards=True)
def command(settings: PreferenceSettings, prompt_style: str | None, stream: Stream) -> None:
    """Make preferences: the expert's action before an alternative that did worse.

    Reads trajectories with outcomes, as `eexp rollout` writes them. The rejected action is an alternative that the
    record shows to be worse (--worse). An alternative that did as well as the expert's action, or that may be as good,
    is never rejected. Each preference holds the evidence. Its fields prompt, chosen and rejected are those of TRL's
    DPOTrainer.

    --judge makes examples instead, in which the agent says which of two actions is better.

    \b
    Example:
      eexp expert house -n 5 | eexp branch --no-only-admissible | eexp rollout > rollout.jsonl
      eexp preference-data rollout.jsonl > preferences.jsonl
      eexp preference-data --judge rollout.jsonl > judgements.jsonl
    """
    from eexp.examples.preference_pairs import FOLLOWED, NO_SHORTCOMING, preference_data

    if settings.with_outcomes and not settings.judge:
        raise UsageError("--with-outcomes is for --judge")
    style = options.chosen_style(prompt_style, None)
    with stream.open("preference-data", prompt_style=style.label, **settings.lineage()) as io:
        asked_for = with_outcomes_asked_for(io.records(), io.note)
        trajectories = with_failures_counted(asked_for, io.count)
        noted = _with_followers_noted(trajectories, io.note)
        for record in preference_data(noted, style, settings, count=io.count, on_error=io.fail):
            io.write(record)
        if io.counts[NO_SHORTCOMING] and not io.counts[FOLLOWED]:
            io.note("`eexp follow` finds out which of those that are left out did worse later")


def _with_followers_noted(trajectories: Iterator[dict], note: Callable[[str], None]) -> Iterator[dict]:
    """Yield trajectories, and say so once where alternatives were followed by another policy than the expert."""
    is_noted = False
    for trajectory in trajectories:
        entries = [entry.split() for entry in trajectory.get("lineage") or []]
        others = [entry for entry in entries if entry[:1] == ["follow"] and "model=expert" not in entry]
        if others and not is_noted:
            is_noted = True
            note(
                "alternatives were followed by another policy than the expert, so --worse later also judges that policy"
            )
        yield trajectory
