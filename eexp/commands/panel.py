"""`eexp panel`: a fixed list of tasks, for every method to play (eexp/evidence/panels.py)."""

from __future__ import annotations

from collections import Counter

import click

from eexp.console import options
from eexp.console.parameters import option, parameter
from eexp.errors import EexpError, environment_errors
from eexp.settings import FILE, SEED, Whole
from eexp.system.terminal import tell


@click.command("panel")
@click.argument(
    "env", type=options.ENV, metavar="[ENV]", required=False, envvar="EEXP_ENV", shell_complete=options.complete_env
)
@option(None, "--split", "splits", multiple=True, metavar="NAME").help(
    "Take tasks of this split. May be repeated: N of each.  [default: test]"
)
@option(None, "-n", "--number", type=Whole(1)).help("Number of tasks of every split.  [default: all]")
@option(None, "--apart-from", type=FILE, multiple=True).help(
    "Leave out tasks that occur in this file of trajectories, examples, episodes or tasks. May be repeated."
)
@option(None, "--check", "checked", type=FILE).help(
    "Make no panel, but fail if a task of this one occurs in an --apart-from FILE."
)
@parameter(SEED)
@option(None, "-o", "--output", type=FILE).help("Write here instead of standard output.")
@option(False, "-q", "--quiet").help("No summary on standard error.")
def command(env, splits, number, apart_from, checked, seed, output, quiet) -> None:
    """Choose a fixed list of tasks to play, or check one.

    A panel is a file with one task a line. Two panels are the same if their hashes are equal. The order of the lines
    does not matter, so cat, shuf and grep make panels of panels. With seed 0, the tasks are those that `eexp eval -n`
    plays. --check ends with exit code 1 if the panel and the files have a task in common.

    \b
    Example:
      eexp expert house -n 20 > expert.jsonl
      eexp panel house -n 10 --apart-from expert.jsonl -o panel.jsonl
      eexp panel --check panel.jsonl --apart-from expert.jsonl
      eexp eval --panel panel.jsonl -m random > episodes.jsonl
    """
    from eexp.console.stream import Stream
    from eexp.envs.task_names import TaskNames
    from eexp.evidence.panels import check_panel, make_panel, panel_hash
    from eexp.records.jsonl import read
    from eexp.records.types import TYPES

    excluded = TaskNames(record for file in apart_from for record in read([file], *TYPES))
    if checked is not None:
        if splits or number is not None or output is not None:
            raise click.UsageError("--check reads a panel; leave out --split, -n and -o")
        if not apart_from:
            raise click.UsageError("--check needs --apart-from FILE")
        lines = check_panel(checked, read([checked], "task"), excluded, apart_from, env)
        if not quiet:
            tell(f"panel: {panel_hash(lines)}, {len(lines)} tasks, none of which occurs in {' or '.join(apart_from)}")
        return
    if env is None:
        raise click.UsageError("Missing argument 'ENV'")
    from eexp.envs import open_env

    left_out: list[dict] = []
    with open_env(env) as environment, environment_errors(env):
        splits = list(dict.fromkeys(splits)) or ["test"]
        for split in splits:
            environment.check_split(split)
        chosen = list(
            make_panel(environment, splits, number, seed=seed, excluded=excluded, on_excluded=left_out.append)
        )
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
