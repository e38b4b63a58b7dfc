"""Examples as token ids, with a mask that is checked rather than trusted, and batches that share what continues."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from eexp.errors import InputError
from eexp.jsonl import OnError, stop_at_error


@dataclass
class Row:
    """One tokenised example: the loss falls on ids[n_prompt:], times `weight`."""

    ids: list[int]
    n_prompt: int
    weight: float
    group: str | None = None


def tokenize(examples: Iterable[dict], tokenizer: Any, max_length: int,
             on_error: OnError = stop_at_error) -> Iterator[Row]:  # fmt: skip
    """Render each example with the chat template and mark where its completion begins.

    The prompt must be a prefix of the whole (templates that rewrite earlier turns break that), and a stop token must be
    among the targets (or the policy never learns to end). An example that fails either, or is longer than `max_length`
    tokens, goes to `on_error`.
    """
    for example in examples:
        try:
            yield _row(example, tokenizer, max_length)
        except InputError as e:
            on_error(example, e)


def _row(example: dict, tokenizer: Any, max_length: int) -> Row:
    render: Callable[..., str] = tokenizer.apply_chat_template
    try:
        prompt = render(example["prompt"], tokenize=False, add_generation_prompt=True)
        whole = render(example["prompt"] + example["completion"], tokenize=False)
    except Exception as e:  # Jinja's errors have no common base that transformers keeps
        raise InputError(f"the chat template refuses it: {str(e).splitlines()[0]}", "$.prompt") from None
    if not whole.startswith(prompt):
        raise InputError("the chat template does not keep the prompt as the beginning of prompt and completion; "
                         "training and playing would see different words", "$.prompt")  # fmt: skip
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    if ids[: len(before)] != before:  # a token straddles the border; play tokenises the prompt alone, so do we
        ids = before + tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
    ids = _ended(ids, len(before), tokenizer)
    if len(ids) > max_length:
        raise InputError(f"has {len(ids)} tokens, more than --max-length {max_length}", "$.prompt")
    return Row(ids, len(before), float(example.get("weight", 1.0)), example.get("group"))


def _ended(ids: list[int], start: int, tokenizer: Any) -> list[int]:
    """Up to the last stop token of the completion; what a template writes after it is not for the policy to learn."""
    stop = tokenizer.eos_token_id
    for i in range(len(ids) - 1, start - 1, -1):
        if ids[i] == stop:
            return ids[: i + 1]
    if stop is None:
        raise InputError("the tokenizer has no stop token, the policy could not learn to end", "$.completion")
    return [*ids, stop]


def in_chains(rows: list[Row]) -> list[list[list[int]]]:
    """For every group, its rows in chains: in a batch, a chain costs as much as its last row.

    A trajectory's imitation rows, say, are the beginnings of its last one.
    """
    groups: dict[object, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(i if row.group is None else row.group, []).append(i)
    return [_chains(rows, members) for members in groups.values()]


def in_order(groups: list[list[list[int]]], rng: random.Random) -> list[int]:
    """An order of rows in which groups are shuffled and what stands together in `groups` stays together."""
    shuffled = list(groups)
    rng.shuffle(shuffled)
    return [i for chains in shuffled for chain in chains for i in chain]


def computed_tokens(rows: list[Row], groups: list[list[list[int]]]) -> int:
    """Tokens of all rows where each chain costs as much as its last row."""
    return sum(len(rows[chain[-1]].ids) for chains in groups for chain in chains)


def _chains(rows: list[Row], members: list[int]) -> list[list[int]]:
    """Members in chains, each row in one the beginning of the next; what continues nothing comes last, by length."""
    chains: list[list[int]] = []
    for i in sorted(members, key=lambda i: len(rows[i].ids)):
        for chain in chains:
            if _continues(rows[i], rows[chain[-1]]):
                chain.append(i)
                break
        else:
            chains.append([i])
    return sorted(chains, key=lambda c: (len(c) == 1, len(rows[c[0]].ids)))


def _continues(later: Row, earlier: Row) -> bool:
    """Whether `later` begins with all of `earlier`, and its own targets come after."""
    n = len(earlier.ids)
    return later.n_prompt >= n and later.ids[:n] == earlier.ids


class LeftPadded:
    """Collates rows, those that continue each other into one sequence: the same losses, each shared token once.

    Sequences end at the right edge, where most targets are. Returns input_ids, attention_mask, position_ids, labels and
    weights, each [sequences, longest]; a label counts as much as its weight.
    """

    def __init__(self, pad_token_id: int):
        self.pad = pad_token_id

    def __call__(self, features: list[dict]) -> dict[str, Any]:
        import torch

        rows: list[Row] = [f["row"] for f in features]
        sequences = [[rows[i] for i in chain] for chain in _chains(rows, list(range(len(rows))))]
        width = max(len(chain[-1].ids) for chain in sequences)
        shape = len(sequences), width
        ids = torch.full(shape, self.pad)
        mask, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        labels, weights = torch.full(shape, -100), torch.zeros(shape)
        for i, chain in enumerate(sequences):
            n = len(chain[-1].ids)
            left = width - n
            ids[i, left:] = torch.tensor(chain[-1].ids)
            mask[i, left:] = 1
            positions[i, left:] = torch.arange(n)
            for row in chain:
                targets = slice(left + row.n_prompt, left + len(row.ids))
                labels[i, targets] = torch.tensor(row.ids[row.n_prompt :])
                weights[i, targets] = row.weight
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": labels,
                "weights": weights}  # fmt: skip
