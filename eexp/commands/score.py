"""`eexp score`: compute the log-probability of the completions of examples under a model, span by span."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eexp.console import options
from eexp.console.options import ModelOptions
from eexp.console.parameters import option
from eexp.settings import FILE
from eexp.system.terminal import tell

if TYPE_CHECKING:
    from eexp.console.stream import Stream


@click.command("score")
@options.model(
    "The model that scores; `eexp models` lists what MODEL may be, servers excepted.  "
    "[default: the built-in tiny model]"
)
@option(None, "--summary", type=FILE, metavar="FILE|-").help(
    "Write the table of losses as JSONL here; - is standard output, where -o takes the examples."
)
@options.streams("example", resume=True, shards=True)
def command(model: ModelOptions, summary: str | None, stream: Stream) -> None:
    """Score examples with a model: the log-probability of every span.

    Writes the examples with `scores`: the natural log-probability and the number of tokens of each span (thought,
    action, observation, unknown). Texts become tokens as in training, with the stop token. A table on standard error
    has the held-out losses, by kind of example, span and kind of transition. A loss is the mean negative
    log-probability per token, as `eexp finetune --validate` reports it.

    Consecutive examples of a trajectory are evaluated together, and their shared prefixes once. So score examples
    before they are shuffled.

    \b
    Example:
      eexp expert house -n 20 | eexp imitation-data | eexp score > scored.jsonl
    """
    from eexp.models.scoring import Losses, score
    from eexp.records.jsonl import read

    stream.report = summary
    if summary == "-" and stream.output in (None, "-"):
        raise click.UsageError("--summary - needs -o FILE: standard output is for the examples otherwise")
    with model.open(stream.note) as scorer, stream.open("score", model=scorer.fingerprint) as io:
        losses = Losses()
        scored = score(io.records(skip_done=False), scorer, skip=io.done, on_error=io.fail)
        for example in io.progress(scored, "example"):
            io.write(example)
            losses.add(example)
        io.counts.update(scorer.counts)
        if stream.resume and stream.output:
            losses = Losses()  # of all examples in the output, those of earlier runs included
            for example in read([stream.output], "example"):
                losses.add(example)
        _report(losses.rows(), summary, stream.quiet)


def _report(rows: list[dict], summary: str | None, quiet: bool) -> None:
    """Show the table, and write it as JSONL to the file `summary`."""
    from eexp.models.scoring import loss_table
    from eexp.records.jsonl import dumps, write_to_stdout
    from eexp.system.whole_file import write_whole

    if rows and not quiet:
        tell(*loss_table(rows))
    lines = b"".join(map(dumps, rows))
    if summary == "-":
        write_to_stdout(lines)
    elif summary:
        write_whole(summary, lines)
