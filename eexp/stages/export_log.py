"""`eexp export-log`: write records in the formats of other tools.

Trajectories and episodes become logs (eexp/formats/logs.py), examples rows of messages (eexp/formats/sft.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import click

from eexp import options
from eexp.callbacks import OnError, stop_at_error
from eexp.errors import InputError
from eexp.formats.names import ATIF, INSPECT, LOGS, SFT, VERIFIERS

if TYPE_CHECKING:
    from eexp.stream import Stream


T = TypeVar("T")


def export_log(records: Iterator[dict], format: str, *, on_error: OnError = stop_at_error) -> Iterator[dict]:
    """Yield the log of each trajectory and episode; for INSPECT, one log that holds them all.

    For SFT, yield the row of each example.
    """
    from eexp.formats import logs, sft

    if format == SFT:
        yield from _converted(records, sft.to_row, on_error)
        return
    if format == INSPECT:
        all_logs = list(_converted(records, logs.log_of, on_error))
        if all_logs:
            yield logs.to_inspect(all_logs)
        return
    convert = {ATIF: logs.to_atif, VERIFIERS: logs.to_verifiers}[format]
    yield from map(convert, _converted(records, logs.log_of, on_error))


def _converted(records: Iterator[dict], convert: Callable[[dict], T], on_error: OnError) -> Iterator[T]:
    for record in records:
        try:
            yield convert(record)
        except InputError as e:
            on_error(record, e)


@click.command("export-log")
@click.option(
    "--format",
    type=click.Choice([*LOGS, SFT]),
    required=True,
    help="Harbor's trajectory format (ATIF), one a line; verifiers' episodes, as in its traces.jsonl; one "
    "log of Inspect, which is held in memory; or, for examples, rows of chat messages.",
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
    with stream.open("export-log", format=format) as io:
        for log in export_log(io.records(), format, on_error=io.fail):
            io.write(log, lineage=False)
