"""Requests of many records, answered in order: what a stage may rely on, however far a model reads ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import pytest

from eexp.errors import InputError
from eexp.models.in_order import answer_in_order

AHEAD = pytest.mark.parametrize("ahead", [0, 1, 4, 100])


class Doubling:
    """Answers a number with its double, and reads some groups ahead of the one that it answers."""

    def __init__(self, ahead: int):
        self.ahead, self.closed = ahead, False

    def answer(self, groups: Iterable[Sequence[int]]) -> Iterator[list[int]]:
        waiting: deque[Sequence[int]] = deque()
        try:
            for group in groups:
                waiting.append(group)
                if len(waiting) > self.ahead:
                    yield [2 * number for number in waiting.popleft()]
            while waiting:
                yield [2 * number for number in waiting.popleft()]
        finally:
            self.closed = True


class Reader:
    """Reads groups of 0, 1 or 2 numbers, whose context is their place; fails after `failing_at` of them."""

    def __init__(self, n: int, failing_at: int | None = None):
        self.n, self.failing_at, self.read, self.closed = n, failing_at, 0, False

    def groups(self) -> Iterator[tuple[str, list[int]]]:
        try:
            for i in range(self.n):
                if i == self.failing_at:
                    raise InputError("is not valid", f"line {i}")
                self.read += 1
                yield f"record {i}", [i] * (i % 3)
        finally:
            self.closed = True


def expected(n: int) -> list[tuple[str, list[int]]]:
    return [(f"record {i}", [2 * i] * (i % 3)) for i in range(n)]


@AHEAD
def test_each_context_comes_with_its_own_answers_in_order(ahead):
    reader = Reader(10)
    assert list(answer_in_order(reader.groups(), Doubling(ahead))) == expected(10)


def test_without_a_source_every_group_has_no_answers():
    assert list(answer_in_order(Reader(4).groups(), None)) == [(f"record {i}", []) for i in range(4)]


def test_nothing_is_answered_where_nothing_is_read():
    assert list(answer_in_order([], Doubling(2))) == []


@AHEAD
def test_nothing_is_read_before_it_is_asked_for(ahead):
    reader = Reader(1000)
    answers = answer_in_order(reader.groups(), Doubling(ahead))
    assert reader.read == 0
    for n, _ in zip(range(1, 6), answers):
        assert reader.read == n + ahead


@AHEAD
@pytest.mark.parametrize("failing_at", [0, 1, 7])
def test_an_error_of_the_reader_comes_after_the_answers_to_all_groups_before_it(ahead, failing_at):
    received = []
    with pytest.raises(InputError, match=f"line {failing_at}"):
        for pair in answer_in_order(Reader(10, failing_at).groups(), Doubling(ahead)):
            received.append(pair)
    assert received == expected(failing_at)


def test_an_error_of_the_source_is_raised_where_it_happens():
    class Failing(Doubling):
        def answer(self, groups):
            for group in groups:
                if 3 in group or 4 in group:
                    raise InputError("no answer")
                yield [2 * number for number in group]

    received = []
    with pytest.raises(InputError, match="no answer"):
        for pair in answer_in_order(reader := Reader(10).groups(), Failing(0)):
            received.append(pair)
    assert received == expected(4)
    assert next(reader, None) is None


@AHEAD
def test_closing_early_closes_the_source_and_the_reader(ahead):
    reader, source = Reader(1000), Doubling(ahead)
    groups = reader.groups()
    answers = answer_in_order(groups, source)
    assert next(answers) == expected(1)[0]
    assert not source.closed
    assert not reader.closed
    answers.close()
    assert source.closed
    assert reader.closed
    assert reader.read == 1 + ahead


def test_iterators_that_cannot_be_closed_may_be_given():
    class Listing:
        def answer(self, groups):
            return iter([list(group) for group in groups])

    answers = answer_in_order(iter([("a", [1]), ("b", [2])]), Listing())
    assert next(answers) == ("a", [1])
    answers.close()
    assert next(answers, None) is None
