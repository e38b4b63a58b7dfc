"""`eexp shortest`: a stage, with FILEs, -o, --rejects and all that the stages of eexp have."""

import click

from eexp.console import options


@click.command("shortest")
@click.option("-n", "--number", default=3, show_default=True, help="Longest path that is kept, in actions.")
@options.streams("trajectory")
def command(number, stream):
    """Keep trajectories with few actions."""
    with stream.open("shortest", number=number) as io:
        for record in io.records():
            if len(record["steps"]) <= number:
                io.write(record)
