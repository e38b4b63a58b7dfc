"""Settings of what is written for other projects."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eexp.settings import Checked, option

_KEY = re.compile(r"[a-z][a-z0-9_]*\Z")
_COMPUTED = ("license", "language", "tags", "pretty_name", "configs", "dataset_info", "size_categories")


def _fields(texts: Sequence[str]) -> dict[str, list[str]] | None:
    """Return the values of KEY=VALUE by key; None for no text."""
    fields: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not value or not _KEY.match(key):
            raise ValueError(f"expected KEY=VALUE, such as task_categories=text-generation, got {text!r}")
        if key in _COMPUTED:
            raise ValueError(f"{key} has an option of its own, or is made from the files")
        fields.setdefault(key, []).append(value)
    return fields or None


@dataclass(frozen=True)
class CardSettings(Checked):
    """Settings of `data_card`: what the files cannot tell."""

    title: str | None = option(None, metavar="TEXT").help("The name of the data set.  [default: the directory's]")
    license: str | None = option(None, metavar="ID").help(
        "The license, as the hub names it, such as apache-2.0.  [default: none is claimed]"
    )
    language: tuple[str, ...] = option((), multiple=True, metavar="CODE").help(
        "A language of the texts, such as en. May be repeated."
    )
    tag: tuple[str, ...] = option((), multiple=True, metavar="TAG").help(
        "A further tag of the data set. May be repeated."
    )
    field: Mapping[str, list[str]] | None = option(None, gather=_fields, metavar="KEY=VALUE").help(
        "A further field of the head, such as task_categories=text-generation. May be repeated; a key that is given "
        "several times holds a list."
    )
