"""`eexp report`: one page about a study, to be read in a browser."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eexp import options
from eexp.errors import EexpError, UsageError
from eexp.terminal import tell

if TYPE_CHECKING:
    from eexp.report.study import Arm


def report(
    arms: Sequence[Arm],
    *,
    title: str,
    baseline: str | None = None,
    confidence: float = 0.95,
    common: bool = False,
    tasks: int = 100,
    megabytes: float = 4.0,
    seed: int = 0,
    source: Sequence[str] = (),
) -> str:
    """Render the page, as HTML.

    Args:
        arms: From `eexp.report.study.find_arms`.
        title: Of the page.
        baseline: The arm that the others are compared with, by its key or label; the first one by default. It becomes
            the first row.
        confidence: Of the intervals.
        common: Use only the tasks that all runs have, instead of refusing runs on different tasks.
        tasks: Most tasks whose episodes are in the page.
        megabytes: Most that these episodes may take together.
        seed: Of the draw of these tasks.
        source: The directories that the page names as its source.
    """
    from eexp.evidence.comparison import compare
    from eexp.evidence.results import kind_for_comparison
    from eexp.report.excerpts import excerpts
    from eexp.report.page import page
    from eexp.report.study import baseline_of

    base = baseline_of(arms, baseline)
    arms = sorted(arms, key=lambda arm: arm is not base)
    rows = compare(
        {arm.label: [run.episodes() for run in arm.runs] for arm in arms},
        confidence=confidence,
        common=common,
        files={arm.label: [str(run.file) for run in arm.runs] for arm in arms},
    )
    excerpt_data = excerpts(arms, kind_for_comparison, tasks=tasks, most_bytes=int(megabytes * 1e6), seed=seed)
    too_large = len(excerpt_data["tasks"]) < min(tasks, excerpt_data["of"])
    limit = f"--megabytes {megabytes:g}" if too_large else f"--tasks {tasks}"
    return page(arms, rows, excerpt_data, title=title, confidence=confidence, source=source, limit=limit)


def _labels(texts: tuple[str, ...]) -> dict[str, str]:
    """Return the labels of --name ARM=LABEL, by arm."""
    labels: dict[str, str] = {}
    for text in texts:
        key, sep, label = text.partition("=")
        if not (key and sep and label.strip()):
            raise click.BadParameter(f"{text!r} is not ARM=LABEL", param_hint="--name")
        if key in labels:
            raise click.BadParameter(f"{key} is named twice", param_hint="--name")
        labels[key] = label
    return labels


@click.command("report")
@click.argument("directories", nargs=-1, required=True, type=options.PATH, metavar="DIR|FILE...")
@click.option(
    "-o", "--output", required=True, type=options.PATH, metavar="FILE", help="The page; - is standard output."
)
@click.option("--baseline", metavar="ARM", help="The arm to compare the others with.  [default: the first one]")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="ARM=LABEL",
    help="Name of an arm in the page. Arms that are named come first, in this order. Repeatable.",
)
@click.option("--title", metavar="TEXT", help="Title of the page.  [default: the names of the directories and files]")
@options.confidence
@options.common
@click.option(
    "--tasks",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="Most tasks whose episodes are in the page, of all arms and runs; drawn at random.",
)
@click.option(
    "--megabytes",
    type=options.Finite(min=0),
    default=4.0,
    show_default=True,
    metavar="SIZE",
    help="Most that these episodes may take; further tasks are left out.",
)
@options.seed
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on standard error unless something fails.")
def command(directories, output, baseline, names, title, confidence, common, tasks, megabytes, seed, quiet) -> None:
    """Write a page about a study: table, curves, episodes side by side.

    Every DIR/ARM.episodes.jsonl, in DIR or below it, is a run of ARM; DIR/ARM is the training run behind it, whose
    losses are drawn where it is there. The same ARM in several directories, such as study/0 and study/1, has as many
    training seeds. A FILE of episodes may have any name, which is that of its arm.
    The numbers are those of `eexp compare` on these files.

    The page is one HTML file that loads nothing; it can be opened from disk, mailed and printed.

    \b
    Example:
      mkdir -p study
      eexp eval house -m random -n 30 -o study/random.episodes.jsonl
      eexp eval house -m expert -n 30 -o study/expert.episodes.jsonl
      eexp report study --baseline random -o report.html
    """
    from eexp.jsonl import write_to_stdout
    from eexp.report.study import find_arms

    arms = find_arms(directories, _labels(names))
    for run in (run for arm in arms for run in arm.runs):
        if output != "-" and os.path.exists(output) and os.path.samefile(output, run.file):
            raise UsageError(f"{output} is both read and written; give another -o")
    title = title or ", ".join(Path(directory).resolve().name for directory in directories)
    text = report(
        arms,
        title=title,
        baseline=baseline,
        confidence=confidence,
        common=common,
        tasks=tasks,
        megabytes=megabytes,
        seed=seed,
        source=directories,
    )
    page = text.encode("utf-8", "replace")
    if output == "-":
        write_to_stdout(page)
        return
    try:
        Path(output).write_bytes(page)
    except OSError as e:
        raise EexpError(f"{output}: {e.strerror or e}") from None
    if not quiet:
        size = f"{len(page) / 1e6:.1f} MB" if len(page) >= 1e6 else f"{len(page) / 1e3:.0f} kB"
        tell(f"report: {output}, {size}")
