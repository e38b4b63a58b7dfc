"""`eexp follow`: let a policy go on after every alternative, so that it is known where that leads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import click

from eexp import options
from eexp.callbacks import Count, OnError, no_count, stop_at_error
from eexp.errors import InputError, UsageError
from eexp.models.registry import EXPERT
from eexp.options import PolicyOptions
from eexp.outcomes import with_outcomes_asked_for
from eexp.settings import command_options
from eexp.stage_settings.follow import FollowSettings

if TYPE_CHECKING:
    from eexp.envs.base import Environment
    from eexp.following import OpenWorlds
    from eexp.models.policy import Policy
    from eexp.stream import Stream


def _ignore(trajectory: dict, error: InputError) -> None:
    """Ignore an alternative that could not be followed."""


def follow(
    trajectories: Iterator[dict],
    env_of: Callable[[dict], Environment],
    open_worlds: OpenWorlds,
    policy: Policy,
    settings: FollowSettings | None = None,
    *,
    count: Count = no_count,
    on_refused: OnError = _ignore,
    on_error: OnError = stop_at_error,
) -> Generator[dict, None, None]:
    """Yield trajectories in which every executed alternative has `then`: what a policy did after it, and the outcomes.

    The environment is brought to where the alternative led by the recorded actions. Where it observes something else
    there than the record has, the alternative is refused, and stays without `then`.

    Args:
        trajectories: Trajectories with outcomes.
        env_of: Returns an environment of the kind of a trajectory's; raises InputError where there is none.
        open_worlds: Opens the environments to play in.
        policy: Acts after the alternatives.
        settings: How far to follow, and which alternatives.
        count: Called with the numbers of alternatives that are left out, and of those that led to success.
        on_refused: Called with the trajectory of an alternative that is refused, and the evidence.
        on_error: Called with a trajectory whose environment cannot be opened.

    Raises:
        UsageError: The policy is the environment's expert, and there is none.
    """
    from eexp.following import Follower

    settings = settings or FollowSettings()

    def placed() -> Iterator[tuple[dict, Environment]]:
        for trajectory in trajectories:
            try:
                yield trajectory, env_of(trajectory)
            except InputError as e:
                on_error(trajectory, e)

    for env, group in groupby(placed(), key=itemgetter(1)):
        if "expert" in policy.needs and not env.has("expert"):
            raise UsageError(f"{env.spec} has no expert; give -m MODEL")
        follower = Follower(env, policy, settings, count, on_refused)
        yield from follower.run((trajectory for trajectory, _ in group), open_worlds)


@click.command("follow")
@options.env_override
@command_options(FollowSettings)
@options.policy(
    "The policy that goes on: expert, random or a MODEL as in `eexp --help`.  [default: expert]",
    options.max_tokens(None, "what the model was trained to write; else 128, or 1024 with a thought"),
    options.think,
)
@options.parallel
@options.streams("trajectory", resume=True)
def command(
    env: str | None,
    settings: FollowSettings,
    policy: PolicyOptions,
    open_worlds: OpenWorlds,
    stream: Stream,
) -> None:
    """Let a policy go on after every alternative, and record where that leads.

    Reads trajectories with outcomes, as `eexp rollout` writes them. Each executed alternative gets `then`: the next
    actions of the policy, up to --steps of them, each with its outcome. So it is known whether an alternative leads
    back to the task or into a dead end, which its own outcome rarely tells. `eexp preference-data` makes preferences
    of that (--worse later): follow with the expert for it, because what a weak policy makes of an alternative says
    more about the policy than about the alternative.

    The environment walks the recorded actions from the task's beginning, in one episode for each alternative, and what
    it observes after the alternative must be what was recorded. Otherwise the alternative is refused, and kept with the
    evidence in the --rejects file (exit code 4).

    \b
    Example:
      eexp expert house -n 2 | eexp branch | eexp rollout | eexp follow > followed.jsonl
    """
    from eexp.envs.opening import OpenEnvironments

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
            lambda trajectory: environments.get(trajectory["env"]),
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
