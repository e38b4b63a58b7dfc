"""`eexp power`: how many tasks and training runs a comparison needs."""

from __future__ import annotations

import click

from eexp.console.parameters import PATH, command_options, option
from eexp.errors import UsageError
from eexp.evidence.settings import PowerSettings
from eexp.system.terminal import show, tell


@click.command("power")
@click.argument("files", nargs=-1, type=PATH, metavar="[[NAME=]FILE...]")
@option(None, "--baseline", metavar="NAME").help(
    "The baseline, where FILEs name several methods.  [default: the first]"
)
@command_options(PowerSettings)
@option(False, "--json", "as_json").help("Print JSONL, one line a row, instead of a table.")
def command(files: tuple[str, ...], baseline: str | None, settings: PowerSettings, as_json: bool) -> None:
    """Compute which improvement a comparison could find, before it is run.

    This is a power analysis. The table has the smallest improvement over the baseline that `eexp compare` finds with a
    power of 80 %, by numbers of tasks and training runs. Give the baseline's success and its variation as options, or
    files of its episodes to estimate them from. Every FILE holds the episodes of one training run, and
    NAME='runs/*/il.jsonl' names several runs, as for `eexp compare`. See docs/evidence.md.

    \b
    Example:
      eexp power --rate 0.2 --tasks 500 --runs 5
    """
    if not files and settings.rate is None:
        raise click.UsageError("Missing argument '[NAME=]FILE...', or --rate")
    from eexp.console.method_files import method_files
    from eexp.evidence.power import plans
    from eexp.evidence.table import power_table
    from eexp.records.jsonl import dumps, read, write_to_stdout

    groups = method_files(files)
    if baseline is not None and baseline not in groups:
        raise UsageError(f"no group is called {baseline!r}; there are: {', '.join(groups)}")
    method = baseline if baseline is not None else next(iter(groups), None)
    pilot = groups[method] if method is not None else []
    if others := [name for name in groups if name != method]:
        tell(f"note: power uses the baseline alone, {method}, and not {', '.join(others)}")
    rows = plans([read([file], "episode") for file in pilot], settings, files=pilot)
    if as_json:
        write_to_stdout(b"".join(map(dumps, rows)))
    else:
        show(power_table(rows))
