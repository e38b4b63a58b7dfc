"""`eexp follow`: let a policy go on after every alternative, so that it is known where that leads."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from eexp.acting.settings import FollowSettings
from eexp.console import options
from eexp.console.options import PolicyOptions
from eexp.console.parameters import command_options
from eexp.errors import InputError
from eexp.settings import THINK, max_tokens

if TYPE_CHECKING:
    from eexp.acting.follow import OpenWorlds
    from eexp.console.stream import Stream


@click.command("follow")
@options.env_override
@command_options(FollowSettings)
@options.policy(
    "The policy that goes on: expert, random or a MODEL as in `eexp models`.  [default: expert]",
    max_tokens(None, "what the model was trained to write; else 128, or 1024 with a thought"),
    THINK,
)
@options.parallel
@options.streams("trajectory", resume=True, shards=True)
def command(
    env: str | None, settings: FollowSettings, policy: PolicyOptions, open_worlds: OpenWorlds, stream: Stream
) -> None:
    """Let a policy go on after every alternative, and record where that leads.

    Reads trajectories with outcomes, as `eexp rollout` writes them. Each executed alternative gets `then`: the next
    actions of the policy, up to --steps of them, each with its outcome. They tell whether an alternative leads back to
    the task or into a dead end. Its own outcome rarely does.

    `eexp preference-data --worse later` makes preferences of it. Follow with the expert for that: how a weak policy
    goes on says more about the policy than about the alternative.

    Each alternative takes an episode of its own: the recorded actions are replayed from the task's beginning. The
    observation after the alternative must be the recorded one. Otherwise the alternative is refused, and the --rejects
    file keeps it with the evidence (exit code 4).

    \b
    Example:
      eexp expert house -n 2 | eexp branch | eexp rollout | eexp follow > followed.jsonl
    """
    from eexp.acting.follow import follow
    from eexp.envs.opening import OpenEnvironments
    from eexp.models.registry import EXPERT
    from eexp.records.outcomes import with_outcomes_asked_for

    if policy.model.spec is None:
        policy = replace(policy, model=replace(policy.model, spec=EXPERT.spec))
    player = policy.open(stream.note)
    fields = {"env": env, "model": player.fingerprint, "prompt_style": player.style_label, "think": player.think}
    io = stream.open("follow", **fields, max_tokens=player.max_tokens, **settings.lineage(), seed=settings.seed)
    with io, closing(player), OpenEnvironments(env) as environments:

        def refuse(trajectory: dict, error: InputError) -> None:
            note = f"{trajectory['id']}: {error}"
            io.reject({"type": "trajectory", "id": trajectory["id"]}, error, find=True, note=note)

        followed = follow(
            with_outcomes_asked_for(io.records(), io.note),
            environments.get,
            open_worlds,
            player,
            settings,
            count=io.count,
            on_refused=refuse,
            on_error=io.fail,
        )
        with closing(followed):
            for trajectory in io.progress(followed, "trajectory"):
                io.write(trajectory)
        io.counts.update(player.counts)
