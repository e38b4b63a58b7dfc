"""`eexp mix`: weight, shuffle, clean and cut files of examples into one (eexp/mixing/mixture.py)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from eexp import options
from eexp.errors import UsageError
from eexp.settings import command_options, is_given, option
from eexp.stage_settings.mix import Source
from eexp.terminal import show

if TYPE_CHECKING:
    from eexp.mixing.mixture import Balance, Cleaning, Tally


MOST_COPIES = 10_000  # of an example

_MARKS = re.compile(r"(?P<name>.*?)(@(?P<share>[^@*/]*))?(\*(?P<weight>[^@*/]*))?", re.DOTALL)


@dataclass(frozen=True)
class MixSettings:
    """Settings of `mix`.

    Attributes:
        limit: At most that many examples, drawn from the whole mixture: the first in its order.
        shuffle: Without it, the examples keep the order of the sources.
    """

    limit: int | None = option(
        None,
        type=click.IntRange(min=0),
        metavar="N",
        help="At most that many examples in all.  [default: no limit]",
    )
    shuffle: bool = option(True, help="Mix the order, or leave one file after the other.")
    duplicates: str = option(
        "keep",
        type=click.Choice(["keep", "exact", "near"]),
        help="What to do about examples with the same words, within a file and across files: keep them; keep "
        "one; or keep one of those, too, that nearly repeat each other (needs eexp[dedup]).",
    )
    similarity: float = option(
        0.8,
        type=click.FloatRange(0, 1, min_open=True),
        metavar="S",
        help="With --duplicates near: the share of runs of three words that the prompts, and the completions, "
        "of two examples must have in common.",
    )
    apart_from: tuple[str, ...] = option(
        (),
        multiple=True,
        type=options.PATH,
        metavar="FILE",
        help="Leave out examples of tasks that occur in this file, a panel or any records, and examples with the "
        "words of one in it. May be repeated.",
    )
    share: dict[str, float] | None = option(
        None,
        metavar="KIND=SHARE",
        multiple=True,
        callback=options.kind_shares,
        help="Take only as much as gives examples of a kind this share of the mixture. May be repeated; kinds "
        "without one keep their proportions in the rest.",
    )
    share_by: str = option(
        "examples",
        type=click.Choice(["examples", "tokens", "targets"]),
        help="What --share measures: examples, their tokens, or the tokens that the loss falls on.",
    )
    tokenizer: str | None = option(
        None, metavar="MODEL", help="Whose tokens --share-by counts: tiny, or a model's directory or hub id."
    )
    seed: int = options.seed.field()

    def balance(self) -> Balance | None:
        """Return which shares the kinds are to have, and how they are measured; None without --share."""
        from eexp.mixing.mixture import Balance

        if self.tokenizer and (not self.share or self.share_by == "examples"):
            raise UsageError("--tokenizer is for --share-by tokens or targets")
        return Balance(self.share, _measure(self.share_by, self.tokenizer)) if self.share else None

    def lineage(self) -> dict[str, Any]:
        """Return the settings that decide what is left out and whether the order is drawn, by the names of options."""
        shares = ",".join(f"{kind}={share:g}" for kind, share in (self.share or {}).items())
        return {
            "shuffle": None if self.shuffle else "no",
            "duplicates": None if self.duplicates == "keep" else self.duplicates,
            "similarity": self.similarity if self.duplicates == "near" else None,
            "apart_from": ",".join(self.apart_from) or None,
            "share": shares or None,
            "share_by": self.share_by if self.share else None,
            "tokenizer": self.tokenizer,
        }


def parse_source(text: str) -> Source:
    """Return the source that FILE, FILE@SHARE, FILE*WEIGHT or FILE@SHARE*WEIGHT names.

    A file that exists under the whole of `text` is that file. Raises ValueError for anything else after a mark.
    """
    if os.path.exists(text):
        return Source(text)
    marks = _MARKS.fullmatch(text)
    assert marks  # the pattern fits any text
    source = Source(marks["name"], float(marks["share"] or 1), float(marks["weight"] or 1))
    if not all(0 <= number < math.inf for number in (source.share, source.weight)):
        raise ValueError(f"{text}: a share or weight below 0, or endless")
    if source.share > MOST_COPIES:
        raise ValueError(f"{text}: a share of more than {MOST_COPIES}")
    return source


def mix(
    sources: Sequence[Source], settings: MixSettings | None = None, *, tally: Tally | None = None
) -> Iterator[dict]:
    """Return the examples of all sources together, in an order that follows from their ids and the seed.

    Examples of one source with equal ids are in the order in which they stand there.

    Args:
        sources: The files, with what is taken of each.
        settings: Which examples are left out, and how many are taken.
        tally: Counts the examples that are left out and taken.

    Raises:
        InputError: A line is no example.
        UsageError: Settings do not fit together.
    """
    from eexp.mixing.mixture import Cleaning, HeldOut

    settings = settings or MixSettings()
    cleaning = Cleaning(settings.duplicates, settings.similarity, HeldOut.of(settings.apart_from))
    return _mixed(sources, settings, cleaning, settings.balance(), tally)


def _mixed(
    sources: Sequence[Source], settings: MixSettings, cleaning: Cleaning, balance: Balance | None, tally: Tally | None
) -> Iterator[dict]:
    from eexp.mixing.mixture import Mixture

    mixture = Mixture(sources, settings.seed, cleaning, balance, tally)
    try:
        for place in mixture.places(settings.limit, settings.shuffle):
            yield mixture.read(place)
    finally:
        mixture.close()


def _measure(unit: str, tokenizer: str | None) -> Callable[[dict], int] | None:
    """Return a function that measures an example; None where examples are counted."""
    if unit == "examples":
        return None
    if not tokenizer:
        raise UsageError(f"--share-by {unit} needs --tokenizer MODEL: tokens are a model's")
    from eexp.models.tokenizers import load_tokenizer
    from eexp.training.data import row_maker

    row_of = row_maker(load_tokenizer(tokenizer))

    def size(example: dict) -> int:
        row = row_of(example)
        return row.n_targets if unit == "targets" else row.n_prompt + row.n_completion

    return size


@click.command("mix")
@command_options(MixSettings)
@click.option(
    "--dry-run", is_flag=True, help="Write no examples; show on standard output what would go in and come out."
)
@click.argument("sources", nargs=-1, type=options.PATH, metavar="[FILE[@SHARE][*WEIGHT]]...")
@click.option("-o", "--output", type=options.PATH, metavar="FILE", help="Write here instead of standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No summary on standard error.")
def command(settings: MixSettings, dry_run: bool, sources: tuple[str, ...], output: str | None, quiet: bool) -> None:
    """Weight, shuffle, clean and cut several files of examples into one.

    FILE@0.5 takes a random half of a file, FILE@2 takes it twice; FILE*0.3 multiplies the loss weight of its examples
    by 0.3. Marks can be combined: 'FILE@0.5*2', in quotes, because the star means something to the shell.

    The examples that are taken, and their order, follow from their ids and --seed, whatever the order of the input: the
    examples of FILE@0.3 are among those of FILE@0.5, and a smaller --limit takes a part of a larger one.

    First --apart-from and --duplicates leave out, of equal examples the one in the later file; then FILE@SHARE, --share
    and --limit choose. A table on standard error counts the examples that went in and came out.

    \b
    Example:
      eexp expert house -n 9 | eexp imitation-data > il.jsonl
      eexp mix il.jsonl@0.5 --limit 30 > train.jsonl
      eexp panel house -n 10 -o panel.jsonl
      eexp mix il.jsonl --duplicates exact --apart-from panel.jsonl --dry-run
    """
    from eexp.jsonl import STDIN
    from eexp.mixing.mixture import Tally
    from eexp.stream import Stream

    try:
        parsed = [parse_source(s) for s in sources or [STDIN]]
    except ValueError as e:
        raise click.BadParameter(f"{e}; write FILE, FILE@SHARE or FILE*WEIGHT", param_hint="FILE") from None
    if settings.duplicates != "near" and is_given("similarity"):
        raise UsageError("--similarity is for --duplicates near")
    if not settings.share and is_given("share_by"):
        raise UsageError("--share-by is for --share KIND=SHARE")
    stream = Stream([s.name for s in parsed], output, quiet=quiet, types=["example"])
    stream.also_read = list(settings.apart_from)
    tally = Tally()
    records = mix(parsed, settings, tally=tally)
    unit = {"targets": "target tokens"}.get(settings.share_by, settings.share_by)
    if dry_run:
        for _ in records:
            pass
        show("\n".join(tally.table(unit)))
        return
    of = ",".join(sources) or None
    with stream.open("mix", seed=settings.seed, limit=settings.limit, of=of, **settings.lineage()) as io:
        for record in records:
            io.write(record)
            io.count(record["kind"])
        if not io.counts:
            io.note("no examples in the mixture")
        else:
            for line in tally.table(unit):
                io.note(line)
