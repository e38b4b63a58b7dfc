"""`eexp mix`: weight, shuffle, clean and cut files of examples into one (eexp/mixing/mixture.py)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence

import click
from click.core import ParameterSource

from eexp import options
from eexp.errors import UsageError
from eexp.jsonl import STDIN
from eexp.mixing.mixture import Balance, Cleaning, HeldOut, Mixture, Source, Tally
from eexp.terminal import show

MOST_COPIES = 10_000  # of a file

_MARKS = re.compile(r"(?P<name>.*?)(@(?P<share>[^@*/]*))?(\*(?P<weight>[^@*/]*))?", re.DOTALL)


def parse_source(text: str) -> Source:
    """FILE, FILE@SHARE, FILE*WEIGHT or FILE@SHARE*WEIGHT. Raises ValueError for anything else after a mark.

    A file that exists under the whole of `text` is that file.
    """
    if os.path.exists(text):
        return Source(text)
    found = _MARKS.fullmatch(text)
    assert found  # the pattern fits any text
    made = Source(found["name"], float(found["share"] or 1), float(found["weight"] or 1))
    if not all(0 <= mark < math.inf for mark in (made.share, made.weight)):
        raise ValueError(f"{text}: a share or weight below 0, or endless")
    if made.share > MOST_COPIES:
        raise ValueError(f"{text}: a share of more than {MOST_COPIES}")
    return made


def mix(
    sources: Sequence[Source],
    *,
    limit: int | None = None,
    shuffle: bool = True,
    seed: int = 0,
    cleaning: Cleaning | None = None,
    balance: Balance | None = None,
    tally: Tally | None = None,
) -> Iterator[dict]:
    """The examples of all sources together, in an order that follows from their ids and `seed`.

    limit: at most that many, drawn from the whole mixture: the first in that order. shuffle: without it, what is taken
    keeps the order of the sources. Only examples of one source with equal ids are told apart by their order in it.
    tally: is told what was left out and taken. Raises InputError at the first line that is no example.
    """
    mixture = Mixture(sources, seed, cleaning, balance, tally)
    try:
        for place in mixture.places(limit, shuffle):
            yield mixture.read(place)
    finally:
        mixture.close()


def _sizes(unit: str, tokenizer: str | None) -> Callable[[dict], int] | None:
    """Return what measures an example; None where examples are counted."""
    if unit == "examples":
        if tokenizer:
            raise UsageError("--tokenizer is for --share-by tokens or targets")
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
@click.option(
    "--limit", type=click.IntRange(min=0), metavar="N", help="At most that many examples in all.  [default: no limit]"
)
@click.option(
    "--shuffle/--no-shuffle", default=True, show_default=True, help="Mix the order, or leave one file after the other."
)
@click.option(
    "--duplicates",
    type=click.Choice(["keep", "exact", "near"]),
    default="keep",
    show_default=True,
    help="What to do about examples with the same words, within a file and across files: keep them; keep "
    "one; or keep one of those, too, that nearly repeat each other (needs eexp[dedup]).",
)
@click.option(
    "--similarity",
    type=click.FloatRange(0, 1, min_open=True),
    default=Cleaning.similarity,
    show_default=True,
    metavar="S",
    help="With --duplicates near: the share of runs of three words that the prompts, and the completions, "
    "of two examples must have in common.",
)
@click.option(
    "--apart-from",
    multiple=True,
    type=options.PATH,
    metavar="FILE",
    help="Leave out examples of tasks that occur in this file, a panel or any records, and examples with the "
    "words of one in it. May be repeated.",
)
@click.option(
    "--share",
    metavar="KIND=SHARE",
    multiple=True,
    callback=options.kind_shares,
    help="Take only as much as gives examples of a kind this share of the mixture. May be repeated; kinds "
    "without one keep their proportions in what is left.",
)
@click.option(
    "--share-by",
    type=click.Choice(["examples", "tokens", "targets"]),
    default="examples",
    show_default=True,
    help="What --share measures: examples, their tokens, or the tokens that the loss falls on.",
)
@click.option(
    "--tokenizer", metavar="MODEL", help="Whose tokens --share-by counts: tiny, or a model's directory or hub id."
)
@click.option(
    "--dry-run", is_flag=True, help="Write no examples; show on standard output what would go in and come out."
)
@options.seed
@click.argument("sources", nargs=-1, type=options.PATH, metavar="[FILE[@SHARE][*WEIGHT]]...")
@click.option("-o", "--output", type=options.PATH, metavar="FILE", help="Write here instead of standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No summary on standard error.")
def command(
    limit,
    shuffle,
    duplicates,
    similarity,
    apart_from,
    share,
    share_by,
    tokenizer,
    dry_run,
    seed,
    sources,
    output,
    quiet,
) -> None:
    """Weight, shuffle, clean and cut several files of examples into one.

    FILE@0.5 takes a random half of a file, FILE@2 takes it twice; FILE*0.3 multiplies the loss weight of its examples
    by 0.3. Marks can be combined: 'FILE@0.5*2', in quotes, because the star means something to the shell.

    What is taken, and its order, follow from the ids of the examples and --seed, whatever the order of the input: the
    examples of FILE@0.3 are among those of FILE@0.5, and a smaller --limit takes a part of a larger one.

    First --apart-from and --duplicates leave out, of equal examples the one in the later file; then FILE@SHARE, --share
    and --limit choose. A table on standard error says what went in and what came out.

    \b
    Example:
      eexp expert house -n 9 | eexp imitation-data > il.jsonl
      eexp mix il.jsonl@0.5 --limit 30 > train.jsonl
      eexp panel house -n 10 -o panel.jsonl
      eexp mix il.jsonl --duplicates exact --apart-from panel.jsonl --dry-run
    """
    from eexp.stream import Stream

    try:
        parsed = [parse_source(s) for s in sources or [STDIN]]
    except ValueError as e:
        raise click.BadParameter(f"{e}; write FILE, FILE@SHARE or FILE*WEIGHT", param_hint="FILE") from None
    given = click.get_current_context().get_parameter_source
    if duplicates != "near" and given("similarity") is not ParameterSource.DEFAULT:
        raise UsageError("--similarity is for --duplicates near")
    if not share and given("share_by") is not ParameterSource.DEFAULT:
        raise UsageError("--share-by is for --share KIND=SHARE")
    balance = Balance(share, _sizes(share_by, tokenizer)) if share else None
    if tokenizer and not share:
        raise UsageError("--tokenizer is for --share-by tokens or targets")
    stream = Stream([s.name for s in parsed], output, quiet=quiet)
    stream.also_read = list(apart_from)
    cleaning, tally = Cleaning(duplicates, similarity, HeldOut.of(apart_from)), Tally()
    chosen = {"cleaning": cleaning, "balance": balance, "limit": limit, "shuffle": shuffle, "seed": seed}
    unit = {"targets": "target tokens"}.get(share_by, share_by)
    if dry_run:
        for _ in mix(parsed, tally=tally, **chosen):
            pass
        show("\n".join(tally.table(unit)))
        return
    settings = {
        "duplicates": None if duplicates == "keep" else duplicates,
        "similarity": similarity if duplicates == "near" else None,
        "apart_from": ",".join(apart_from) or None,
        "share": ",".join(f"{kind}={part:g}" for kind, part in (share or {}).items()) or None,
        "share_by": share_by if share else None,
        "tokenizer": tokenizer,
    }
    with stream.open("mix", "example", seed=seed, limit=limit, of=",".join(sources) or None, **settings) as io:
        for record in mix(parsed, tally=tally, **chosen):
            io.write(record)
            io.count(record["kind"])
        if not io.counts:
            io.note("no examples in the mixture")
        else:
            for line in tally.table(unit):
                io.note(line)
