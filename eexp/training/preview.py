"""What a training run would do, before it does it: for a person."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from eexp.terminal import style
from eexp.training.data import Row
from eexp.training.memory import format_bytes
from eexp.training.trie import shared_length

_SHOWN = 3  # examples
_WORDS = 240  # characters of a prompt's end


def describe(tokenizer: Any, rows: list[Row], run: dict, memory: dict[str, int]) -> str:
    """Counts, an estimate of memory, and a few examples in which targets stand in [[ ]]."""
    t = run["trained"]
    lines = [
        f"{run['updates']:,} updates, {t['examples']:,} examples, {t['target_tokens']:,} target tokens",
        "of the loss: " + ", ".join(f"{100 * share:.3g} % {kind}" for kind, share in t["shares"].items()),
        f"{t['tokens']:,} tokens one example at a time, {t['computed_tokens']:,} as computed "
        f"({t['tokens'] / t['computed_tokens']:.1f} times fewer), in {t['passes']:,} passes over {run['processes']} "
        f"process{'es' if run['processes'] > 1 else ''}, the largest of {t['largest_pass']:,}",
        f"memory, by a rough estimate: {format_bytes(sum(memory.values()))} ("
        + ", ".join(f"{name} {format_bytes(size)}" for name, size in memory.items())
        + ")",
    ]
    if v := run["validation"]:
        lines.append(f"validated with {v['examples']:,} examples, {v['target_tokens']:,} target tokens")
    first = sorted(rows, key=lambda row: row.ids) if rows[0].group is None else _of_one_group(rows)
    shown = first[:_SHOWN]
    for before, row in pairwise([None, *shown]):
        lines += ["", _example(tokenizer, row, before)]
    return "\n".join(lines)


def _of_one_group(rows: list[Row]) -> list[Row]:
    return sorted((row for row in rows if row.group == rows[0].group), key=lambda row: row.ids)


def _example(tokenizer: Any, row: Row, before: Row | None) -> str:
    head = f"{len(row.ids)} tokens, {row.n_targets} of them targets, weight {row.weight:g}"
    head += f", {shared_length(row.ids, before.ids)} shared with the one above" if before else ""
    return style(head, bold=True) + "\n" + mark_targets(tokenizer, row, _WORDS)


def mark_targets(tokenizer: Any, row: Row, most: int | None = None) -> str:
    """Return the text of a row's tokens, with its targets in [[ ]].

    most: characters of what comes before the first target, counted from its end; None shows all of it.
    """
    parts, at = [], 0
    for name, weight, targets in row.spans():
        between = tokenizer.decode(list(row.ids[at : targets.start]))
        if most is not None and not parts and len(between) > most:
            between = "... " + between[-most:]
        mark = f"{name} * {weight:g}: " if weight != 1 else ""
        target = tokenizer.decode(list(row.ids[targets.start : targets.stop]))
        parts.append(between + style(f"[[{mark}{target}]]", fg="green"))
        at = targets.stop
    return "".join(parts) + tokenizer.decode(list(row.ids[at:]))
