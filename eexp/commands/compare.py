"""`eexp compare`: which method is better on the same tasks, by how much, and how sure that is."""

from __future__ import annotations

import click

from eexp.console.parameters import PATH, command_options, option
from eexp.evidence.settings import CompareSettings
from eexp.settings import FILE
from eexp.system.terminal import show, tell


@click.command("compare")
@click.argument("files", nargs=-1, type=PATH, metavar="[NAME=]FILE...")
@command_options(CompareSettings)
@option(False, "--by-kind").help("Add a table of success by kind of task.")
@option(False, "--refused").help("Add a table of the share of refused actions, with its differences.")
@option(False, "--json", "as_json").help("Print JSONL, one line a row, instead of a table.")
@option(None, "--plot", "picture", type=FILE).help("Draw rates and differences with their intervals, as PNG or SVG.")
def command(
    files: tuple[str, ...], settings: CompareSettings, by_kind: bool, refused: bool, as_json: bool, picture: str | None
) -> None:
    """Compare methods by their episodes: success, differences, how sure.

    Every FILE holds the episodes of one training run. Files with the same NAME are runs of one method, and
    NAME='runs/*/il.jsonl' names several. Without NAME, a file is a method of its own. All files must be of the same
    tasks.

    Rates and differences are means over training runs, never the best run. Confidence intervals and p values cover
    other tasks and other training seeds. With one run of each method, they hold for these models alone. p is corrected
    for the number of methods (Holm). See docs/evidence.md.

    \b
    Example:
      eexp eval house -m random -n 30 > random.jsonl
      eexp eval house -m expert -n 30 > expert.jsonl
      eexp compare random.jsonl expert.jsonl
    """
    if not files:
        raise click.UsageError("Missing argument '[NAME=]FILE...'")
    from eexp.console.method_files import method_files
    from eexp.evidence.comparison import compare
    from eexp.evidence.table import comparison_table
    from eexp.records.jsonl import dumps, read, write_to_stdout

    named = method_files(files)
    groups = {label: [read([file], "episode") for file in names] for label, names in named.items()}
    rows = compare(groups, settings, files=named)
    if picture:
        from eexp.evidence.plot import plot

        for note in plot(rows, picture):
            tell(f"note: {note}")
    if as_json:
        write_to_stdout(b"".join(map(dumps, rows)))
    else:
        show(comparison_table(rows, by_kind=by_kind, refused=refused))
