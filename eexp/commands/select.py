"""`eexp select`: write records in the order in which they are worth having, or the first of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eexp.console import options
from eexp.console.parameters import command_options
from eexp.examples.settings import SelectSettings
from eexp.models.registry import MODEL_FREE
from eexp.settings import recorded

if TYPE_CHECKING:
    from eexp.console.stream import Stream


@click.command("select")
@command_options(SelectSettings)
@options.streams("trajectory", "example")
def command(settings: SelectSettings, stream: Stream) -> None:
    """Write the most useful records first: those that differ, or that are hard.

    Reads trajectories, before they are branched, or examples. By coverage, the next record is always the one farthest
    from all before it, by the words of its task, observations and actions. So repetitions come last. By influence, the
    gradient of each example is compared with those of the examples in --like. That takes a forward and a backward pass
    over all of them. The first 50 records of the output are those that -n 50 selects.

    \b
    Example:
      eexp expert house -n 40 | eexp select -n 10 > few.jsonl
      eexp expert house -n 9 | eexp imitation-data | eexp score -m tiny > scored.jsonl
      eexp select --by loss -n 50 scored.jsonl > hard.jsonl
    """
    if settings.reverse and settings.by not in ("loss", "length"):
        raise click.UsageError("--reverse is for --by loss and --by length")
    if settings.base in MODEL_FREE:
        raise click.BadParameter(f"{settings.base} cannot be trained", param_hint="-m")
    for name, value in (("--like", settings.like), ("-m", settings.base)):
        if (settings.by == "influence") != (value is not None):
            raise click.UsageError(f"--by influence and {name} go together")
    if settings.init and settings.by != "influence":
        raise click.UsageError("--init is for --by influence")
    if settings.by == "influence":
        stream.types = ["example"]
    from eexp.examples.selection import select

    fields = recorded(settings, "by", "number", "reverse", "like", "base", "init", "seed")
    with stream.open("select", **fields) as io:
        influence = _Influences(settings) if settings.by == "influence" else None
        for record in select(io.records(), settings, influence=influence, on_error=io.fail):
            io.write(record)
        if influence and influence.values:
            taken = sorted(influence.values, reverse=True)[: settings.number]
            last = f", down to {taken[-1]:.2f} of those taken" if settings.number else ""
            io.note(f"influence from {taken[0]:.2f} to {min(influence.values):.2f}{last}")


class _Influences:
    """The influence of examples on those of the file `settings.like`, and all values so far."""

    def __init__(self, settings: SelectSettings):
        from eexp.records.jsonl import read
        from eexp.system.late import large_imports

        with large_imports():
            from eexp.training.influence import influence_on
        assert settings.like is not None and settings.base is not None
        self.values: list[float] = []
        self._of = influence_on(read([settings.like], "example"), settings.base, settings.init, settings.seed)

    def __call__(self, example: dict) -> float:
        self.values.append(self._of(example))
        return self.values[-1]
