"""`eexp env`: list, show, check and play environments."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import click

from eexp import options
from eexp.errors import EXIT_FAILED, EexpError, UsageError, environment_errors
from eexp.terminal import show, style

if TYPE_CHECKING:
    from eexp.envs.base import Environment, Observation


ENV = click.argument("spec", type=options.ENV, metavar="ENV", envvar="EEXP_ENV", shell_complete=options.complete_env)


@click.group("env")
def command() -> None:
    """List, show, check and play environments.

    An environment is named as in `eexp --help`; eexp-env(7) says how to write one as a program.

    \b
    Example:
      eexp env check house
    """


# -- list ------------------------------------------------------------------------------------------------------------


@command.command("list")
def list_command() -> None:
    """List the environments that have a name, and what each of them still needs.

    Environments written exec:COMMAND or module:Class have no name and are not listed.

    \b
    Example:
      eexp env list
    """
    from eexp.envs import environment_names

    names = environment_names()
    width = max(map(len, names))
    for name in names:
        show(f"{name:{width}}  {_state_of(name)}")


def _state_of(name: str) -> str:
    """Return what an environment is, or why it cannot be opened."""
    from eexp.envs import open_env

    try:
        with open_env(name) as env:
            return description(env)
    except EexpError as e:
        return style(f"not ready: {e}", dim=True)


def description(env: Environment) -> str:
    """Return the first sentence of an environment's docstring."""
    return " ".join((env.__doc__ or "").split()).partition(". ")[0].rstrip(".")


# -- show ------------------------------------------------------------------------------------------------------------


@command.command("show")
@ENV
@click.option("--task", metavar="ID", help="The task to show.  [default: the first]")
def show_command(spec: str, task: str | None) -> None:
    """Show what an environment offers: splits and counts, what it can do, and one task.

    \b
    Example:
      eexp env show house
    """
    from eexp.envs import open_env

    with open_env(spec) as env, environment_errors(spec):
        for line in describe(env, task):
            show(line)


def describe(env: Environment, task_id: str | None = None) -> Iterator[str]:
    """Yield lines that describe an environment and a task of it to a person."""
    from eexp.envs import forking
    from eexp.envs.base import FORK_WAYS
    from eexp.envs.check import MOST_TASKS

    yield f"{env.spec}: {description(env)}"
    for split in env.splits():
        n = sum(1 for _ in islice(env.list_tasks(split), MOST_TASKS))
        yield f"  {split}: {n:,} tasks" + (" and more" if n == MOST_TASKS else "")
    ways = ", ".join(way for way in FORK_WAYS if forking.why_unfit(env, way) is None)
    yield f"  at most {env.max_steps} actions an episode; branches by {ways}"
    task = find_task(env, task_id)
    observation = env.reset(task)
    listed, advice = env.admissible(), env.expert()
    yield f"  admissible actions: {'not listed' if listed is None else f'{len(listed)} at the beginning'}"
    yield f"  expert: {'none' if advice is None else 'yes'}"
    yield ""
    yield style(f"task {task['id']}", bold=True)
    yield f"  {env.instruction()}"
    yield f"  {observation.text}"
    for action in (listed or [])[:10]:
        yield style(f"  - {action}", fg="green" if action == advice else None)
    if listed and len(listed) > 10:
        yield f"  - and {len(listed) - 10} more"
    if advice is not None:
        yield style(f"  expert> {advice}", fg="green")


def find_task(env: Environment, task_id: str | None, split: str | None = None) -> dict:
    """Return the task with an id, or the first one without an id, in any split unless one is named.

    Raises UsageError if there is none.
    """
    for name in [split] if split else env.splits():
        for task in env.list_tasks(name):
            if task_id in (None, task["id"]):
                return task
    raise UsageError(f"{env.spec} has no task {task_id!r}" if task_id else f"{env.spec} has no tasks")


# -- check -----------------------------------------------------------------------------------------------------------


