"""What a training run would do, before it does it: for a person."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import click

from eexp.training.data import Row
from eexp.training.trie import new_tokens

_SHOWN = 3  # examples
_WORDS = 240  # characters of a prompt's end


def describe(model: Any, tokenizer: Any, rows: list[Row], run: dict, checkpointing: bool) -> str:
    """Counts, an estimate of memory, and a few examples in which targets stand in [[ ]]."""
    t = run["trained"]
    memory = memory_estimate(model, t["largest_pass"], t["target_tokens"] / t["computed_tokens"], checkpointing)
    lines = [
        f"{run['updates']:,} updates, {t['examples']:,} examples, {t['target_tokens']:,} target tokens",
        f"{t['tokens']:,} tokens one example at a time, {t['computed_tokens']:,} as computed "
        f"({t['tokens'] / t['computed_tokens']:.1f} times fewer), in {t['passes']:,} passes over {run['processes']} "
        f"process{'es' if run['processes'] > 1 else ''}, the largest of {t['largest_pass']:,}",
        f"memory, by a rough estimate: {_gigabytes(sum(memory.values()))} ("
        + ", ".join(f"{name} {_gigabytes(size)}" for name, size in memory.items())
        + ")",
    ]
    first = sorted(rows, key=lambda row: row.ids) if rows[0].group is None else _of_one_group(rows)
    shown = first[:_SHOWN]
    for before, row in pairwise([None, *shown]):
        lines += ["", _example(tokenizer, row, before)]
    return "\n".join(lines)


def memory_estimate(model: Any, tokens: int, targets: float, checkpointing: bool) -> dict[str, int]:
    """Bytes, about: weights, gradients, AdamW's two moments, and what a pass of `tokens` keeps for its way back.

    A layer keeps about 10 vectors of its width and 4 of its feed-forward part for each token (the attention of a tree
    keeps no scores); checkpointing keeps one, and all of one layer at a time. A target has two vectors of logits.
    """
    config = model.config.get_text_config()
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * width
    layer = tokens * (10 * width + 4 * inner) * model.dtype.itemsize
    layers = config.num_hidden_layers
    kept = layers * tokens * width * model.dtype.itemsize + layer if checkpointing else layers * layer
    logits = int(tokens * min(1.0, targets) * config.vocab_size * 4 * 2)
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    trained = sum(size for size, learns in sizes if learns)
    return {"weights": sum(size for size, _ in sizes), "gradients": trained, "optimiser": 2 * trained,
            "activations": kept + logits}  # fmt: skip


def _of_one_group(rows: list[Row]) -> list[Row]:
    return sorted((row for row in rows if row.group == rows[0].group), key=lambda row: row.ids)


def _example(tokenizer: Any, row: Row, before: Row | None) -> str:
    start = row.targets.start
    prompt, completion = tokenizer.decode(row.ids[:start]), tokenizer.decode(row.ids[start:])
    shared = len(row.ids) - new_tokens(row.ids, before.ids) if before else 0
    head = f"{len(row.ids)} tokens, {len(row.targets)} of them targets, weight {row.weight:g}"
    head += f", {shared} shared with the one above" if before else ""
    if len(prompt) > _WORDS:
        prompt = "... " + prompt[-_WORDS:]
    return click.style(head, bold=True) + "\n" + prompt + click.style(f"[[{completion}]]", fg="green")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
