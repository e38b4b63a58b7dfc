"""`eexp export-log`: write records in the formats of other tools (eexp/formats/export_log.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eexp.console import options
from eexp.console.parameters import option
from eexp.errors import EexpError
from eexp.formats.names import EXPORT_FORMATS
from eexp.settings import FILE, REQUIRED, Name

if TYPE_CHECKING:
    from eexp.console.stream import Stream


@click.command("export-log")
@option(REQUIRED, "--format", type=Name(EXPORT_FORMATS)).help(
    "Harbor's trajectory format (ATIF), one a line; verifiers' episodes, as in its traces.jsonl; one "
    "log of Inspect, which is held in memory; a session for the trace viewer of Hugging Face's hub; for "
    "examples, rows of chat messages; or a format of another package (`eexp plugins`)."
)
@option(False, "--alternatives").help(
    "Write the alternatives of each state, too: in atif as extra fields of the step, in verifiers and hf-traces as "
    "branches."
)
@option(None, "--sessions", type=FILE, metavar="DIR").help(
    "With hf-traces: write each record as a file of its own in this directory, as the hub reads them."
)
@options.streams("trajectory", "example", "episode")
def command(format: str, alternatives: bool, sessions: str | None, stream: Stream) -> None:
    """Write trajectories, episodes and examples in formats of other tools.

    A log holds the observations, thoughts and actions of an agent. With --alternatives, it also holds the alternatives
    of trajectories. A log of Inspect holds one model and one environment; call its file NAME.json. Fields that a format
    has no place for stand under the key eexp, and `eexp import` reads them back.

    Examples become rows of chat messages (sft), in the form of the files that the paper's authors published. The last
    message of a row is what is learned, and all other fields stand under metadata.

    \b
    Example:
      eexp eval house -m random -n 4 > episodes.jsonl
      eexp export-log --format inspect episodes.jsonl > log.json
      eexp export-log --format atif episodes.jsonl | eexp import atif --env house > own.jsonl
      eexp expert house -n 4 | eexp imitation-data | eexp export-log --format sft > expert_sft.jsonl
      eexp expert house -n 4 | eexp export-log --format hf-traces --sessions traces
    """
    from eexp.formats.export_log import export_files, export_log

    with stream.open("export-log", format=EXPORT_FORMATS.label(format)) as io:
        if sessions is None:
            for log in export_log(io.records(), format, alternatives, on_error=io.fail):
                io.write(log, lineage=False)
            return
        for name, lines in export_files(io.records(), format, alternatives, on_error=io.fail):
            _write_session(sessions, name, lines)
            io.count("session[s] written")


def _write_session(directory: str, name: str, lines: list[dict]) -> None:
    """Write a session as a file of its own."""
    from pathlib import Path

    from eexp.records.jsonl import dumps
    from eexp.system.whole_file import write_whole

    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise EexpError(f"{e.filename or directory}: {e.strerror or e}") from None
    write_whole(Path(directory, name), b"".join(map(dumps, lines)))
