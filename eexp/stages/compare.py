"""`eexp compare`: which method is better on the same tasks, by how much, and how sure that is."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import click

from eexp import options
from eexp.errors import UsageError


def expand(arguments: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the files of each method, from arguments FILE, NAME=FILE and NAME=PATTERN.

    Raises UsageError where two methods without a name would have the same one, a pattern matches no file, or a file is
    given twice for one method.
    """
    groups: dict[str, list[str]] = {}
    unnamed: set[str] = set()
    for text in arguments:
        name, named, pattern = text.rpartition("=")
        files = [pattern]
        if glob.has_magic(pattern) and not os.path.exists(pattern):
            files = sorted(glob.glob(pattern, recursive=True))
            if not files:
                raise UsageError(f"{text}: no file has such a name")
        for file in files:
            label = name if named else Path(file).stem
            if label in unnamed or (label in groups and not named):
                raise UsageError(f"two groups are called {label!r}; name them: NAME=FILE")
            if not named:
                unnamed.add(label)
            if any(os.path.realpath(file) == os.path.realpath(other) for other in groups.get(label, [])):
                raise UsageError(f"{label}: {file} is given twice; each file is one training run")
            groups.setdefault(label, []).append(file)
    return groups


@click.command("compare")
@click.argument("files", nargs=-1, type=options.PATH, metavar="[NAME=]FILE...")
@click.option("--baseline", metavar="NAME", help="The method to compare the others with.  [default: the first]")
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True, metavar="LEVEL",
              help="Confidence of the intervals.")  # fmt: skip
@click.option("--looks", type=click.IntRange(1, 100), default=1, show_default=True, metavar="N",
              help="How often in all this comparison is looked at while runs or tasks are added; intervals of "
              "differences and p values then allow for it.")  # fmt: skip
@click.option("--common", is_flag=True,
              help="Compare on the tasks that all files have, instead of refusing different ones.")  # fmt: skip
@click.option("--by-kind", is_flag=True, help="Add a table of success by kind of task.")
@click.option("--json", "as_json", is_flag=True, help="Print JSONL, one line a row, instead of a table.")
@click.option("--plot", "picture", type=options.PATH, metavar="FILE",
              help="Draw rates and differences with their intervals, as PNG or SVG.")  # fmt: skip
@click.option("--power", "plan", is_flag=True,
              help="Compare nothing, but say which improvement over the baseline a comparison could find.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(0, 1, min_open=True, max_open=True), metavar="RATE",
              help="For --power: success of the baseline, 0.2 for 20 %.  [default: that of the files]")  # fmt: skip
@click.option("--tasks", "tasks", type=click.IntRange(min=2), multiple=True, metavar="N",
              help="For --power: tasks in the panel. May be repeated.  "
              "[default: 50, 100, 200, 500 and 1000]")  # fmt: skip
@click.option("--runs", "runs", type=click.IntRange(min=1), multiple=True, metavar="N",
              help="For --power: training runs of each method. May be repeated.  [default: 1, 3 and 5]")  # fmt: skip
@click.option("--run-sd", type=click.FloatRange(0, 0.5), metavar="SD",
              help="For --power: standard deviation of success between training runs.  [default: that of the files, "
              "else 0.03]")  # fmt: skip
@click.option("--alike", type=click.FloatRange(0, 1, max_open=True), metavar="R",
              help="For --power: correlation of success of two models on the same task.  [default: that of the files' "
              "runs, else 0.3]")  # fmt: skip
def command(files, baseline, confidence, looks, common, by_kind, as_json, picture, plan, rate, tasks, runs, run_sd,
            alike) -> None:  # fmt: skip
    """Compare methods by their episodes: success, differences, how sure.

    Every FILE holds the episodes of one training run. Files with the same NAME are runs of one method, and
    NAME='runs/*/il.jsonl' names several; without NAME a file is a method of its own. All must be of the same tasks.

    Rates and differences are means over runs, never the best one. Intervals and p hold over tasks and training runs;
    with one run a method they speak of those models alone. Holm corrects p for the number of methods. See
    docs/evidence.md.

    \b
    Example:
      eexp eval house -m random -n 30 > random.jsonl
      eexp eval house -m expert -n 30 > expert.jsonl
      eexp compare random.jsonl expert.jsonl
      eexp compare --power --rate 0.2 --tasks 500 --runs 5
    """
    from eexp.jsonl import dumps, read

    planning = {"--rate": rate, "--tasks": tasks, "--runs": runs, "--run-sd": run_sd, "--alike": alike}
    given = [name for name, value in planning.items() if value not in (None, ())]
    if given and not plan:
        raise click.UsageError(f"{given[0]} is for --power")
    if not files and not (plan and rate is not None):
        raise click.UsageError("Missing argument '[NAME=]FILE...'" + (", or --rate" if plan else ""))
    groups = {label: [read([file], "episode") for file in names] for label, names in expand(files).items()}
    if plan:
        if picture or looks > 1 or common or by_kind:
            raise click.UsageError("--power takes no --plot, --looks, --common and --by-kind")
        from eexp.evidence.power import plans
        from eexp.evidence.table import power_table

        if baseline is not None and baseline not in groups:
            raise UsageError(f"no group is called {baseline!r}; there are: {', '.join(groups)}")
        pilot = groups[baseline or next(iter(groups))] if groups else []
        rows = plans(pilot, rate=rate, tasks=tasks or (50, 100, 200, 500, 1000), runs=runs or (1, 3, 5), run_sd=run_sd,
                     alike=alike, confidence=confidence)  # fmt: skip
        text = power_table
    else:
        from eexp.evidence import compare
        from eexp.evidence.table import table

        rows = compare(groups, baseline=baseline, confidence=confidence, looks=looks, common=common)
        if picture:
            from eexp.evidence.plot import plot

            plot(rows, picture)

        def text(rows: list[dict]) -> str:
            return table(rows, by_kind=by_kind)

    if as_json:
        for row in rows:
            click.echo(dumps(row), nl=False)
    else:
        click.echo(text(rows))
