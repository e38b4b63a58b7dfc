"""Settings of the viewer."""

from __future__ import annotations

from dataclasses import dataclass

from eexp.settings import SEED, Checked, Finite, Whole, option


@dataclass(frozen=True)
class ViewSettings(Checked):
    """Settings of `eexp view`."""

    #: A model whose tokenizer cuts examples into tokens; None shows them as text.
    model: str | None = option(None, "-m", "--model", metavar="MODEL").help(
        "Cut examples into the tokens of this model: tiny, or a model's directory or hub id. The tokens that the "
        "loss falls on are marked."
    )
    #: Most records in a page that is written with -o.
    number: int = option(200, "-n", "--number", type=Whole(1)).help(
        "With -o: most records in the page, drawn at random from files that have more."
    )
    #: Most that these records may take, as JSON.
    megabytes: float = option(8.0, type=Finite(0), metavar="SIZE").help(
        "With -o: most megabytes that these records may take; further ones are left out."
    )
    seed: int = SEED.field()  # of the draw of these records
