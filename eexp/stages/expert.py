"""`eexp expert`: demonstrations of the environment's own expert, D_expert (Early Experience, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from eexp import options
from eexp.callbacks import Count, OnError, no_count, stop_at_error
from eexp.errors import EexpError, InputError, UsageError, environment_errors, unexpected_error
from eexp.records import canonical, seed_of, succeeded
from eexp.settings import command_options, option

if TYPE_CHECKING:
    from eexp.envs.base import Environment
    from eexp.stream import Stream


@dataclass(frozen=True)
class ExpertSettings:
    """Settings of `expert`.

    Attributes:
        admissible: How many admissible actions to keep a step (a seeded sample with the expert's own among them); 0 for
            none, None for all.
        max_steps: Longest episode, in actions; None for the environment's own limit.
        noise: The probability with which a step takes another admissible action, drawn uniformly, instead of the
            expert's.
    """

    admissible: int | None = options.admissible.field()
    max_steps: int | None = options.max_steps.field()
    noise: float = option(
        0,
        type=options.Finite(0, 1, max_open=True),
        metavar="P",
        help="Share of the expert's actions that are replaced by another admissible action, drawn at random.",
    )
    seed: int = options.seed.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings that decide the output but for the seed, by the names of their options."""
        admissible = "all" if self.admissible is None else self.admissible
        return {"admissible": admissible, "max_steps": self.max_steps, "noise": self.noise or None}


def expert(
    env: Environment,
    tasks: Iterator[dict],
    settings: ExpertSettings | None = None,
    *,
    count: Count = no_count,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield one trajectory a task, played by `env.expert()`.

    A task in which the expert fails is passed on too, with `outcome.success` false. A step with another action than the
    expert's has `noise` true, and the expert goes on from where that action led. Where it has no action there, the
    trajectory ends.

    Args:
        env: The environment.
        tasks: Tasks of it.
        settings: How to play.
        count: Called with what became of corrupted actions.
        on_error: Called with a task that cannot be played.

    Raises:
        UsageError: `settings.noise` is not 0, and the environment lists no admissible actions.
    """
    settings = settings or ExpertSettings()
    for task in tasks:
        try:
            yield _play(env, task, settings, count)
        except InputError as e:
            on_error(_task_record(env, task), e)
        except (EexpError, MemoryError):
            raise
        except Exception as e:
            on_error(_task_record(env, task), unexpected_error(e))


def _task_record(env: Environment, task: dict) -> dict:
    """Return the record that stands for a task in messages and rejects."""
    return {"type": "task", "id": f"{env.spec}/{task.get('id')}", "task": task}


def _play(env: Environment, task: dict, settings: ExpertSettings, count: Count) -> dict:
    from eexp.envs.listing import offered, trajectory_step

    record_id = f"{env.spec}/{task['id']}"
    first = env.reset(task)
    observation, instruction = first.at_beginning(), env.instruction()
    if settings.noise and env.admissible() is None:
        raise UsageError(f"--noise draws from the admissible actions, and {env.spec} lists none")
    steps: list[dict] = []
    while not observation.done and len(steps) < (settings.max_steps or env.max_steps):
        action = env.expert()
        if action is None:
            if not steps:
                raise InputError(f"{env.spec} has no expert for task {task['id']}")
            if any("noise" in step for step in steps):
                count("trajector[y|ies] in which the expert had no action after a corrupted step", 1)
            break
        noise_seed = seed_of(settings.seed, task["id"], len(steps), "expert noise")
        other = _corrupted(env, action, settings.noise, noise_seed, count)
        list_seed = seed_of(settings.seed, record_id, len(steps))
        step = trajectory_step(env, observation, other or action, settings.admissible, list_seed)
        steps.append({**step, "noise": True} if other else step)
        observation = env.step(other or action)
    return {
        "type": "trajectory",
        "id": record_id,
        "env": env.spec,
        "task": task,
        "instruction": instruction,
        **offered(first),
        "steps": steps,
        "outcome": observation.outcome(),
    }


def _corrupted(env: Environment, action: str, noise: float, seed: int, count: Count) -> str | None:
    """Return another admissible action to take instead of the expert's; None where the expert's is to be taken.

    The seed depends neither on `noise` nor on the name of the environment: a step that is corrupted with a small share
    is also corrupted with a larger one.
    """
    import random

    draw = random.Random(seed)
    if draw.random() >= noise:
        return None
    different = {canonical(one): one for one in env.admissible() or [] if canonical(one) != canonical(action)}
    others = list(different.values())
    if not others:
        count("step[s] not corrupted, since no other action was admissible", 1)
        return None
    return draw.choice(others)


def _due(env: Environment, split: str, n: int | None, skip: int, done: Callable[[str], bool]) -> Iterator[dict]:
    """Yield the tasks to play, without those that an earlier run has played."""
    for task in islice(env.list_tasks(split), skip, None if n is None else skip + n):
        if not done(f"{env.spec}/{task['id']}"):
            yield task


@click.command("expert")
@click.argument("env", type=options.ENV, metavar="ENV", envvar="EEXP_ENV", shell_complete=options.complete_env)
@click.option(
    "-n", "--number", type=click.IntRange(min=0), metavar="N", help="Number of tasks.  [default: all of the split]"
)
@click.option(
    "--skip",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Pass over that many tasks first.",
)
@click.option(
    "--split",
    metavar="NAME",
    help="The split to take tasks from.  [default: the environment's first one, to train on]",
)
@click.option("--all", "keep_failed", is_flag=True, help="Keep trajectories that did not succeed, too.")
@command_options(ExpertSettings)
@options.streams(resume=True, with_files=False)
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

    ENV is one of those that `eexp env list` shows, exec:COMMAND or module:Class. Trajectories that do not succeed are
    left out and counted.

    With --noise the expert makes mistakes: at each step, with probability P, another admissible action is executed and
    recorded instead of its own, and the expert goes on from where that led. Such a step has "noise": true, which only
    marks it; later stages treat it like any other. What is drawn is decided by --seed, the task and the number of the
    step. A trajectory ends where the expert has no action after such a step. It is left out like any other that did not
    succeed, so the trajectories that are kept have somewhat fewer corrupted actions than P; --all keeps everything.

    \b
    Example:
      eexp expert house -n 20 > expert.jsonl
    """
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
            tasks = _due(world, split, number, skip, io.done)
            trajectories = expert(world, tasks, settings, count=io.count, on_error=io.fail)
            for trajectory in io.progress(trajectories, "task", number):
                if keep_failed or succeeded(trajectory["outcome"]):
                    io.write(trajectory)
                    io.count("step[s]", len(trajectory["steps"]))
                    io.count("corrupted step[s]", sum("noise" in step for step in trajectory["steps"]))
                else:
                    io.count("trajector[y|ies] left out: the expert did not succeed")
