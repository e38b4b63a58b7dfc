"""`eexp reward`: a reward for every turn of an agent's episodes, by the environment's expert."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from eexp.acting.settings import RewardSettings
from eexp.console import options
from eexp.console.parameters import command_options

if TYPE_CHECKING:
    from eexp.console.stream import Stream
    from eexp.workers.pool import Pool


@click.command("reward")
@options.env_override
@command_options(RewardSettings)
@options.workers
@options.streams("episode", resume=True, shards=True)
def command(env: str | None, settings: RewardSettings, open_pool: Callable[..., Pool], stream: Stream) -> None:
    """Give every turn of an agent's episodes a reward, by the environment's expert.

    These are dense rewards, one a turn, beside the success at the end of the episode. By progress, the expert plays to
    the end from every state that the agent visited. A turn's reward is by how many actions it shortened the expert's
    way: 1 for an action as good as the expert's, 0 for one that was refused or changed nothing, -1 for one that led
    away. By similarity, the action is compared with the expert's in the same state. `eexp policy-data --turn-rewards`
    adds these rewards to the advantages.

    The episode is replayed. If the replay differs from the record, it is a bad record.

    \b
    Example:
      eexp eval house -m random -n 4 > episodes.jsonl
      eexp reward episodes.jsonl > rewarded.jsonl
    """
    from eexp.acting.reward import reward

    with stream.open("reward", env=env, **settings.lineage()) as io, open_pool(env) as pool:
        total = 0.0
        for episode in reward(io.records(), io.watch(pool, "episode"), settings, count=io.count, on_error=io.fail):
            total += sum(turn["reward"] for turn in episode["transcript"])
            io.write(episode)
        if turns := io.counts["turn[s]"]:
            io.note(f"mean reward of a turn: {total / turns:.2f}")
