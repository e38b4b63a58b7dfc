"""`eexp mix`: weight, shuffle, clean and cut files of examples into one (eexp/examples/mixture.py)."""

from __future__ import annotations

import click

from eexp.console.parameters import PATH, command_options, is_given, option
from eexp.errors import UsageError
from eexp.examples.settings import MixSettings
from eexp.settings import FILE
from eexp.system.terminal import show


@click.command("mix")
@command_options(MixSettings)
@option(False, "--dry-run").help("Write no examples; show on standard output what would go in and come out.")
@click.argument("sources", nargs=-1, type=PATH, metavar="[FILE[@SHARE][*WEIGHT]]...")
@option(None, "-o", "--output", type=FILE).help("Write here instead of standard output.")
@option(False, "-q", "--quiet").help("No summary on standard error.")
def command(settings: MixSettings, dry_run: bool, sources: tuple[str, ...], output: str | None, quiet: bool) -> None:
    """Weight, shuffle, clean and cut several files of examples into one.

    FILE@0.5 takes a random half of a file, FILE@2 takes it twice; FILE*0.3 multiplies the loss weight of its examples
    by 0.3. Marks can be combined: 'FILE@0.5*2', in quotes, because the star means something to the shell.

    Which examples are taken, and in which order, follows from their ids and --seed. The order of the input does not
    matter. The examples of FILE@0.3 are among those of FILE@0.5, and those of a smaller --limit among those of a larger
    one.

    --apart-from and --duplicates come first. Of equal examples, they leave out the one in the later file. Then
    FILE@SHARE, --share and --limit choose. A table on standard error counts the examples that went in and came out.

    \b
    Example:
      eexp expert house -n 9 | eexp imitation-data > il.jsonl
      eexp mix il.jsonl@0.5 --limit 30 > train.jsonl
      eexp panel house -n 10 -o panel.jsonl
      eexp mix il.jsonl --duplicates exact --apart-from panel.jsonl --dry-run
    """
    from eexp.console.stream import Stream
    from eexp.examples.mixture import Tally, mix, parse_source
    from eexp.records.jsonl import STDIN

    try:
        parsed = [parse_source(s) for s in sources or [STDIN]]
    except ValueError as e:
        raise click.BadParameter(f"{e}; write FILE, FILE@SHARE or FILE*WEIGHT", param_hint="FILE") from None
    if settings.duplicates != "near" and is_given("similarity"):
        raise UsageError("--similarity is for --duplicates near")
    if not settings.share and is_given("share_by"):
        raise UsageError("--share-by is for --share KIND=SHARE")
    stream = Stream([s.name for s in parsed], output, quiet=quiet, types=["example"])
    stream.also_read = list(settings.apart_from)
    tally = Tally()
    records = mix(parsed, settings, tally=tally)
    unit = {"targets": "target tokens"}.get(settings.share_by, settings.share_by)
    if dry_run:
        for _ in records:
            pass
        show("\n".join(tally.table(unit)))
        return
    of = ",".join(sources) or None
    with stream.open("mix", seed=settings.seed, limit=settings.limit, of=of, **settings.lineage()) as io:
        for record in records:
            io.write(record)
            io.count(record["kind"])
        if not io.counts:
            io.note("no examples in the mixture")
        else:
            for line in tally.table(unit):
                io.note(line)
