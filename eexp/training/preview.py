"""A preview of a training run, and of a row with its targets marked, for a person."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from eexp.models.tokenizers import text_of
from eexp.system.terminal import format_bytes, style
from eexp.training.data import Row
from eexp.training.trie import shared_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EXAMPLES = 3  # examples shown
_PROMPT_END = 240  # characters shown of a prompt, from its end


def describe(tokenizer: PreTrainedTokenizerBase, rows: list[Row], run: dict, memory: dict[str, int]) -> str:
    """Return the counts of a planned run, an estimate of its memory, and a few examples with their targets in [[ ]].

    Args:
        run: The contents of eexp.json before the first update.
        memory: Bytes by what they hold (`memory.estimate`).
    """
    trained, processes = run["trained"], run["processes"]
    kinds = ", ".join(f"{100 * share:.3g} % {kind}" for kind, share in trained["shares"].items())
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in memory.items())
    lines = [
        f"{run['updates']:,} updates, {trained['examples']:,} examples, {trained['target_tokens']:,} target tokens",
        f"of the loss: {kinds}",
        f"{trained['tokens']:,} tokens one example at a time, {trained['computed_tokens']:,} as computed "
        f"({trained['tokens'] / trained['computed_tokens']:.1f} times fewer), in {trained['passes']:,} passes over "
        f"{processes} process{'es' if processes > 1 else ''}, the largest of {trained['largest_pass']:,}",
        f"memory, by a rough estimate: {format_bytes(sum(memory.values()))} ({parts})",
    ]
    if validation := run["validation"]:
        lines.append(
            f"validated with {validation['examples']:,} examples, {validation['target_tokens']:,} target tokens"
        )
    # Those of one trajectory follow each other, so that it can be seen what they share.
    group = rows if rows[0].group is None else [row for row in rows if row.group == rows[0].group]
    for previous, row in pairwise([None, *sorted(group, key=lambda row: row.ids)[:_EXAMPLES]]):
        if row is not None:
            lines += ["", _example(tokenizer, row, previous)]
    return "\n".join(lines)


def _example(tokenizer: PreTrainedTokenizerBase, row: Row, previous: Row | None) -> str:
    heading = f"{len(row.ids)} tokens, {row.n_targets} of them targets, weight {row.weight:g}"
    heading += f", {shared_length(row.ids, previous.ids)} shared with the one above" if previous else ""
    return style(heading, bold=True) + "\n" + mark_targets(tokenizer, row, _PROMPT_END)


def mark_targets(tokenizer: PreTrainedTokenizerBase, row: Row, most: int | None = None) -> str:
    """Return the text of a row's tokens, with its targets in [[ ]].

    Args:
        most: Most characters of the text before the first target, counted from its end; None for all of them.
    """

    def text(start: int, stop: int) -> str:
        return text_of(tokenizer, row.ids[start:stop])

    parts: list[str] = []
    end = 0
    for name, weight, targets in row.spans():
        between = text(end, targets.start)
        if most is not None and not parts and len(between) > most:
            between = "... " + between[-most:]
        mark = f"{name} * {weight:g}: " if weight != 1 else ""
        parts.append(between + style(f"[[{mark}{text(targets.start, targets.stop)}]]", fg="green"))
        end = targets.stop
    return "".join(parts) + text(end, len(row.ids))


def marked_tokens(tokenizer: PreTrainedTokenizerBase, row: Row) -> list[tuple[str, bool]]:
    """Return the texts of a row's tokens, each with whether the loss falls on it.

    A character whose bytes are several tokens comes with the last of them, and the others are empty.
    """
    targets = {i for _, _, indices in row.spans() for i in indices}
    tokens: list[tuple[str, bool]] = []
    start = 0
    for i in range(len(row.ids)):
        text = text_of(tokenizer, row.ids[start : i + 1])
        whole = not text.endswith("\N{REPLACEMENT CHARACTER}") or i + 1 - start >= 4
        tokens.append((text if whole else "", i in targets))
        start = i + 1 if whole else start
    return tokens
