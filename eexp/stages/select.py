"""`eexp select`: write records in the order in which they are worth having, or the first of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import click

from eexp import options
from eexp.callbacks import OnError, stop_at_error
from eexp.errors import InputError
from eexp.models.registry import MODEL_FREE
from eexp.settings import command_options, option, recorded

if TYPE_CHECKING:
    from eexp.stream import Stream


ORDERS = ("coverage", "loss", "influence", "length", "random")


@dataclass(frozen=True)
class SelectSettings:
    """Settings of `select`."""

    by: str = option(
        "coverage",
        type=click.Choice(ORDERS),
        help="Which records come first: those that differ most from the ones before (coverage), that a model finds "
        "hardest (loss; after `eexp score`), those on which an update lowers the loss of the examples --like FILE most "
        "(influence), the longest (length), or any (random).",
    )
    like: str | None = option(
        None, type=options.PATH, metavar="FILE", help="With --by influence: examples of what the model is to learn."
    )
    base: str | None = option(
        None,
        "-m",
        "--model",
        metavar="BASE",
        help="With --by influence: the model that will be trained, a directory or a hub id.",
    )
    init: str | None = option(
        None, type=options.PATH, metavar="DIR", help="With --by influence: an adapter of it to start from."
    )
    number: int | None = option(
        None, "-n", "--number", type=click.IntRange(min=1), metavar="N", help="Number of records.  [default: all]"
    )
    reverse: bool = option(False, help="Take the easiest or the shortest first, with --by loss or length.")
    seed: int = options.seed.field()


def select(
    records: Iterator[dict],
    settings: SelectSettings | None = None,
    *,
    influence: Callable[[dict], float] | None = None,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Yield records, the most useful ones first; all are read before the first is yielded.

    Fewer records of the same input are a part of more.

    Args:
        records: Trajectories or examples.
        settings: What is useful, and how many to yield.
        influence: Returns the influence of an example (`training.influence.influence_on`), where that decides.
        on_error: Called with an example that has no scores, or nothing to learn from, where these decide.
    """
    from eexp.mixing.selection import by_coverage, in_random_order, length_of, loss_of

    settings = settings or SelectSettings()
    key_of = influence if settings.by == "influence" else loss_of if settings.by == "loss" else length_of
    assert key_of is not None
    held, keys = [], []
    for record in records:
        try:
            keys.append(key_of(record))
        except InputError as e:
            on_error(record, e)
        else:
            held.append(record)
    if settings.by == "coverage":
        order = by_coverage(held)
    elif settings.by == "random":
        order = iter(in_random_order(held, settings.seed))
    else:
        sign = 1 if settings.reverse else -1
        order = iter(sorted(range(len(held)), key=lambda i: sign * keys[i]))
    yield from (held[i] for i in islice(order, settings.number))


@click.command("select")
@command_options(SelectSettings)
@options.streams("trajectory", "example")
def command(settings: SelectSettings, stream: Stream) -> None:
    """Write the most useful records first: those that differ, or that are hard.

    Reads trajectories, before they are branched, or examples. By coverage, each record is the one that is farthest
    from all before it, by the words of its task, observations and actions, so that repetitions and what is like the
    rest come last. By influence, each example's gradient is compared with those of the examples --like FILE: a pass of
    the model over all of them, forward and back. Records come out in the order of their use: `head -n 50` of the output
    is what -n 50 selects.

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
        from eexp.jsonl import read
        from eexp.training.influence import influence_on

        assert settings.like is not None and settings.base is not None
        self.values: list[float] = []
        self._of = influence_on(read([settings.like], "example"), settings.base, settings.init, settings.seed)

    def __call__(self, example: dict) -> float:
        self.values.append(self._of(example))
        return self.values[-1]
