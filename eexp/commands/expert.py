"""`eexp expert`: demonstrations of the environment's own expert."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from eexp.acting.settings import ExpertSettings
from eexp.console import options
from eexp.console.parameters import command_options, option
from eexp.errors import InputError, UsageError, environment_errors
from eexp.records.record import succeeded
from eexp.settings import Whole

if TYPE_CHECKING:
    from eexp.console.stream import Stream
    from eexp.envs.base import Environment


def _due(env: Environment, split: str, n: int | None, skip: int, io: Stream) -> Iterator[dict]:
    """Yield the tasks to play, without those of other shards and those that an earlier run has played."""

    def name(task: dict) -> str:
        return f"{env.spec}/{task['id']}"

    for task in io.share(islice(env.list_tasks(split), skip, None if n is None else skip + n), name, name):
        if not io.done(name(task)):
            yield task


@click.command("expert")
@click.argument("env", type=options.ENV, metavar="ENV", envvar="EEXP_ENV", shell_complete=options.complete_env)
@option(None, "-n", "--number", type=Whole(0)).help("Number of tasks.  [default: all of the split]")
@option(0, "--skip", type=Whole(0)).help("Pass over that many tasks first.")
@option(None, "--split", metavar="NAME").help(
    "The split to take tasks from.  [default: the environment's first one, to train on]"
)
@option(False, "--all", "keep_failed").help("Keep trajectories that did not succeed, too.")
@command_options(ExpertSettings)
@options.streams(resume=True, shards=True, with_files=False)
def command(
    env: str,
    number: int | None,
    skip: int,
    split: str | None,
    keep_failed: bool,
    settings: ExpertSettings,
    stream: Stream,
) -> None:
    """Record an environment's own expert as trajectories.

    `eexp env list` shows what ENV may be. Trajectories that do not succeed are left out and counted. With --rejects
    FILE or --on-error skip they are set aside like bad records (exit code 4).

    With --noise the expert makes mistakes. At each step, with probability P, another admissible action is executed and
    recorded instead of the expert's, and the expert goes on from there. Such a step has "noise": true. Later stages
    treat it like any other step. The draws depend on --seed, the task and the number of the step. If the expert has no
    action after such a step, the trajectory ends and does not succeed. So the trajectories that are kept have somewhat
    fewer noisy actions than P; --all keeps everything.

    Where observations may depend on how fast the machine is, as on web sites, every trajectory is played a second time
    before it is written. One that goes differently is set aside.

    \b
    Example:
      eexp expert house -n 20 > expert.jsonl
    """
    from eexp.acting.expert import expert
    from eexp.envs import open_env

    with open_env(env) as world:
        with environment_errors(f"{env}: splits"):
            split = split or world.splits()[0]
            world.check_split(split)
        if not world.has("expert"):
            raise UsageError(
                f"{env} has no expert: record demonstrations with `eexp env play {env} -o FILE`, or read recorded "
                f"ones with `eexp import`"
            )
        more: dict[str, Any] = {"all": "yes" if keep_failed else None, "seed": settings.seed}
        with stream.open("expert", split=split, **settings.lineage(), **more) as io:
            tasks = _due(world, split, number, skip, io)
            trajectories = expert(world, tasks, settings, count=io.count, on_error=io.fail)
            for trajectory in io.progress(trajectories, "task", number):
                if keep_failed or succeeded(trajectory["outcome"]):
                    io.write(trajectory)
                    io.count("step[s]", len(trajectory["steps"]))
                    io.count("corrupted step[s]", sum("noise" in step for step in trajectory["steps"]))
                    continue
                io.count("trajector[y|ies] left out: the expert did not succeed")
                if stream.on_error == "skip":
                    io.fail(trajectory, InputError("the expert did not succeed", "$.outcome"))
