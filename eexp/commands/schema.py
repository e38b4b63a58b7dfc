"""`eexp schema`: print the JSON Schema of a record type."""

from __future__ import annotations

import click


@click.command("schema")
@click.argument(
    "record_type", metavar="TYPE", type=click.Choice(["trajectory", "example", "preference", "episode", "task"])
)
def command(record_type: str) -> None:
    """Print the JSON Schema of a record type.

    TYPE is trajectory, example, preference, episode or task. Keys that a schema does not name are kept and passed on
    by every stage.

    \b
    Example:
      eexp schema trajectory
    """
    import orjson

    from eexp.records.jsonl import write_to_stdout
    from eexp.records.types import schema

    write_to_stdout(orjson.dumps(schema(record_type), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
