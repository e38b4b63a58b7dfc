"""`eexp export-log`: write trajectories and episodes as logs that other tools read (eexp/formats/logs.py)."""

from __future__ import annotations

from collections.abc import Iterator

import click

from eexp import options
from eexp.errors import InputError
from eexp.formats import logs
from eexp.stream import OnError, Stream, stop_at_error


def export_log(records: Iterator[dict], format: str, *, on_error: OnError = stop_at_error) -> Iterator[dict]:
    """Yield the log of each trajectory and episode; for logs.INSPECT, one log that holds them all."""
    if format == logs.INSPECT:
        all_logs = list(_logs(records, on_error))
        if all_logs:
            yield logs.to_inspect(all_logs)
        return
    convert = {logs.ATIF: logs.to_atif, logs.VERIFIERS: logs.to_verifiers}[format]
    yield from map(convert, _logs(records, on_error))


def _logs(records: Iterator[dict], on_error: OnError) -> Iterator[logs.Log]:
    for record in records:
        try:
            yield logs.log_of(record)
        except InputError as e:
            on_error(record, e)


@click.command("export-log")
@click.option(
    "--format",
    type=click.Choice(logs.FORMATS),
    required=True,
    help="Harbor's trajectory format (ATIF), one a line; verifiers' episodes, as in its traces.jsonl; or one "
    "log of Inspect, which is held in memory.",
)
@options.streams("any")
def command(format: str, stream: Stream) -> None:
    """Write trajectories and episodes as logs that other tools read.

    A log holds the observations, thoughts and actions of an agent; alternatives are left out. A log of Inspect is of
    one model and one environment; call its file NAME.json. Fields that a format has no place for stand under the key
    eexp, so that `eexp import` finds them again.

    \b
    Example:
      eexp eval house -m random -n 4 > episodes.jsonl
      eexp export-log --format inspect episodes.jsonl > log.json
      eexp export-log --format atif episodes.jsonl | eexp import atif --env house > own.jsonl
    """
    with stream.open("export-log", "any", format=format) as io:
        for log in export_log(io.records(), format, on_error=io.fail):
            io.write(log, lineage=False)
