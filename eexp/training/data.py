"""Examples as rows of token ids, with a mask of targets that is checked rather than trusted."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from eexp.errors import InputError
from eexp.models.chat_tokens import ChatTokenizer
from eexp.models.tokenizers import HfTokenizer, stop_token, text_of
from eexp.records.callbacks import OnError, stop_at_error
from eexp.records.spans import ACTION, CompletionSpan, has_thought, span_of_tokens, spans_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


#: The smallest weight of a target, in size: the weights of an update are divided by their sum, in float32.
_SMALLEST_WEIGHT = 1e-30


class Segment(NamedTuple):
    """Tokens of a completion that belong to one span, from the index `start` to where the next segment starts."""

    start: int  # index of its first token in the row
    name: str = ""  # the span's name
    weight: float = 1.0  # factor of the loss of its tokens


@dataclass
class Row:
    """One tokenised example: the loss falls on ids[n_prompt:], times `weight` and the weights of their segments."""

    #: The tokens up to the last target; four bytes each, for a row has its whole history, and a run all its rows.
    ids: array[int]
    n_prompt: int  # number of tokens before the completion
    weight: float  # factor of the loss of all targets
    group: str | None = None  # the trajectory that the example was made from
    kind: str = ""  # the example's kind
    segments: Sequence[Segment] = ()  # those of all tokens from n_prompt on, in order; by default one of weight 1
    #: Number of tokens of the completion, including those after the last target, which `ids` lacks.
    n_completion: int = 0
    thought: bool = False  # whether there is a thought in it
    id: str = ""  # the example's id, for messages

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
        """The number of targets, without a list of them."""
        return sum(len(targets) for _, _, targets in self.spans())

    @property
    def loss_weight(self) -> float:
        """The sum of the weights of all targets, each without its sign."""
        return abs(self.weight) * sum(weight * len(targets) for _, weight, targets in self.spans())

    def target_weights(self) -> Iterator[tuple[int, float]]:
        """Yield (index, factor of its loss) of each target."""
        for _, weight, targets in self.spans():
            for i in targets:
                yield i, weight * self.weight


def tokenize(
    examples: Iterable[dict],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    on_error: OnError = stop_at_error,
    action_weight: float = 1.0,
) -> Iterator[Row]:
    """Render each example with the chat template, and find where its completion and the spans of that begin.

    The prompt must be a prefix of the whole (templates that rewrite earlier turns break that), and a stop token must be
    among the targets (or the policy never learns to end).

    Args:
        tokenizer: A tokenizer with a chat template.
        on_error: Called with an example that is longer, breaks either rule above, or has spans that do not fit its
            text.
        action_weight: Factor of the span "action" of an example with a thought, beside the span's own weight.
    """
    row_of = row_function(tokenizer, max_length, action_weight)
    for example in examples:
        try:
            yield row_of(example)
        except InputError as e:
            on_error(example, e)


def row_function(
    tokenizer: PreTrainedTokenizerBase, max_length: int, action_weight: float = 1.0
) -> Callable[[dict], Row]:
    """Return a function that makes the row of one example, and raises InputError for one that `tokenize` refuses.

    Arguments are those of `tokenize`.
    """
    chats = ChatTokenizer(HfTokenizer(tokenizer))
    return lambda example: _tokenize_one(example, chats, tokenizer, max_length, action_weight)


def row_maker(tokenizer: PreTrainedTokenizerBase) -> Callable[[dict], Row]:
    """Return a function that makes the row of one example, however long it is.

    The function raises InputError, which names the example, for one that `tokenize` would refuse.
    """
    unnamed_row_of = row_function(tokenizer, sys.maxsize)

    def row_of(example: dict) -> Row:
        try:
            return unnamed_row_of(example)
        except InputError as e:
            raise InputError(f"{example['id']}: {e}") from None

    return row_of


def _tokenize_one(
    example: dict, chats: ChatTokenizer, tokenizer: PreTrainedTokenizerBase, max_length: int, action_weight: float
) -> Row:
    """Return the row of one example; raises InputError for one that `tokenize` refuses."""
    prompt_ids, completion_ids = chats.example(
        example["prompt"], example["completion"], stop_token(tokenizer), example.get("tools") or ()
    )
    ids = prompt_ids + completion_ids
    if len(ids) > max_length:
        raise InputError(f"has {len(ids)} tokens, more than --max-length {max_length}", "$.prompt")
    spans = spans_of(example)
    thought = has_thought(spans)
    row = Row(
        array("i", ids),
        len(prompt_ids),
        float(example.get("weight", 1.0)),
        example.get("group"),
        sys.intern(example["kind"]),
        _segments(example, spans, ids, len(prompt_ids), tokenizer, action_weight if thought else 1.0),
        thought=thought,
        id=example["id"],
    )
    if any(0 < abs(weight) < _SMALLEST_WEIGHT for _, weight in row.target_weights()):
        raise InputError(f"weighs less than {_SMALLEST_WEIGHT:g}, too little to compute with", "$.weight")
    if row.n_targets:
        del row.ids[row.targets[-1] + 1 :]  # nothing is learned from what follows
    return row


def _segments(
    example: dict,
    spans: list[CompletionSpan],
    ids: list[int],
    start: int,
    tokenizer: PreTrainedTokenizerBase,
    action_weight: float,
) -> tuple[Segment, ...]:
    """Return the segments of a completion: runs of tokens whose spans have one name and one weight.

    Args:
        start: Index of the completion's first.
    """

    def decode(part: Sequence[int]) -> str:
        return text_of(tokenizer, part, clean_up_tokenization_spaces=False)

    segments: list[Segment] = []
    message = example["completion"][-1]
    owners = span_of_tokens(ids[start:], message["content"], spans, decode, bool(message.get("tool_calls")))
    for i, owner in enumerate(owners, start):
        name, weight = spans[owner].name, spans[owner].weight
        if name == ACTION:
            weight *= action_weight
        if not segments or segments[-1][1:] != (name, weight):
            segments.append(Segment(i, sys.intern(name), weight))
    return tuple(segments)
