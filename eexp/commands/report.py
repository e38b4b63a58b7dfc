"""`eexp report`: one page about a study, to be read in a browser."""

from __future__ import annotations

import click

from eexp.console.parameters import PATH, command_options, option
from eexp.report.settings import ReportSettings
from eexp.settings import FILE, REQUIRED


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
@click.argument("directories", nargs=-1, required=True, type=PATH, metavar="DIR|FILE...")
@option(REQUIRED, "-o", "--output", type=FILE).help("The page; - is standard output.")
@option(None, "--baseline", metavar="ARM").help("The arm to compare the others with.  [default: the first one]")
@option(None, "--name", "names", multiple=True, metavar="ARM=LABEL").help(
    "Name of an arm in the page. Arms that are named come first, in this order. Repeatable."
)
@command_options(ReportSettings)
@option(False, "-q", "--quiet").help("Say nothing on standard error unless something fails.")
def command(
    directories: tuple[str, ...],
    output: str,
    baseline: str | None,
    names: tuple[str, ...],
    settings: ReportSettings,
    quiet: bool,
) -> None:
    """Write a page about a study: table, curves, episodes side by side.

    Every ARM.episodes.jsonl, in DIR or below it, is a run of ARM. If the training run stands beside it, in the
    directory ARM, its losses are drawn. The same ARM in several directories, such as study/0 and study/1, is one arm
    with several training seeds. A FILE of episodes is an arm of that name. The numbers are those of `eexp compare` on
    these files.

    The page is one HTML file that loads nothing; it can be opened from disk, mailed and printed.

    \b
    Example:
      mkdir -p study
      eexp eval house -m random -n 30 -o study/random.episodes.jsonl
      eexp eval house -m expert -n 30 -o study/expert.episodes.jsonl
      eexp report study --baseline random -o report.html
    """
    from eexp.pages.output import write_page
    from eexp.report.page import report
    from eexp.report.study import find_arms

    arms = find_arms(directories, _labels(names), baseline)
    read_files = [str(run.file) for arm in arms for run in arm.runs]
    write_page("report", lambda: report(arms, settings, source=directories), output, read_files, quiet)
