"""Examples as token ids, with a mask that is checked rather than trusted."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from eexp.errors import InputError
from eexp.jsonl import OnError, stop_at_error


@dataclass
class Row:
    """One tokenised example: the loss falls on ids[n_prompt:], times `weight`.

    ids: four bytes each, for every row has its whole history, and a run has all of its rows.
    """

    ids: array[int]
    n_prompt: int
    weight: float
    group: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.ids, array):
            self.ids = array("i", self.ids)

    @property
    def targets(self) -> range:
        """Indices of the tokens that the loss falls on; the first token of all has nothing to be predicted from."""
        return range(max(1, self.n_prompt), len(self.ids))


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
