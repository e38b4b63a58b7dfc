"""Write records as one page that needs no server, or put together the page of the server."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eexp.errors import EexpError
from eexp.pages import html
from eexp.viewer import page_data
from eexp.viewer.index import Index
from eexp.viewer.settings import ViewSettings


def page_of(files: Sequence[str], settings: ViewSettings | None = None) -> str:
    """Write the page of some files: all their records, or a sample where they are many or large.

    Args:
        files: Files of records.
        settings: How many records the page holds, and whose tokens it shows.

    Raises:
        EexpError: A file cannot be read.
        EexpError: There is no such model.
    """
    settings = settings or ViewSettings()
    index = read(files)
    entries = list(range(len(index)))
    if len(entries) > settings.number:
        entries = sorted(random.Random(settings.seed).sample(entries, settings.number))
    chosen, size = [], 0
    for entry in entries:
        size += index.size[entry]
        if chosen and size > settings.megabytes * 1e6:
            break
        chosen.append(entry)
    return page(index, held=contents(index, chosen, tokens_of(settings.model)), about=_about(index, len(chosen)))


def read(files: Sequence[str]) -> Index:
    """Return the index of files that do not grow.

    Raises:
        EexpError: A file cannot be read.
    """
    index = Index(files)
    for _ in index.read_on():
        pass
    for problem in index.problems.values():
        raise EexpError(problem)
    return index


def contents(index: Index, entries: Sequence[int], tokens: Callable[[dict], list] | None = None) -> dict:
    """Return what the page asks for, for some entries: their lines in the list, the records, and their pictures."""
    rows, shown, pictures = [], [], {}
    kept = set(entries)
    for entry in entries:
        values = [bit for bit in range(64) if index.bits[entry] >> bit & 1]
        numbers = {name: None if math.isnan(column[entry]) else column[entry] for name, column in index.numbers.items()}
        rows.append({**page_data.row(index, entry), "values": values, "numbers": numbers})
        answer = page_data.shown(index, entry, tokens)
        if "related" in answer:
            answer["related"] = [other for other in answer["related"] if other["entry"] in kept]
        shown.append(answer)
        for name in page_data.pictures_of(answer.get("record") or {}):
            if name not in pictures and (found := page_data.picture(index, entry, name)):
                pictures[name] = page_data.as_link(*found)
    return {"rows": rows, "shown": shown, "pictures": pictures}


def page(index: Index, *, held: dict | None = None, about: str = "") -> str:
    """Put the page together.

    Args:
        index: Of the files.
        held: The records that it holds, from `contents`; None for a page that asks its server.
        about: What the page says of its records.
    """
    state = page_data.state(index)
    if held is not None:
        state["records"] = len(held["rows"])
    data: dict[str, Any] = {"served": held is None, "state": state, **(held or {})}
    return html.render(
        "eexp.viewer",
        ", ".join(Path(file).name for file in index.files),
        {"data": data},
        loads="img-src data:" if held is not None else "connect-src 'self'; img-src 'self' data:",
        about=about,
        kind="viewer",
    )


def _about(index: Index, shown: int) -> str:
    if shown == len(index):
        return f"{shown:,} record{'' if shown == 1 else 's'}."
    return f"A sample: {shown:,} of {len(index):,} records, drawn at random."


def tokens_of(model: str | None) -> Callable[[dict], list] | None:
    """Return a function that cuts an example into a model's tokens, each with whether the loss falls on it.

    Raises:
        EexpError: There is no such model.
    """
    if model is None:
        return None
    from eexp.models.tokenizers import load_tokenizer
    from eexp.training.data import row_maker
    from eexp.training.preview import marked_tokens

    tokenizer = load_tokenizer(model)
    row_of = row_maker(tokenizer)
    return lambda example: marked_tokens(tokenizer, row_of(example))
