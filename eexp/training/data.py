"""Examples as token ids, with a mask that is checked rather than trusted."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eexp.errors import InputError
from eexp.models.chat_template import ChatTokenizer
from eexp.models.hf import HfTokenizer
from eexp.spans import ACTION, Span, has_thought, span_of_tokens, spans_of
from eexp.stream import OnError, stop_at_error


class Segment(NamedTuple):
    """Tokens of a completion that belong to one span: from the index `start` to where the next segment starts."""

    start: int
    name: str = ""
    weight: float = 1.0


@dataclass
class Row:
    """One tokenised example: the loss falls on ids[n_prompt:], times `weight` and the weight of each token's segment.

    ids: four bytes each, for every row has its whole history, and a run has all of its rows.
    segments: of all tokens from n_prompt on, in order; one of weight 1 unless others are given.
    n_completion: how many tokens the completion has, those included that were left out of `ids` after the last target.
    thought: whether there is a thought in it.
    """

    ids: array[int]
    n_prompt: int
    weight: float
    group: str | None = None
    kind: str = ""
    segments: Sequence[Segment] = ()
    n_completion: int = 0
    thought: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.ids, array):
            self.ids = array("i", self.ids)
        self.segments = self.segments or (Segment(self.n_prompt),)
        self.n_completion = self.n_completion or len(self.ids) - self.n_prompt

    def spans(self) -> Iterator[tuple[str, float, range]]:
        """Yield (name, weight, indices of its targets) of each segment that has a weight.

        The first token of all is no target: it has nothing to be predicted from.
        """
        end = len(self.ids)
        ends = [segment.start for segment in self.segments[1:]]
        for segment, stop in zip(self.segments, [*ends, end]):
            if segment.weight and stop > max(1, segment.start):
                yield segment.name, segment.weight, range(max(1, segment.start), stop)

    @property
    def targets(self) -> Sequence[int]:
        """Indices of the tokens that the loss falls on: those of segments that have a weight."""
        ranges = [targets for _, _, targets in self.spans()]
        return ranges[0] if len(ranges) == 1 else [i for targets in ranges for i in targets]

    @property
    def n_targets(self) -> int:
        """How many targets there are, without a list of them."""
        return sum(len(targets) for _, _, targets in self.spans())

    @property
    def loss_weight(self) -> float:
        """The weights of all targets together."""
        return self.weight * sum(weight * len(targets) for _, weight, targets in self.spans())

    def weighted(self) -> Iterator[tuple[int, float]]:
        """Yield (index, what its loss is multiplied by) of each target."""
        for _, weight, targets in self.spans():
            for i in targets:
                yield i, weight * self.weight


def tokenize(
    examples: Iterable[dict],
    tokenizer: Any,
    max_length: int,
    on_error: OnError = stop_at_error,
    action_weight: float = 1.0,
) -> Iterator[Row]:
    """Render each example with the chat template and mark where its completion and the spans of that begin.

    The prompt must be a prefix of the whole (templates that rewrite earlier turns break that), and a stop token must be
    among the targets (or the policy never learns to end). An example that fails either, is longer than `max_length`
    tokens, or has spans that do not fit its text, goes to `on_error`.

    action_weight: what the span "action" of an example with a thought counts, beside the span's own weight.
    """
    chats = ChatTokenizer(HfTokenizer(tokenizer))
    for example in examples:
        try:
            yield _row(example, chats, tokenizer, max_length, action_weight)
        except InputError as e:
            on_error(example, e)


def row_maker(tokenizer: Any) -> Callable[[dict], Row]:
    """Return what makes a row of an example, however long it is, or raises InputError, which names the example."""
    chats = ChatTokenizer(HfTokenizer(tokenizer))

    def row_of(example: dict) -> Row:
        try:
            return _row(example, chats, tokenizer, sys.maxsize, 1.0)
        except InputError as e:
            raise InputError(f"{example['id']}: {e}") from None

    return row_of


def _row(example: dict, chats: ChatTokenizer, tokenizer: Any, max_length: int, action_weight: float) -> Row:
    before, after = chats.example(example["prompt"], example["completion"], tokenizer.eos_token_id)
    ids = before + after
    if len(ids) > max_length:
        raise InputError(f"has {len(ids)} tokens, more than --max-length {max_length}", "$.prompt")
    spans = spans_of(example)
    segments = _segments(example, spans, ids, len(before), tokenizer, action_weight if has_thought(spans) else 1.0)
    row = Row(
        ids,
        len(before),
        float(example.get("weight", 1.0)),
        example.get("group"),
        sys.intern(example["kind"]),
        segments,
        thought=has_thought(spans),
    )
    if row.n_targets:
        del row.ids[row.targets[-1] + 1 :]  # nothing is learned from what follows
    return row


def _segments(
    example: dict, spans: list[Span], ids: list[int], start: int, tokenizer: Any, action_weight: float
) -> tuple[Segment, ...]:
    """Runs of tokens that are alike: of spans with one name and one weight."""

    def decode(some: Sequence[int]) -> str:
        return tokenizer.decode(list(some), clean_up_tokenization_spaces=False)

    segments: list[Segment] = []
    owners = span_of_tokens(ids[start:], example["completion"][-1]["content"], spans, decode)
    for i, owner in enumerate(owners, start):
        name, weight = spans[owner].name, spans[owner].weight
        if name == ACTION:
            weight *= action_weight
        if not segments or segments[-1][1:] != (name, weight):
            segments.append(Segment(i, sys.intern(name), weight))
    return tuple(segments)
