"""`eexp compare`: which method is better on the same tasks, by how much, and how sure that is."""

from __future__ import annotations

import glob
import os
from functools import partial
from pathlib import Path

import click

from eexp import options
from eexp.errors import UsageError
from eexp.terminal import show, tell


def expand(arguments: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the files of each method, from arguments FILE, NAME=FILE and NAME=PATTERN.

    Raises:
        UsageError: Two methods without a name would have the same one, a pattern matches no file, or a file is given
            twice for one method.
    """
    groups: dict[str, list[str]] = {}
    unnamed: set[str] = set()
    for text in arguments:
        name, pattern = _split_name(text)
        named = name is not None
        files = _files(pattern)
        if not files:
            raise UsageError(f"{text}: no file has such a name")
        for file in files:
            label = Path(file).stem if name is None else name
            if label in unnamed or (label in groups and not named):
                raise UsageError(f"two groups are called {label!r}; name them: NAME=FILE")
            if not named:
                unnamed.add(label)
            if any(os.path.realpath(file) == os.path.realpath(other) for other in groups.get(label, [])):
                raise UsageError(f"{label}: {file} is given twice; each file is one training run")
            groups.setdefault(label, []).append(file)
    return groups


def _split_name(text: str) -> tuple[str | None, str]:
    """Split FILE, NAME=FILE or NAME=PATTERN; return the name, None where there is none, and the file or pattern.

    Each of them may contain a = (`runs/lr=0.1/il.jsonl`): the first split that names an existing file counts. Without
    one it is that at the first =, unless a directory stands before it.
    """
    places = [i for i, character in enumerate(text) if character == "="]
    splits: list[tuple[str | None, str]] = [(None, text), *((text[:i], text[i + 1 :]) for i in places)]
    for name, pattern in splits:
        if name != "" and _files(pattern, existing=True):
            return name, pattern
    name, pattern = splits[1] if places and "/" not in text[: places[0]] else splits[0]
    if name == "" or not pattern:
        raise UsageError(f"{text!r}: expected FILE or NAME=FILE")
    return name, pattern


def _files(pattern: str, *, existing: bool = False) -> list[str]:
    """Return the files that `pattern` names, sorted; with `existing`, no file that does not exist."""
    if pattern == "-" or os.path.exists(pattern):
        return [pattern]
    if glob.has_magic(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    return [] if existing else [pattern]


@click.command("compare")
@click.argument("files", nargs=-1, type=options.PATH, metavar="[NAME=]FILE...")
@click.option("--baseline", metavar="NAME", help="The method to compare the others with.  [default: the first]")
@options.confidence
@click.option(
    "--looks",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="How often in all this comparison is looked at while runs or tasks are added; intervals of "
    "differences and p values then allow for it.",
)
@options.common
@click.option("--by-kind", is_flag=True, help="Add a table of success by kind of task.")
@click.option("--refused", is_flag=True, help="Add a table of the share of refused actions, with its differences.")
@click.option("--json", "as_json", is_flag=True, help="Print JSONL, one line a row, instead of a table.")
@click.option(
    "--plot",
    "picture",
    type=options.PATH,
    metavar="FILE",
    help="Draw rates and differences with their intervals, as PNG or SVG.",
)
@click.option(
    "--power",
    "plan",
    is_flag=True,
    help="Compare nothing, but compute which improvement over the baseline a comparison could find.",
)
@click.option(
    "--rate",
    type=options.Finite(0, 1, min_open=True, max_open=True),
    metavar="RATE",
    help="For --power: success of the baseline, 0.2 for 20 %.  [default: that of the files]",
)
@click.option(
    "--tasks",
    "tasks",
    type=click.IntRange(min=2),
    multiple=True,
    metavar="N",
    help="For --power: tasks in the panel. May be repeated.  [default: 50, 100, 200, 500 and 1000]",
)
@click.option(
    "--runs",
    "runs",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="N",
    help="For --power: training runs of each method. May be repeated.  [default: 1, 3 and 5]",
)
@click.option(
    "--run-sd",
    type=options.Finite(0, 0.5),
    metavar="SD",
    help="For --power: standard deviation of success between training runs.  [default: that of the files, else 0.03]",
)
@click.option(
    "--alike",
    type=options.Finite(0, 1, max_open=True),
    metavar="R",
    help="For --power: correlation of success of two models on the same task.  [default: that of the files' "
    "runs, else 0.3]",
)
def command(
    files,
    baseline,
    confidence,
    looks,
    common,
    by_kind,
    refused,
    as_json,
    picture,
    plan,
    rate,
    tasks,
    runs,
    run_sd,
    alike,
) -> None:
    """Compare methods by their episodes: success, differences, how sure.

    Every FILE holds the episodes of one training run. Files with the same NAME are runs of one method, and
    NAME='runs/*/il.jsonl' names several; without NAME a file is a method of its own. All must be of the same tasks.

    Rates and differences are means over runs, never the best one. Intervals and p hold over tasks and training runs;
    with one run a method they hold for those models alone. Holm corrects p for the number of methods. See
    docs/evidence.md.

    \b
    Example:
      eexp eval house -m random -n 30 > random.jsonl
      eexp eval house -m expert -n 30 > expert.jsonl
      eexp compare random.jsonl expert.jsonl
      eexp compare --power --rate 0.2 --tasks 500 --runs 5
    """
    from eexp.jsonl import dumps, read, write_to_stdout

    power_options = {"--rate": rate, "--tasks": tasks, "--runs": runs, "--run-sd": run_sd, "--alike": alike}
    unused = [name for name, value in power_options.items() if value not in (None, ()) and not plan]
    if unused:
        raise click.UsageError(f"{unused[0]} is for --power")
    if not files and not (plan and rate is not None):
        raise click.UsageError("Missing argument '[NAME=]FILE...'" + (", or --rate" if plan else ""))
    named = expand(files)
    groups = {label: [read([file], "episode") for file in names] for label, names in named.items()}
    if plan:
        if picture or looks > 1 or common or by_kind or refused:
            raise click.UsageError("--power takes no --plot, --looks, --common, --by-kind and --refused")
        from eexp.evidence.power import plans
        from eexp.evidence.table import power_table

        if baseline is not None and baseline not in groups:
            raise UsageError(f"no group is called {baseline!r}; there are: {', '.join(groups)}")
        first = baseline if baseline is not None else next(iter(groups), None)
        pilot = groups[first] if first is not None else []
        others = [name for name in groups if name != first]
        if others:
            tell(f"note: --power uses the baseline alone, {first}, and not {', '.join(others)}")
        rows = plans(
            pilot,
            rate=rate,
            tasks=tasks or (50, 100, 200, 500, 1000),
            runs=runs or (1, 3, 5),
            run_sd=run_sd,
            alike=alike,
            confidence=confidence,
            files=named.get(first) if first is not None else None,
        )
        render = power_table
    else:
        from eexp.evidence.comparison import compare
        from eexp.evidence.table import comparison_table

        rows = compare(groups, baseline=baseline, confidence=confidence, looks=looks, common=common, files=named)
        if picture:
            from eexp.evidence.plot import plot

            for note in plot(rows, picture):
                tell(f"note: {note}")
        render = partial(comparison_table, by_kind=by_kind, refused=refused)
    if as_json:
        write_to_stdout(b"".join(map(dumps, rows)))
    else:
        show(render(rows))
