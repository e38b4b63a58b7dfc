"""`eexp card`: write the data card of files of records (eexp/formats/data_card.py)."""

from __future__ import annotations

import click

from eexp.console.parameters import PATH, command_options, option
from eexp.formats.settings import CardSettings
from eexp.settings import FILE
from eexp.system.terminal import tell


@click.command("card")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
@option("-", "-o", "--output", type=FILE, show_default=None).help(
    "Write the card to this file, README.md beside the records.  [default: standard output]"
)
@command_options(CardSettings)
@option(False, "-q", "--quiet").help("No summary on standard error.")
def command(files: tuple[str, ...], output: str, settings: CardSettings, quiet: bool) -> None:
    """Write a data card for Hugging Face's hub.

    The card describes files of records. The hub and `datasets` read its head: license, tags, and each file as a
    configuration with the types of its columns. So `load_dataset(DIRECTORY, "rollout")` loads rollout.jsonl, even where
    one field has values of several types. The text counts what is in the files: environments and tasks, alternatives by
    source and outcome, examples by kind, who wrote the thoughts, and the stages that made the records.

    Nothing is claimed that the files do not hold: give the license, the language and other fields as options.

    \b
    Example:
      eexp expert house -n 5 | eexp branch -k 3 --from admissible | eexp rollout > rollout.jsonl
      eexp imitation-data rollout.jsonl > il.jsonl
      eexp card rollout.jsonl il.jsonl --license cc-by-4.0 --language en -o README.md
    """
    import os

    from eexp.formats.data_card import data_card
    from eexp.pages.output import write_page

    directory = "." if output == "-" else os.path.dirname(output) or "."
    write_page("card", lambda: data_card(files, settings, directory), output, files, quiet)
    if not (settings.license or quiet):
        tell("card: no license is claimed; --license ID names one")
