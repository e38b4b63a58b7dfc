"""`eexp expert`: D_expert, from the environment's own expert (Early Experience, section 3)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

import click

from eexp import options
from eexp.envs.base import Environment
from eexp.envs.listing import step_of
from eexp.errors import InputError, UsageError
from eexp.records import canonical, seed_of, succeeded
from eexp.stream import OnError, stop_at_error

Count = Callable[[str, int], None]


def expert(
    env: Environment,
    tasks: Iterator[dict],
    *,
    admissible: int | None = 50,
    max_steps: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
    count: Count = lambda what, n=1: None,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """One trajectory a task, played by `env.expert()`.

    admissible: how many admissible actions to keep a step (a seeded sample with the expert's own among them); 0 for
    none, None for all. A task whose expert fails is passed on too, with `outcome.success` false.

    noise: the probability with which a step takes another admissible action, drawn uniformly, instead of the expert's.
    Such a step has `noise` true, and the expert goes on from where it led. Where it does not know how, the trajectory
    ends there, which `count` is told of. Raises UsageError where the environment lists no admissible actions.
    """
    for task in tasks:
        try:
            yield _play(env, task, admissible, max_steps or env.max_steps, noise, seed, count)
        except InputError as e:
            on_error({"type": "task", "id": f"{env.spec}/{task.get('id')}", "task": task}, e)


def _play(
    env: Environment, task: dict, admissible: int | None, max_steps: int, noise: float, seed: int, count: Count
) -> dict:
    record_id = f"{env.spec}/{task['id']}"
    seen = env.reset(task)
    instruction = env.instruction()
    if noise and env.admissible() is None:
        raise UsageError(f"--noise draws from the admissible actions, and {env.spec} lists none")
    steps: list[dict] = []
    while not seen.done and len(steps) < max_steps:
        action = env.expert()
        if action is None:
            if not steps:
                raise InputError(f"{env.spec} has no expert for task {task['id']}")
            if any("noise" in step for step in steps):
                count("lost after a corrupted action", 1)
            break
        other = _corrupted(env, action, noise, seed_of(seed, task["id"], len(steps), "expert noise"), count)
        step = step_of(env, seen, other or action, admissible, seed_of(seed, record_id, len(steps)))
        steps.append({**step, "noise": True} if other else step)
        seen = env.step(other or action)
    return {
        "type": "trajectory",
        "id": record_id,
        "env": env.spec,
        "task": task,
        "instruction": instruction,
        "steps": steps,
        "outcome": seen.outcome(),
    }


def _corrupted(env: Environment, action: str, noise: float, seed: int, count: Count) -> str | None:
    """Another admissible action to take instead of the expert's; None where the expert's is to be taken.

    The seed knows neither `noise` nor what the environment is called: a step that is corrupted with a small share is
    also corrupted with a larger one.
    """
    draw = random.Random(seed)
    if draw.random() >= noise:
        return None
    different = {canonical(one): one for one in env.admissible() or [] if canonical(one) != canonical(action)}
    others = list(different.values())
    if not others:
        count("not corrupted for want of another action", 1)
        return None
    return draw.choice(others)


def _chosen(env: Environment, split: str, n: int | None, skip: int, done: Callable[[str], bool]) -> Iterator[dict]:
    for task in islice(env.tasks(split), skip, None if n is None else skip + n):
        if not done(f"{env.spec}/{task['id']}"):
            yield task


@click.command("expert")
@click.argument("env", type=options.ENV, metavar="ENV", envvar="EEXP_ENV", shell_complete=options.complete_env)
@click.option(
    "-n", "--number", type=click.IntRange(min=0), metavar="N", help="How many tasks.  [default: all of the split]"
)
@click.option(
    "--skip",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Pass over that many tasks first.",
)
@click.option("--split", metavar="NAME", help="Which tasks.  [default: the environment's first split, to train on]")
@options.admissible
@click.option(
    "--max-steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Longest episode, in actions.  [default: the environment's]",
)
@click.option(
    "--noise",
    type=options.Finite(0, 1, max_open=True),
    default=0,
    show_default=True,
    metavar="P",
    help="Share of the expert's actions that are replaced by another admissible action, drawn at random.",
)
@click.option("--all", "keep_failed", is_flag=True, help="Keep trajectories that did not succeed, too.")
@options.seed
@options.streams(resume=True)
def command(env, number, skip, split, admissible, max_steps, noise, keep_failed, seed, stream) -> None:
    """Record an environment's own expert as trajectories.

    ENV is one of those that `eexp env list` shows, exec:COMMAND or module:Class. Trajectories that do not succeed are
    left out and counted.

    With --noise the expert makes mistakes: at each step, with probability P, another admissible action is executed and
    recorded instead of its own, and the expert goes on from where that led. Such a step has "noise": true, which only
    marks it; later stages treat it like any other. What is drawn is decided by --seed, the task and the number of the
    step. A trajectory ends where the expert has nothing to say after such an action. It is left out like any other
    that did not succeed, so what is kept has somewhat fewer corrupted actions than P; --all keeps everything.

    \b
    Example:
      eexp expert house -n 20 > expert.jsonl
    """
    from tqdm import tqdm

    from eexp.envs import open_env

    with open_env(env) as world:
        split = split or world.splits()[0]
        world.check_split(split)
        with stream.open(
            "expert",
            split=split,
            admissible="all" if admissible is None else admissible,
            max_steps=max_steps,
            noise=noise or None,
            all="yes" if keep_failed else None,
            seed=seed,
        ) as io:
            tasks = _chosen(world, split, number, skip, io.done)
            made = expert(
                world,
                tasks,
                admissible=admissible,
                max_steps=max_steps,
                noise=noise,
                seed=seed,
                count=io.count,
                on_error=io.fail,
            )
            for trajectory in tqdm(made, total=number, disable=None, unit="task", leave=False):
                if keep_failed or succeeded(trajectory["outcome"]):
                    io.write(trajectory)
                    io.count("steps", len(trajectory["steps"]))
                    io.count("of them corrupted", sum("noise" in step for step in trajectory["steps"]))
                else:
                    io.count("left out: the expert did not succeed")
