"""`eexp recover`: the expert's path with mistakes on it, so that going on after a mistake can be learned.

An expert makes no mistakes, so an imitator has never seen the answer to one: once an action of its own is refused, it
is in a state like none that it was trained on, and tends to repeat what was refused. The executed alternatives know
such answers. Where an action was refused and the state is as it was, the expert's action is still the right one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import click

from eexp import options
from eexp.records import alternatives_of, seed_of


def recover(
    trajectories: Iterator[dict],
    *,
    pool: str | None = None,
    share: float = 1.0,
    most: int = 3,
    seed: int = 0,
    count: Callable[[str, int], None] = lambda what, n=1: None,
) -> Iterator[dict]:
    """Insert refused alternatives into trajectories, each followed by its answer and the state's own step.

    An inserted step has `mistake` true: later stages show it as history, and learn nothing from its action.

    Args:
        pool: the pool of alternatives to draw from; all if None.
        share: of the states with refused alternatives, how many get a mistake.
        most: largest number of mistakes in one state; a state with one gets each further one with probability 1/2.
        count: is told the numbers of states and mistakes.
    """
    for trajectory in trajectories:
        steps: list[dict] = []
        for i, step in enumerate(trajectory["steps"]):
            mistakes = _mistakes(trajectory["id"], i, step, pool, share, most, seed)
            count("states", 1)
            count("mistakes", len(mistakes))
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


def _mistakes(name: str, i: int, step: dict, pool: str | None, share: float, most: int, seed: int) -> list[dict]:
    """Draw the alternatives that are inserted before a step, by what the step is alone."""
    refused = [a for a in alternatives_of(step, pool) if _is_refused(a.get("outcome"))]
    rng = random.Random(seed_of(seed, name, i, "recover"))
    if step.get("mistake") or not refused or rng.random() >= share:
        return []
    number = 1
    while number < min(most, len(refused)) and rng.random() < 0.5:
        number += 1
    return rng.sample(refused, number)


def _is_refused(outcome: dict | None) -> bool:
    return outcome is not None and outcome.get("valid") is False and not outcome.get("done")


def _at(step: dict, observation: str) -> dict:
    """The step's state as it is shown by `observation`, of which nothing was unknown unless it is the step's own."""
    if observation == step["observation"]:
        return step
    return {**step, "observation": observation, "unknown": [], "summary": None}


@click.command("recover")
@click.option("--pool", metavar="NAME", help="Draw from the alternatives of this pool.  [default: from all]")
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    metavar="SHARE",
    help="Share of the states with refused alternatives that get a mistake.",
)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Largest number of mistakes in one state.",
)
@options.seed
@options.streams("trajectory")
def command(pool, share, most, seed, stream) -> None:
    """Put refused alternatives into the expert's path.

    Reads trajectories with outcomes, as `eexp rollout` writes them. Where the environment refused an alternative, the
    state is as it was, and the expert's action is still right: the alternative and its answer are put before it. Later
    stages show the mistake as history and never imitate it. So an agent learns to go on after a mistake of its own,
    which no expert shows. The mistakes are best the policy's own (`eexp branch -m MODEL --no-only-admissible`), and
    `eexp rollout` on what this writes checks that the expert's path still leads where it led.

    \b
    Example:
      eexp expert house -n 20 | eexp branch --no-only-admissible | eexp rollout > rollout.jsonl
      eexp recover rollout.jsonl | eexp imitation-data > recovery.jsonl
    """
    with stream.open("recover", "trajectory", pool=pool, share=share, most=most, seed=seed) as io:
        for trajectory in recover(io.records(), pool=pool, share=share, most=most, seed=seed, count=io.count):
            io.write(trajectory)
