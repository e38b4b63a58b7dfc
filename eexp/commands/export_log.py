"""`eexp export-log`: write records in the formats of other tools (eexp/formats/export_log.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eexp.console import options
from eexp.console.parameters import option
from eexp.formats.names import EXPORT_FORMATS
from eexp.settings import REQUIRED, Name

if TYPE_CHECKING:
    from eexp.console.stream import Stream


@click.command("export-log")
@option(REQUIRED, "--format", type=Name(EXPORT_FORMATS)).help(
    "Harbor's trajectory format (ATIF), one a line; verifiers' episodes, as in its traces.jsonl; one "
    "log of Inspect, which is held in memory; for examples, rows of chat messages; or a format of another package "
    "(`eexp plugins`)."
)
@options.streams("trajectory", "example", "episode")
def command(format: str, stream: Stream) -> None:
    """Write trajectories, episodes and examples in formats of other tools.

    A log holds the observations, thoughts and actions of an agent; alternatives are left out. A log of Inspect is of
    one model and one environment; call its file NAME.json. Fields that a format has no place for stand under the key
    eexp, so that `eexp import` finds them again.

    Examples become rows of chat messages (sft), in the form of the files that the paper's authors published. The last
    message of a row is what is learned, and all other fields stand under metadata.

    \b
    Example:
      eexp eval house -m random -n 4 > episodes.jsonl
      eexp export-log --format inspect episodes.jsonl > log.json
      eexp export-log --format atif episodes.jsonl | eexp import atif --env house > own.jsonl
      eexp expert house -n 4 | eexp imitation-data | eexp export-log --format sft > expert_sft.jsonl
    """
    from eexp.formats.export_log import export_log

    with stream.open("export-log", format=EXPORT_FORMATS.label(format)) as io:
        for log in export_log(io.records(), format, on_error=io.fail):
            io.write(log, lineage=False)
