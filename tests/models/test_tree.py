"""The schedule of a group in one memory, on a table: with any amount of room, the answers are those of a model that
evaluates one node at a time without a memory."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from tables import LETTERS, Letters, StateTableDecoder, Table, TableDecoder

from eexp.errors import EexpError
from eexp.models.base import Draw, Sample, Score
from eexp.models.engine.decoder import Marks
from eexp.models.engine.groups import answer_group

Group = list[tuple[list[int], Draw | Score]]


def a_group(chance: random.Random) -> Group:
    """Return prompts with shared beginnings, as in a trajectory, or equal ones, with random requests."""
    prompt, group = tokens(chance, 1, 6), []
    for _ in range(chance.randint(1, 12)):
        kind = chance.random()
        if kind < 0.5:
            prompt = prompt + tokens(chance, 1, 5)
        elif kind < 0.7:
            prompt = prompt[: chance.randint(1, len(prompt))] + tokens(chance, 0, 3)
        elif kind < 0.8:
            prompt = tokens(chance, 1, 8)
        scored = chance.random() < 0.25
        group.append((prompt, Score([], words(chance, 0, 9)) if scored else a_draw(chance)))
    return group


def tokens(chance: random.Random, least: int, most: int) -> list[int]:
    return [chance.randrange(1, len(LETTERS)) for _ in range(chance.randint(least, most))]


def words(chance: random.Random, least: int, most: int) -> list[str]:
    return [Letters().text(tokens(chance, 0, 4)) for _ in range(chance.randint(least, most))]


def a_draw(chance: random.Random) -> Draw:
    n, salt, refused = chance.randint(1, 6), chance.random(), chance.choice([0, 0.3, 0.8])

    def accept(sample: Sample) -> bool:
        return random.Random(f"{salt} {sample.text} {sample.finished}").random() >= refused

    judged = chance.random() < 0.7
    return Draw(
        [],
        n=n,
        temperature=chance.choice([0, 0.3, 1.0, 1.0, 3.0]),
        max_tokens=chance.randint(1, 8),
        seed=chance.randrange(99),
        accept=accept if judged else None,
        most=chance.choice([None, n + 3, 30]) if judged else None,
        distinct=chance.random() < 0.6,
        allowed=words(chance, 1, 7) if chance.random() < 0.3 else None,
        top_p=chance.choice([None, None, 0.7]),
        min_p=chance.choice([None, 0.05, 0.5]),
    )


def need(group: Group) -> int:
    """Return the number of cells that a request needs at least."""

    def longest(request: Draw | Score) -> int:
        if isinstance(request, Draw):
            return request.max_tokens
        return max((len(text) + 1 for text in request.completions), default=0)

    return max(len(prompt) + longest(request) for prompt, request in group)


def check(group: Group, table: Table, decoder: TableDecoder) -> Counter[str]:
    counts: Counter[str] = Counter()
    for (prompt, request), answer in zip(group, answer_group(group, decoder, Letters(), counts), strict=True):
        if isinstance(request, Draw):
            assert answer == table.answer(prompt, request)
        else:
            expected = table.answer(prompt, request)
            assert [replace(s, logprob=0, logprobs=None) for s in answer] == [
                replace(s, logprob=0, logprobs=None) for s in expected
            ]
            for scored, plain in zip(answer, expected):
                assert scored.logprobs == pytest.approx(plain.logprobs, abs=1e-9)
                assert scored.logprob == pytest.approx(sum(plain.logprobs), abs=1e-9)
    assert not any(decoder.held[1:]), "all sequences are free in the end"
    assert counts["text tokens evaluated"] + counts["prompt tokens evaluated"] == decoder.evaluated
    return counts


def any_room(
    chance: random.Random, table: Table, group: Group, moody: float = 0.0, kind: type[TableDecoder] = TableDecoder
) -> TableDecoder:
    batch = chance.choice([1, 2, 5, 32])
    cells = need(group) + chance.choice([0, 0, 1, 5, 20, 1000])
    outputs, step = chance.randint(1, batch), chance.randint(1, batch)
    return kind(table, chance.choice([3, 4, 9, 64]), cells, batch, outputs, moody, step)


@pytest.mark.parametrize("kind", [TableDecoder, StateTableDecoder])
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in (1, 2))])
def test_answers_do_not_depend_on_the_room(part, kind):
    pushed_out = 0
    for seed in range(part * 60, part * 60 + 60):
        chance, table = random.Random(seed), Table(seed, spread=random.Random(seed).choice([0.5, 1.5, 3.0]))
        group = a_group(chance)
        pushed_out += check(group, table, any_room(chance, table, group, kind=kind))[
            "text[s] evaluated again, for want of memory"
        ]
    assert pushed_out > 30, "or there was room enough"


@pytest.mark.parametrize("kind", [TableDecoder, StateTableDecoder])
@pytest.mark.parametrize("moody", [pytest.param(0.3, marks=pytest.mark.long), 0.8])
def test_a_memory_that_is_full_at_any_time_changes_nothing(moody, kind):
    for seed in range(1000, 1050):
        chance, table = random.Random(seed), Table(seed)
        group = a_group(chance)
        check(group, table, any_room(chance, table, group, moody, kind))


def test_each_group_begins_with_an_empty_memory():
    chance, table = random.Random(1), Table(1)
    groups = [a_group(chance) for _ in range(5)]
    decoder = TableDecoder(table, 9, max(map(need, groups)), 8, 8)
    first = [answer_group(group, decoder, Letters(), Counter()) for group in groups]
    assert [answer_group(group, decoder, Letters(), Counter()) for group in groups[::-1]] == first[::-1]


def ample(table: Table) -> TableDecoder:
    return TableDecoder(table, 256, 8192, 512, 512)


def test_shared_tokens_of_prompts_are_evaluated_once():
    table, chance = Table(3), random.Random(3)
    long = tokens(chance, 200, 200)
    greedy = Draw([], n=1, temperature=0, max_tokens=1)
    for lengths in ((50, 90, 130, 200), (200, 130, 90, 50)):
        counts = check([(long[:n], greedy) for n in lengths], table, ample(table))
        assert (
            counts["prompt tokens evaluated"] == 200 + (lengths[0] == 200) * 3
        )  # each shorter one: its last token, for logits
    assert check([(long, greedy)] * 10, table, ample(table))["prompt tokens evaluated"] == 200 + 9


def test_shared_tokens_of_texts_are_evaluated_once():
    table, texts = Table(4), ["abcdef", "abcdeg", "abcd", "abx".replace("x", "a"), ""]
    counts = check([([1, 2], Score([], texts))], table, ample(table))
    beginnings = {text[:n] for text in texts for n in range(1, len(text) + 1)}
    assert counts["text tokens evaluated"] == len(beginnings) and counts["prompt tokens evaluated"] == 2
    sure = Table(4, spread=50.0)
    assert (
        check([([1, 2], Draw([], n=20, temperature=1.0, max_tokens=8))], sure, ample(sure))["text tokens evaluated"]
        <= 8
    )


def test_requests_are_answered_together():
    """64 states take few more batches than one."""

    class Counting(TableDecoder):
        batches = 0

        def decode(self, items):
            self.batches += 1
            return super().decode(items)

    chance, table = random.Random(5), Table(5)
    long = tokens(chance, 128, 128)
    group: Group = [(long[: 2 * i], Draw([], n=3, temperature=1.0, max_tokens=8, seed=i)) for i in range(1, 65)]
    together, alone = (Counting(table, 256, 4096, 512, 512) for _ in range(2))
    check(group, table, together)
    for one in group:
        answer_group([one], alone, Letters(), Counter())
    assert together.batches * 10 < alone.batches


def test_a_memory_that_is_not_cut_evaluates_little_more():
    """Each prompt leaves the one before at a mark; only texts that are drawn from below earlier ones are evaluated
    again."""
    chance, table = random.Random(7), Table(7)
    start = tokens(chance, 30, 30)
    prompts = [start + tokens(chance, 4 * i, 4 * i) for i in range(5)] + [start[:20] + tokens(chance, 9, 9), start]
    draws: Group = [(prompt, Draw([], n=4, max_tokens=8, seed=i)) for i, prompt in enumerate(prompts)]
    distinct: Group = [(prompt, replace(draw, distinct=True)) for prompt, draw in draws if isinstance(draw, Draw)]
    scores: Group = [(prompt, Score([], ["abc", "abd", "", "a"])) for prompt in prompts]
    for group in (draws, distinct, scores):
        cut = check(group, table, ample(table))
        whole = check(group, table, StateTableDecoder(table, 256, 8192, 512, 512))
        assert whole["text[s] evaluated again, for want of memory"] == 0
        assert whole["prompt tokens evaluated"] <= cut["prompt tokens evaluated"] + (group is scores) * len(prompts)
        assert whole["text tokens evaluated"] == cut["text tokens evaluated"]


def test_marks_are_few():
    marks: Marks[int] = Marks()
    for length in (100, 10, 11, 40, 70, 71, 80, 90, 95, 99):
        marks.add(0, length, length)
    assert sorted(marks._states[0]) == [10, 40, 70, 80, 90, 95, 99, 100]
    assert marks.reach(0, 120, 120) == 120 and marks.reach(0, 120, 119) == 100 and marks.reach(0, 120, 9) == 0
    assert marks.cut(0, 80) == 80 and sorted(marks._states[0]) == [10, 40, 70, 80] and marks.cut(0, 0) is None


def test_no_room_for_one_text_is_an_error():
    table = Table(6)
    group: Group = [([1, 2, 3], Draw([], n=1, temperature=1.0, max_tokens=8, allowed=["abcdefg"]))]
    check(group, table, TableDecoder(table, 3, 3 + 7, 4, 4))
    with pytest.raises(EexpError, match="give a larger --context"):
        answer_group(group, TableDecoder(table, 3, 3 + 6, 4, 4), Letters(), Counter())