@command.command("check")
@ENV
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Number of tasks of the first split to play; of every other split, one is played.",
)
@click.option(
    "--action",
    "actions",
    multiple=True,
    metavar="TEXT",
    help="An action to try, for an environment with neither expert nor admissible list. May be repeated.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    envvar="EEXP_ENV_TIMEOUT",
    show_envvar=True,
    help="Longest answer.",
)
@options.seed
def check_command(spec: str, number: int, actions: tuple[str, ...], timeout: float, seed: int) -> None:
    """Check that an environment keeps its contract, so that its branches can be trusted.

    Some tasks are played, and then played again: in the same environment and in one opened anew, with and without
    asking for admissible actions and the expert, beside another one if it calls itself light, around forks, around
    actions it calls harmless, around nonsense.
    The observations must be the same each time. Every line begins with ok, FAIL, note (worth knowing, nothing is
    broken) or - (not tried). It is a failure, too, if no action could be taken at all. Exit code 1 if anything failed.

    \b
    Example:
      eexp env check house
    """
    from eexp.envs import check, open_env
    from eexp.workers.supervisor import ONE_THREAD

    os.environ.update({**ONE_THREAD, **os.environ, "EEXP_ENV_TIMEOUT": str(timeout)})

    checker = check.Checker(lambda: open_env(spec), tasks=number, limit=timeout, seed=seed, actions=actions)
    failed = 0
    colours = {check.OK: "green", check.FAILED: "red", check.NOTE: "yellow"}
    for result in checker.findings():
        failed += result.verdict == check.FAILED
        verdict = style(f"{result.verdict:4}", fg=colours.get(result.verdict))
        show(f"{verdict}  {result.check:12}  {result.detail}")
    if failed:
        sys.exit(EXIT_FAILED)


# -- play ------------------------------------------------------------------------------------------------------------


@command.command("play")
@ENV
@click.option("--task", metavar="ID", help="The task to play.  [default: the first of the split]")
@click.option("--split", metavar="NAME", help="The split to look in.  [default: all splits, the first one first]")
@click.option(
    "-o", "--output", type=options.PATH, metavar="FILE", help="Add the episode to this file, as a trajectory."
)
def play_command(spec: str, task: str | None, split: str | None, output: str | None) -> None:
    """Play a task by hand. Tab completes admissible actions.

    A line is an action. `?` lists the admissible actions, `!` shows the action of the expert, and an empty line or
    Ctrl-D ends the episode. With -o the episode is kept as a demonstration, which `eexp branch` reads like any other.

    \b
    Example:
      printf 'look\\n?\\n' | eexp env play house
    """
    from eexp.envs import open_env
    from eexp.jsonl import append, dumps
    from eexp.records import lineage_entry, with_lineage

    with open_env(spec) as env, environment_errors(spec):
        trajectory = play(env, find_task(env, task, split), _reader(env))
    if output and trajectory["steps"]:
        line = dumps(with_lineage(trajectory, lineage_entry("env-play")))
        append(line, output)


def play(env: Environment, task: dict, read: Callable[[], str]) -> dict:
    """Play one episode with the actions that `read` returns, "" at its end; return it as a trajectory."""
    from eexp.envs.listing import offered

    first = observation = env.reset(task)
    instruction = env.instruction()
    show(style(instruction, bold=True))
    _show_tools(first)
    _show_observation(observation)
    steps = []
    while not observation.done and (action := read()):
        if action == "?":
            show("\n".join(f"  {a}" for a in env.admissible() or ["(no list)"]))
        elif action == "!":
            show(f"  {env.expert() or '(nothing to say)'}")
        else:
            listed = env.admissible()
            tools = offered(observation) if steps else {}
            state = {"observation": observation.text, "action": action, "admissible": listed, "thought": None, **tools}
            steps.append(state)
            observation = env.step(action)
            _show_tools(observation)
            _show_observation(observation)
    return {
        "type": "trajectory",
        "id": f"{env.spec}/{task['id']}",
        "env": env.spec,
        "task": task,
        "instruction": instruction,
        **offered(first),
        "steps": steps,
        "outcome": observation.outcome(),
    }


def _show_tools(observation: Observation) -> None:
    """Show the functions that come with an observation, one a line."""
    from eexp.prompts.tool_calls import described_tool

    for tool in observation.tools or []:
        show(style(f"  {described_tool(tool)}", dim=True))


def _show_observation(observation: Observation) -> None:
    from eexp.records import succeeded

    show(style(observation.text, fg=None if observation.valid else "red"))
    if observation.done:
        score = "" if observation.score is None else f", score {observation.score:g}"
        success = ", success" if succeeded(observation.outcome()) else ", failure"
        show(style(f"done{score}{success}", bold=True))


def _reader(env: Environment) -> Callable[[], str]:
    """Return a function that reads a line from a person, with completion, or from a pipe."""
    if not sys.stdin.isatty():
        return lambda: sys.stdin.readline().strip()
    import readline

    def complete(beginning: str, n: int) -> str | None:
        matching = [a for a in env.admissible() or [] if a.startswith(beginning)]
        return matching[n] if n < len(matching) else None

    readline.set_completer_delims("")  # an action is one word to complete
    readline.set_completer(complete)
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")

    def ask() -> str:
        try:
            return input("> ").strip()
        except EOFError:
            show()
            return ""

    return ask
