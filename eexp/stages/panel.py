"""`eexp panel`: a fixed list of tasks, for every method to play."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence

import click

from eexp import options
from eexp.envs.base import Environment
from eexp.errors import EexpError, environment_errors
from eexp.terminal import tell


def choose(
    env: Environment,
    splits: Sequence[str],
    n: int | None = None,
    *,
    seed: int = 0,
    excluded: Container[dict] = (),
    on_excluded: Callable[[dict], None] = lambda line: None,
) -> Iterator[dict]:
    """Yield the lines of a panel.

    Tasks are taken in the order of a hash of their ids, so that smaller panels are parts of larger ones.

    Args:
        env: The environment.
        splits: The splits to take tasks of.
        n: Tasks of every split; None for all.
        seed: Of the order; 0 is the order of `eexp eval -n`.
        excluded: Holds the lines whose tasks are left out (`evidence.panels.TaskNames`).
        on_excluded: Called with each line that is left out.
    """
    from eexp.evidence.panels import draw, env_of_tasks, task_record

    for split in splits:
        remaining = n
        for task in draw(env.list_tasks(split), seed=seed):
            if remaining == 0:
                break
            line = task_record(env_of_tasks(env.spec), task, env.kind_of(task))
            if line in excluded:
                on_excluded(line)
                continue
            remaining = None if remaining is None else remaining - 1
            yield line


@click.command("panel")
@click.argument(
    "env", type=options.ENV, metavar="[ENV]", required=False, envvar="EEXP_ENV", shell_complete=options.complete_env
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="NAME",
    help="Take tasks of this split. May be repeated: N of each.  [default: test]",
)
@click.option(
    "-n", "--number", type=click.IntRange(min=1), metavar="N", help="Number of tasks of every split.  [default: all]"
)
@click.option(
    "--apart-from",
    multiple=True,
    type=options.PATH,
    metavar="FILE",
    help="Leave out tasks that occur in this file of trajectories, examples, episodes or tasks. May be repeated.",
)
@click.option(
    "--check",
    "checked",
    type=options.PATH,
    metavar="FILE",
    help="Make no panel, but fail if a task of this one occurs in an --apart-from FILE.",
)
@options.seed
@click.option("-o", "--output", type=options.PATH, metavar="FILE", help="Write here instead of standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No summary on standard error.")
def command(env, splits, number, apart_from, checked, seed, output, quiet) -> None:
    """Choose a fixed list of tasks to play, or check one.

    A panel is a file with a task a line. Its hash says whether two panels are the same. The order of its lines does not
    matter, so cat, shuf and grep make panels of panels. Seed 0 takes the tasks that `eexp eval -n` plays. --check ends
    with exit code 1 where the panel and the files have a task in common.

    \b
    Example:
      eexp expert house -n 20 > expert.jsonl
      eexp panel house -n 10 --apart-from expert.jsonl -o panel.jsonl
      eexp panel --check panel.jsonl --apart-from expert.jsonl
      eexp eval --panel panel.jsonl -m random > episodes.jsonl
    """
    from eexp.evidence.panels import TaskNames, panel_hash
    from eexp.jsonl import read
    from eexp.record_types import TYPES
    from eexp.stream import Stream

    excluded = TaskNames()
    for record in (record for file in apart_from for record in read([file], *TYPES)):
        excluded.add(record)
    if checked is not None:
        if splits or number is not None or output is not None:
            raise click.UsageError("--check reads a panel; leave out --split, -n and -o")
        if not apart_from:
            raise click.UsageError("--check needs --apart-from FILE")
        _check(checked, env, excluded, apart_from, quiet)
        return
    if env is None:
        raise click.UsageError("Missing argument 'ENV'")
    from eexp.envs import open_env

    left_out: list[dict] = []
    with open_env(env) as environment, environment_errors(env):
        splits = list(dict.fromkeys(splits)) or ["test"]
        for split in splits:
            environment.check_split(split)
        chosen = list(choose(environment, splits, number, seed=seed, excluded=excluded, on_excluded=left_out.append))
    counts = Counter(line["split"] for line in chosen)
    short = next((split for split in splits if number is not None and counts[split] < number), None)
    if short is not None:
        raise EexpError(
            f"{env} has only {counts[short]} tasks of {short}"
            f"{' apart from those files' if apart_from else ''}, not {number}"
        )
    with Stream(apart_from, output, quiet=True).open("panel") as io:
        for line in chosen:
            io.write(line, lineage=False)
    if not quiet:
        parts = ", ".join(f"{counts[split]} of {split}" for split in splits)
        passed_over = f"; {len(left_out)} left out, which occur elsewhere" if apart_from else ""
        tell(f"panel: {panel_hash(chosen)}, tasks: {parts}{passed_over}")


def _check(panel: str, env: str | None, excluded: Container[dict], files: Sequence[str], quiet: bool) -> None:
    """Raise EexpError if tasks of a panel are among those excluded."""
    from eexp.evidence.panels import panel_hash, task_record, tasks_of
    from eexp.jsonl import read

    env, tasks = tasks_of(panel, read([panel], "task"), env)
    lines = [task_record(env, task) for task in tasks]
    common = [line["task"]["id"] for line in lines if line in excluded]
    if common:
        raise EexpError(
            f"{panel}: {len(common)} of {len(lines)} tasks also occur in {' or '.join(files)}, such as "
            f"{env} {common[0]}"
        )
    if not quiet:
        tell(f"panel: {panel_hash(lines)}, {len(lines)} tasks, none of which occurs in {' or '.join(files)}")
