"""`eexp expert`: D_expert, from the environment's own expert (Early Experience, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import click

from eexp import options
from eexp.envs.base import Environment
from eexp.envs.listing import step_of
from eexp.errors import InputError
from eexp.jsonl import OnError, stop_at_error
from eexp.records import seed_of, succeeded


def expert(env: Environment, tasks: Iterator[dict], *, admissible: int | None = 50, max_steps: int | None = None,
           seed: int = 0, on_error: OnError = stop_at_error) -> Iterator[dict]:  # fmt: skip
    """One trajectory a task, played by `env.expert()`.

    admissible: how many admissible actions to keep a step (a seeded sample with the expert's own among them); 0 for
    none, None for all. A task whose expert fails is passed on too, with `outcome.success` false.
    """
    for task in tasks:
        try:
            yield _play(env, task, admissible, max_steps or env.max_steps, seed)
        except InputError as e:
            on_error({"type": "task", "id": f"{env.spec}/{task.get('id')}", "task": task}, e)


def _play(env: Environment, task: dict, admissible: int | None, max_steps: int, seed: int) -> dict:
    record_id = f"{env.spec}/{task['id']}"
    seen = env.reset(task)
    instruction = env.instruction()
    steps: list[dict] = []
    while not seen.done and len(steps) < max_steps:
        action = env.expert()
        if action is None:
            if not steps:
                raise InputError(f"{env.spec} has no expert for task {task['id']}")
            break
        steps.append(step_of(env, seen, action, admissible, seed_of(seed, record_id, len(steps))))
        seen = env.step(action)
    return {"type": "trajectory", "id": record_id, "env": env.spec, "task": task, "instruction": instruction,
            "steps": steps, "outcome": seen.outcome()}  # fmt: skip


def _chosen(env: Environment, split: str, n: int | None, skip: int, done: Callable[[str], bool]) -> Iterator[dict]:
    for task in islice(env.tasks(split), skip, None if n is None else skip + n):
        if not done(f"{env.spec}/{task['id']}"):
            yield task


@click.command("expert")
@click.argument("env", metavar="ENV", envvar="EEXP_ENV", shell_complete=options.complete_env)
@click.option("-n", "--number", type=click.IntRange(min=0), metavar="N",
              help="How many tasks.  [default: all of the split]")  # fmt: skip
@click.option("--skip", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="Pass over that many tasks first.")  # fmt: skip
@click.option("--split", metavar="NAME", help="Which tasks.  [default: the environment's first split, to train on]")
@options.admissible
@click.option("--max-steps", type=click.IntRange(min=1), metavar="N",
              help="Longest episode, in actions.  [default: the environment's]")  # fmt: skip
@click.option("--all", "keep_failed", is_flag=True, help="Keep trajectories that did not succeed, too.")
@options.seed
@options.streams(resume=True)
def command(env, number, skip, split, admissible, max_steps, keep_failed, seed, stream) -> None:
    """Record an environment's own expert as trajectories.

    ENV is one of those that `eexp env list` shows, exec:COMMAND or module:Class. Trajectories that do not succeed are
    left out and counted.

    \b
    Example:
      eexp expert house -n 20 > expert.jsonl
    """
    from tqdm import tqdm

    from eexp.envs import open_env

    with open_env(env) as world:
        split = split or world.splits()[0]
        world.check_split(split)
        with stream.open("expert", split=split, admissible="all" if admissible is None else admissible,
                         max_steps=max_steps, all="yes" if keep_failed else None, seed=seed) as io:  # fmt: skip
            tasks = _chosen(world, split, number, skip, io.done)
            made = expert(world, tasks, admissible=admissible, max_steps=max_steps, seed=seed, on_error=io.fail)
            for trajectory in tqdm(made, total=number, disable=None, unit="task", leave=False):
                if keep_failed or succeeded(trajectory["outcome"]):
                    io.write(trajectory)
                    io.count("steps", len(trajectory["steps"]))
                else:
                    io.count("left out: the expert did not succeed")
