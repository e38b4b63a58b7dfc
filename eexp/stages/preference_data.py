"""`eexp preference-data`: make preferences, the expert's action before an alternative that did worse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from eexp import options
from eexp.errors import InputError
from eexp.outcomes import SHORTCOMINGS, shortcoming, with_failures_counted, with_outcomes_asked_for
from eexp.prompts import PromptStyle
from eexp.prompts.style import Dialogue
from eexp.records import preference, tools_at
from eexp.reflection.situations import situations
from eexp.settings import command_options, option, recorded
from eexp.stream import Count, OnError, Stream, no_count, stop_at_error

#: The counter of contenders that are no evidence.
NO_SHORTCOMING = "alternative[s] left out, of which it is not known that [it|they] did worse"


@dataclass(frozen=True)
class PreferenceSettings:
    """Settings of `preference_data`."""

    worse: tuple[str, ...] = option(
        (),
        type=click.Choice(SHORTCOMINGS),
        multiple=True,
        help="What counts as worse: the environment refused the action (refused), the episode ended without success "
        "(ended), the score is lower (score), nothing changed (unchanged). Can be given several times.  "
        "[default: all]",
    )
    most: int | None = option(
        None,
        type=click.IntRange(min=1),
        metavar="N",
        help="Largest number of preferences of one state, the first ones.  [default: all]",
    )
    pool: str | None = options.pool.field()
    first: int | None = options.first(1).field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        return {**recorded(self, "most", "pool", "first"), "worse": ",".join(self.worse) or None}


def preference_data(
    trajectories: Iterator[dict],
    style: PromptStyle,
    settings: PreferenceSettings | None = None,
    *,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield a preference for every alternative of which the record shows that it did worse than the expert's action.

    An alternative that merely did something else is no evidence: another way may be as good.

    Args:
        trajectories: Trajectories with outcomes.
        style: The prompt style of the preferences.
        settings: Which alternatives are taken.
        count: Called with the numbers of states and alternatives that are left out.
        on_error: Called with a trajectory without functions, where actions are tool calls.
    """
    settings = settings or PreferenceSettings()
    accepted = settings.worse or SHORTCOMINGS
    dialogue = Dialogue(style)
    for t in trajectories:
        try:
            style.shown_tools(tools_at(t, 0))
        except InputError as e:
            on_error(t, e)
            continue
        dialogue.start(t["instruction"])
        # Earlier thoughts are not shown, since the actions here are chosen without one.
        steps = [{**step, "thought": None} for step in t["steps"]]
        for situation, step in zip(situations(t, settings.pool, settings.first), steps):
            if situation.left_out:
                count(situation.left_out, 1)
            else:
                worse = [
                    (reason, alternative)
                    for alternative in situation.contenders
                    if (reason := shortcoming(step["observation"], situation.outcome or {}, alternative["outcome"]))
                ]
                count(NO_SHORTCOMING, len(situation.contenders) - len(worse))
                chosen = [(reason, a) for reason, a in worse if reason in accepted][: settings.most]
                prompt = dialogue.act(step["observation"], step.get("admissible")) if chosen else []
                for n, (reason, alternative) in enumerate(chosen):
                    yield preference(
                        t,
                        f"{situation.i}/preference/{n}",
                        prompt,
                        style.answer(step["action"], None, situation.i).messages(),
                        style.answer(alternative["action"], None, situation.i).messages(),
                        style.label,
                        **style.tools_field(tools_at(t, situation.i)),
                        worse=reason,
                        chosen_outcome=(situation.outcome or {})["observation"],
                        rejected_outcome=alternative["outcome"]["observation"],
                    )
            dialogue.add(step)


@click.command("preference-data")
@command_options(PreferenceSettings)
@options.prompt_style()
@options.streams("trajectory")
def command(settings: PreferenceSettings, prompt_style: str | None, stream: Stream) -> None:
    """Make preferences: the expert's action before an alternative that did worse.

    Reads trajectories with outcomes, as `eexp rollout` writes them. An alternative is taken only if the record shows
    that it did worse: the environment refused it, it ended the episode without success, it scored lower, or it changed
    nothing. One that did as well as the expert's action, or something else that may be as good, is never rejected. Each
    preference holds the evidence. Its fields prompt, chosen and rejected are those of TRL's DPOTrainer, too.

    \b
    Example:
      eexp expert house -n 20 | eexp branch --no-only-admissible | eexp rollout > rollout.jsonl
      eexp preference-data rollout.jsonl > preferences.jsonl
    """
    style = options.chosen_style(prompt_style, None)
    with stream.open("preference-data", prompt_style=style.label, **settings.lineage()) as io:
        asked_for = with_outcomes_asked_for(io.records(), io.note)
        trajectories = with_failures_counted(asked_for, io.count)
        for record in preference_data(trajectories, style, settings, count=io.count, on_error=io.fail):
            io.write(record)
