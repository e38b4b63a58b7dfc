"""`eexp merge`: put the parts of a run with --shard together (eexp/records/merge.py)."""

from __future__ import annotations

import click

from eexp.console.parameters import PATH


@click.command("merge")
@click.argument("parts", nargs=-1, required=True, type=PATH, metavar="PART...")
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Write here instead of standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No summary on standard error.")
def command(parts: tuple[str, ...], output: str | None, quiet: bool) -> None:
    """Put the parts of a run with --shard together, in the order of its input.

    Writes what one run without --shard would have written, byte for byte. PARTs are the outputs of all N processes, in
    any order. Later commands may have processed each part. Nothing is written unless the parts are complete and fit
    together. A part that is missing, unfinished, given twice or edited is an error. So is a part that was made by
    another command, with other settings, another seed or another N, or from another input. Parts of --rejects are
    merged in the same way, in a call of their own.

    \b
    Example:
      eexp expert house -n 20 > expert.jsonl
      eexp branch --shard 1/2 --from admissible expert.jsonl | eexp rollout > part-1.jsonl
      eexp branch --shard 2/2 --from admissible expert.jsonl | eexp rollout > part-2.jsonl
      eexp merge part-1.jsonl part-2.jsonl > rollout.jsonl
    """
    from eexp.console.stream import Stream
    from eexp.records.jsonl import STDIN
    from eexp.records.merge import merge

    if STDIN in parts:
        raise click.UsageError("parts are read twice, so standard input cannot be one; give files")
    stream = Stream(parts, output, quiet=quiet)
    stream.stage = "merge"
    stream.refuse_to_overwrite_input()
    records = merge(parts)
    stream.count("part[s]", len(parts))
    with stream.open("merge") as io:
        for record in records:
            io.write(record, lineage=False)
