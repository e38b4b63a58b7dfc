"""Score examples: the log-probabilities of the spans of their completions, and the table of their losses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from eexp.errors import InputError, UsageError
from eexp.models.base import Model, Sample, Score
from eexp.models.in_order import answer_in_order
from eexp.prompts import Message
from eexp.records.callbacks import OnError, Skip, skip_none, stop_at_error
from eexp.records.outcomes import TRANSITIONS
from eexp.records.shards import are_apart
from eexp.records.spans import CompletionSpan, span_of_tokens, spans_of
from eexp.system.terminal import align

#: Examples of one trajectory that are scored together; more are cut into several groups, which takes little time.
GROUP = 128


@dataclass
class _Entry:
    """An example that was read."""

    example: dict
    skipped: bool  # an earlier run has written it
    request: Score | None = None  # the request for its score; None where it cannot be scored
    error: InputError | None = None  # why it cannot be scored


def score(
    examples: Iterable[dict], model: Model, *, skip: Skip = skip_none, on_error: OnError = stop_at_error
) -> Iterator[dict]:
    """Add `scores` to each example: log-probability and number of tokens of each span of its completion.

    Consecutive examples with the same `group` are scored together, and what their prompts share is evaluated once.

    Args:
        on_error: Called with an example that cannot be scored.

    Raises:
        UsageError: The model is a server, which cannot score.
    """
    if not model.exact:
        raise UsageError(f"{model.spec}: a server cannot score a given text; give a GGUF file or hf:DIR_OR_ID")

    def requests() -> Iterator[tuple[list[_Entry], list[Score]]]:
        for group in _groups(examples):
            entries = [_Entry(example, skip(example["id"])) for example in group]
            if all(entry.skipped for entry in entries):
                continue
            for entry in entries:  # the skipped ones, too, so that batches are the same as without an interruption
                try:
                    entry.request = score_request(entry.example, model)
                except InputError as e:
                    entry.error = e
            yield entries, [entry.request for entry in entries if entry.request]

    for entries, answers in answer_in_order(requests(), model):
        answer = iter(answers)
        for entry in entries:
            scored = next(answer) if entry.request else entry.error
            if entry.skipped:
                continue
            if isinstance(scored, InputError):
                on_error(entry.example, scored)
                continue
            assert scored is not None
            yield {**entry.example, "scores": scores_of(entry.example, scored[0], model)}


def _groups(examples: Iterable[dict]) -> Iterator[list[dict]]:
    """Yield consecutive examples of one trajectory together; those without a group alone.

    In a shard, consecutive are those that are so in the whole input, so that batches are the same there.
    """
    group: list[dict] = []
    for example in examples:
        belongs = group and example.get("group") is not None and example["group"] == group[-1].get("group")
        belongs = belongs and not are_apart(group[-1], example)
        if group and (not belongs or len(group) == GROUP):
            yield group
            group = []
        group.append(example)
    if group:
        yield group


def score_request(example: dict, model: Model) -> Score:
    """Return the request for the log-probability of an example's completion, in the tokens of training.

    Raises:
        InputError: The completion has more than one message, its spans do not fit it, or the chat template refuses it.
    """
    completion = example["completion"]
    if len(completion) > 1:
        raise InputError(
            f"has {len(completion)} messages; only a completion of one message can be scored", "$.completion"
        )
    spans_of(example)
    tools = example.get("tools") or ()
    ids = model.encode(example["prompt"], completion, tools)
    return Score(example["prompt"], [completion[0]["content"]], ids=[ids], tools=tools)


def logprobs_of(message: Message, spans: list[CompletionSpan], sample: Sample, model: Model) -> list[list[float]]:
    """Return the log-probabilities of the tokens of each span of a completion.

    Args:
        sample: The model's answer to the Score of its text.
    """
    assert sample.ids is not None and sample.logprobs is not None
    by_span: list[list[float]] = [[] for _ in spans]
    owners = span_of_tokens(sample.ids, message["content"], spans, model.spell, bool(message.get("tool_calls")))
    for owner, logprob in zip(owners, sample.logprobs):
        by_span[owner].append(logprob)
    return by_span


def scores_of(example: dict, sample: Sample, model: Model) -> list[dict]:
    """Return the `scores` of an example: the log-probability of each of its spans and its number of tokens."""
    spans = spans_of(example)
    by_span = logprobs_of(example["completion"][-1], spans, sample, model)
    return [
        {"span": span.name, "logprob": math.fsum(logprobs), "tokens": len(logprobs)}
        for span, logprobs in zip(spans, by_span)
    ]


@dataclass
class _Sum:
    """A sum over examples: their number, their tokens, and the log-probabilities of these."""

    examples: int = 0
    tokens: int = 0
    logprobs: list[float] = field(default_factory=list)

    def add(self, scores: Iterable[dict]) -> None:
        self.examples += 1
        for score in scores:
            self.tokens += score["tokens"]
            self.logprobs.append(score["logprob"])
        if len(self.logprobs) > 1000:
            self.logprobs = [math.fsum(self.logprobs)]

    @property
    def loss(self) -> float | None:
        """Mean loss per token in nats; None without tokens."""
        return -math.fsum(self.logprobs) / self.tokens if self.tokens else None


class Losses:
    """Mean losses per token of scored examples, by kind and span, and by transition for examples that have one."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], dict[str, _Sum]] = {}  # by (kind, transition or ""), then by span or ""

    def add(self, example: dict) -> None:
        """Count an example that has `scores`."""
        scores = example["scores"]
        names = list(dict.fromkeys(score["span"] for score in scores))
        transition = example.get("transition")
        for group in [(example["kind"], ""), *([(example["kind"], transition)] if transition else [])]:
            sums = self._sums.setdefault(group, {})
            sums.setdefault("", _Sum()).add(scores)
            for name in names:
                sums.setdefault(name, _Sum()).add(score for score in scores if score["span"] == name)

    def rows(self) -> list[dict]:
        """Return one row for each kind, transition and span; `span` is null for all spans together."""
        return list(self._rows())

    def _rows(self) -> Iterator[dict]:
        def place(group: tuple[str, str]) -> tuple[str, int, str]:
            kind, transition = group
            return kind, TRANSITIONS.index(transition) if transition in TRANSITIONS else -1, transition

        for kind, transition in sorted(self._sums, key=place):
            sums = self._sums[kind, transition]
            for name in [name for name in sums if name] + [""] * (len(sums) > 2):
                total = sums[name]
                yield {
                    "kind": kind,
                    "transition": transition or None,
                    "span": name or None,
                    "examples": total.examples,
                    "tokens": total.tokens,
                    "loss": total.loss,
                }


def loss_table(rows: list[dict]) -> list[str]:
    """Return the lines of a table with rows of losses."""
    lines = [["kind", "transition", "span", "examples", "tokens", "loss"]]
    for row in rows:
        loss = "" if row["loss"] is None else f"{row['loss']:.4f}"
        names = [row["kind"], row["transition"] or "", row["span"] or "all"]
        lines.append([*names, str(row["examples"]), str(row["tokens"]), loss])
    return align(lines, left=3)
