"""`eexp world-model-data`: (state, action) -> next state (Early Experience, implicit world modelling)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import click

from eexp import options
from eexp.prompts import PromptStyle
from eexp.records import example, expert_outcome, seed_of


def world_model_data(trajectories: Iterator[dict], style: PromptStyle, *, expert: bool = True,
                     max_invalid_fraction: float = 1.0, seed: int = 0,
                     count: Callable[[str, int], None] = lambda what, n=1: None) -> Iterator[dict]:  # fmt: skip
    """One example for every executed alternative and, unless `expert` is false, for the expert's own action.

    max_invalid_fraction: at most this share of a trajectory's examples may tell of an action the environment refused;
    the rest of those is left out at random. (Sets heavy with errors trained worse than imitation alone.)
    """
    for t in trajectories:
        transitions = [(i, *found) for i in range(len(t["steps"])) for found in _transitions(t, i, expert)]
        kept = _cap_invalid(transitions, max_invalid_fraction, seed_of(seed, t["id"]))
        count("invalid ones left out", len(transitions) - len(kept))
        for i, name, action, outcome in kept:
            prompt = style.world_model(t["instruction"], t["steps"][:i], t["steps"][i]["observation"], action)
            count("of invalid actions" if outcome.get("valid") is False else "of valid actions", 1)
            answer = style.world_model_answer(outcome["observation"])
            yield example(
                t, f"{i}/world_model/{name}", "world_model", prompt, answer.messages(), style.label, spans=answer.spans
            )


def _transitions(t: dict, i: int, expert: bool) -> Iterator[tuple[str, str, dict]]:
    """(name, action, outcome) of everything known to happen at step i."""
    own = expert_outcome(t, i)
    if expert and own is not None:
        yield "expert", t["steps"][i]["action"], own
    for j, alternative in enumerate(t["steps"][i].get("alternatives", [])):
        if alternative.get("outcome"):
            yield str(j), alternative["action"], alternative["outcome"]


def _cap_invalid(transitions: list[tuple], fraction: float, seed: int) -> list[tuple]:
    invalid = [n for n, found in enumerate(transitions) if found[3].get("valid") is False]
    valid = len(transitions) - len(invalid)
    if fraction >= 1:
        return transitions
    room = int(fraction * valid / (1 - fraction))
    if len(invalid) <= room:
        return transitions
    dropped = set(random.Random(seed).sample(invalid, len(invalid) - room))
    return [found for n, found in enumerate(transitions) if n not in dropped]


@click.command("world-model-data")
@click.option("--expert/--no-expert", default=True, show_default=True, 
              help="Whether the expert's own transitions are examples, too.")  # fmt: skip
@click.option("--max-invalid-fraction", type=click.FloatRange(0, 1), default=1.0, show_default=True, metavar="SHARE",
              help="Largest share of a trajectory's examples that may be answers to invalid actions.")  # fmt: skip
@options.prompt_style()
@options.seed
@options.streams("trajectory")
def command(expert, max_invalid_fraction, prompt_style, seed, stream) -> None:
    """Make training examples that predict the next state.

    Reads trajectories with outcomes, as `eexp rollout` writes them. The examples have their own system prompt and a
    delimited target, so that a policy trained on them does not take observations for actions.

    \b
    Example:
      eexp expert house -n 20 | eexp branch | eexp rollout | eexp world-model-data > iwm.jsonl
    """
    style = options.chosen_style(prompt_style, None)
    with stream.open("world-model-data", "trajectory", prompt_style=style.label, expert=None if expert else "no",
                     max_invalid_fraction=max_invalid_fraction if max_invalid_fraction < 1 else None,
                     seed=seed) as io:  # fmt: skip
        for made in world_model_data(io.records(), style, expert=expert, max_invalid_fraction=max_invalid_fraction,
                                     seed=seed, count=io.count):  # fmt: skip
            io.write(made)
