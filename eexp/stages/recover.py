"""`eexp recover`: put mistakes into the expert's path, so that a policy learns to go on after one.

An expert makes no mistakes, so an imitator has never seen the answer to one: once an action of its own is refused, it
is in a state like none that it was trained on, and tends to repeat the action. The executed alternatives hold such
answers. Where an action was refused and the state is as it was, the expert's action is still the right one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from eexp import options
from eexp.callbacks import Count, no_count
from eexp.outcomes import with_outcomes_asked_for
from eexp.records import alternatives_of, is_only_shown, seed_of
from eexp.reflection.situations import NOT_EXECUTED
from eexp.settings import command_options, option

if TYPE_CHECKING:
    from eexp.stream import Stream


@dataclass(frozen=True)
class RecoverSettings:
    """Settings of `recover`.

    Attributes:
        pool: The pool of alternatives to draw from; all if None.
        share: Of the states with refused alternatives, how many get a mistake.
        most: Largest number of mistakes in one state; a state with one gets each further one with probability 1/2.
    """

    pool: str | None = option(
        None, metavar="NAME", help="Draw from the alternatives of this pool.  [default: from all]"
    )
    share: float = option(
        1.0,
        type=click.FloatRange(0, 1),
        metavar="SHARE",
        help="Share of the states with refused alternatives that get a mistake.",
    )
    most: int = option(3, type=click.IntRange(min=1), metavar="N", help="Largest number of mistakes in one state.")
    seed: int = options.seed.field()


def recover(
    trajectories: Iterator[dict], settings: RecoverSettings | None = None, *, count: Count = no_count
) -> Iterator[dict]:
    """Insert refused alternatives into trajectories, each followed by its answer and the state's own step.

    An inserted step has `mistake` true: later stages show it as history, and learn nothing from its action.

    Args:
        trajectories: Trajectories with outcomes.
        settings: Which alternatives to insert, and how many.
        count: Called with the numbers of states and mistakes.
    """
    settings = settings or RecoverSettings()
    for trajectory in trajectories:
        steps: list[dict] = []
        for i, step in enumerate(trajectory["steps"]):
            alternatives = alternatives_of(step, settings.pool)
            mistakes = [] if is_only_shown(step) else _mistakes(trajectory["id"], i, alternatives, settings)
            count("state[s]", 1)
            count(NOT_EXECUTED, not any(a.get("outcome") for a in alternatives))
            count("mistake[s] put in", len(mistakes))
            observation = step["observation"]
            for mistake in mistakes:
                state = {key: value for key, value in _at(step, observation).items() if key != "noise"}
                steps.append(
                    {**state, "action": mistake["action"], "mistake": True, "thought": None, "alternatives": []}
                )
                observation = mistake["outcome"]["observation"]
            steps.append(_at(step, observation) if mistakes else step)
        # Its origin keeps it with the trajectory it was made of, wherever records are split or held out.
        origin = trajectory.get("origin") or trajectory["id"]
        yield {**trajectory, "id": f"{trajectory['id']}/recover", "origin": origin, "steps": steps}


def _mistakes(trajectory_id: str, i: int, alternatives: list[dict], settings: RecoverSettings) -> list[dict]:
    """Draw those of the alternatives of step `i` that are inserted before it, from the step alone."""
    import random

    refused = [a for a in alternatives if _is_refused(a.get("outcome"))]
    rng = random.Random(seed_of(settings.seed, trajectory_id, i, "recover"))
    if not refused or rng.random() >= settings.share:
        return []
    number = 1
    while number < min(settings.most, len(refused)) and rng.random() < 0.5:
        number += 1
    return rng.sample(refused, number)


def _is_refused(outcome: dict | None) -> bool:
    return outcome is not None and outcome.get("valid") is False and not outcome.get("done")


def _at(step: dict, observation: str) -> dict:
    """Return a step with `observation`; no part of that was unknown, unless it is the step's own."""
    if observation == step["observation"]:
        return step
    kept = {key: value for key, value in step.items() if key != "changed"}
    return {**kept, "observation": observation, "unknown": [], "summary": None}


@click.command("recover")
@command_options(RecoverSettings)
@options.streams("trajectory")
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
    with stream.open("recover", **asdict(settings)) as io:
        trajectories = with_outcomes_asked_for(io.records(), io.note)
        for trajectory in recover(trajectories, settings, count=io.count):
            io.write(trajectory)
        if io.counts["in"] and not io.counts["mistake[s] put in"]:
            io.note("no mistake was put in: all paths are written as they were")
