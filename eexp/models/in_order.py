"""Ask a model or a policy for what a stage needs for each of its records, and return the answers to the records."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TypeVar

from eexp.models.base import Answering

R = TypeVar("R")
A = TypeVar("A")
C = TypeVar("C")


def answer_in_order(
    groups: Iterable[tuple[C, Sequence[R]]], source: Answering[R, A] | None
) -> Generator[tuple[C, list[A]], None, None]:
    """Yield each context with the answers to its requests, in the order of `groups`.

    Groups are read when the source asks for them: it decides how far it reads ahead. Closing this generator early
    closes the source's answers and `groups`.

    Args:
        groups: Each with its context, which is returned as it came, and its requests, perhaps none.
        source: The model or policy that answers; None answers each group with an empty list.

    Raises:
        Exception: Reading `groups` failed; raised after the answers to all groups before.
    """
    contexts: deque[C] = deque()  # of the groups that were read and not answered yet
    failures: list[Exception] = []

    def requests() -> Iterator[Sequence[R]]:
        try:
            for context, group in groups:
                contexts.append(context)
                yield group
        except Exception as e:
            failures.append(e)

    answers = source.answer(requests()) if source else ([] for _ in requests())
    try:
        for answer in answers:
            yield contexts.popleft(), answer
        for failure in failures:
            raise failure
    finally:
        for iterator in (answers, groups):
            if isinstance(iterator, Generator):
                iterator.close()
