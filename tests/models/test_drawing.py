"""Draws against exact probabilities: a language model that is a table has few texts, which can all be counted.

Each statistical test has fixed seeds, so it passes always or never, and a chance of at most FALSE_ALARM to fail a right
program, whatever the number of things it looks at (Bonferroni).
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, sampled_from
from scipy import stats
from tables import Letters, Table

from eexp.models.base import Draw, Sample
from eexp.models.engine.distribution import TokenDistribution
from eexp.models.engine.sampling import WithoutReplacement, open_search

FALSE_ALARM = 1e-4
TABLE = Table(seed=1, letters=4, spread=1.2)
DEPTH = 3  # 40 texts: "", 3 of a letter, 9 of two, and 27 that are cut after three
EXACT = TABLE.texts([], DEPTH)


def samples_of(request: Draw, table: Table = TABLE) -> list[Sample]:
    return table.answer([], request)


def names(samples: list[Sample]) -> list[tuple[str, bool]]:
    return [(s.text, s.finished) for s in samples]


def inclusion(probabilities: dict, k: int) -> dict:
    """Return the probability of each to be among the first `k` drawn without replacement, by enumerating all orders."""
    sums = dict.fromkeys(probabilities, 0.0)
    for order in permutations(probabilities, k):
        chance, remainder = 1.0, 1.0
        for name in order:
            chance *= probabilities[name] / remainder
            remainder -= probabilities[name]
        for name in order:
            sums[name] += chance
    return sums


def assert_frequencies(counts: Counter, expected: dict, n: int) -> None:
    """Assert that each count fits n trials with the expected probability (binomial tests)."""
    assert set(counts) <= {name for name in expected if expected[name] > 0}
    for name, p in expected.items():
        assert stats.binomtest(counts[name], n, min(p, 1.0)).pvalue > FALSE_ALARM / len(expected), (
            name,
            p,
            counts[name],
        )


def without(name: tuple[str, bool]) -> dict:
    remainder = 1 - EXACT[name]
    return {n: 0.0 if n == name else p / remainder for n, p in EXACT.items()}


def test_the_table_itself():
    assert len(EXACT) == 40 and sum(EXACT.values()) == pytest.approx(1)
    assert max(EXACT.values()) < 0.5, "or there is little to draw"


def test_independent_draws_have_their_probabilities():
    for temperature in (1.0, 2.5):
        n, exact = 8000, TABLE.texts([], DEPTH, temperature)
        frequencies = Counter(names(samples_of(Draw([], n=n, temperature=temperature, max_tokens=DEPTH, seed=11))))
        assert set(frequencies) <= set(exact)
        counts, expected = zip(*[(frequencies[name], n * p) for name, p in exact.items() if n * p > 5])
        rest = [n - sum(counts)], [n - sum(expected)]
        assert stats.chisquare([*counts, *rest[0]], [*expected, *rest[1]]).pvalue > FALSE_ALARM / 2


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_without_replacement_have_their_inclusion_probabilities(temperature):
    n, k = 1200, 3
    exact = TABLE.texts([], DEPTH, temperature)
    draws = [
        names(samples_of(Draw([], n=k, temperature=temperature, max_tokens=DEPTH, seed=seed, distinct=True)))
        for seed in range(n)
    ]
    assert all(len(set(some)) == k for some in draws)
    assert_frequencies(Counter(name for some in draws for name in some), inclusion(exact, k), n)
    assert_frequencies(Counter(some[0] for some in draws), exact, n)
    best = max(exact, key=exact.get)
    after = [some[1] for some in draws if some[0] == best]
    assert_frequencies(Counter(after), {m: p / (1 - exact[best]) for m, p in exact.items() if m != best}, len(after))


def test_a_refused_text_is_replaced_as_if_it_did_not_exist():
    n, best = 1500, max(EXACT, key=EXACT.get)

    def accept(sample: Sample) -> bool:
        return (sample.text, sample.finished) != best

    draws = [
        names(
            samples_of(
                Draw([], n=2, temperature=1.0, max_tokens=DEPTH, seed=seed, accept=accept, most=50, distinct=True)
            )
        )
        for seed in range(n)
    ]
    assert_frequencies(Counter(name for some in draws for name in some), inclusion(without(best), 2), n)
    independent = names(
        samples_of(Draw([], n=n, temperature=1.0, max_tokens=DEPTH, seed=3, accept=accept, most=100 * n))
    )
    assert len(independent) == n
    assert_frequencies(Counter(independent), without(best), n)


def test_allowed_texts_are_drawn_by_the_probabilities_of_each_token():
    """At every token, those that lead to an allowed text share all the probability; texts do not keep their own."""
    allowed = ["", "a", "ab", "abc", "c"]

    def among(before: str) -> dict[str, float]:
        following = {text[len(before) :][:1] for text in allowed if text.startswith(before)}
        logits = TABLE.logits([Letters().completion(c)[0] for c in before])
        weights = {c: float(np.exp(logits[Letters().completion(c)[0]])) for c in following}
        return {c: w / sum(weights.values()) for c, w in weights.items()}

    exact = {
        (text, True): float(np.prod([among(text[:i])[text[i : i + 1]] for i in range(len(text) + 1)]))
        for text in allowed
    }
    assert sum(exact.values()) == pytest.approx(1)
    n = 1500
    draws = [
        names(samples_of(Draw([], n=2, temperature=1.0, max_tokens=9, seed=seed, distinct=True, allowed=allowed)))
        for seed in range(n)
    ]
    assert_frequencies(Counter(name for some in draws for name in some), inclusion(exact, 2), n)
    assert_frequencies(
        Counter(names(samples_of(Draw([], n=n, temperature=1.0, max_tokens=9, seed=5, allowed=allowed)))), exact, n
    )


def test_logprobs_are_those_of_the_model_at_temperature_one():
    for request in (
        Draw([], n=30, temperature=2.0, max_tokens=DEPTH, seed=1),
        Draw([], n=30, temperature=0.5, max_tokens=DEPTH, seed=1, distinct=True),
    ):
        samples = samples_of(request)
        assert len(samples) == 30
        for s in samples:
            assert s.logprob == pytest.approx(np.log(EXACT[s.text, s.finished]), abs=1e-5)
            assert s.tokens == len(s.text)


def test_a_finite_support_is_drawn_to_its_end():
    everything = samples_of(Draw([], n=100, temperature=1.0, max_tokens=DEPTH, seed=4, distinct=True))
    assert sorted(names(everything)) == sorted(EXACT)
    allowed = ["abc", "ab", "b", "", "abcabc"]
    sharp = Table(seed=2, letters=4, spread=60.0)  # so sure of itself that most of them have no probability to speak of
    for temperature in (0.3, 1.0):
        samples = samples_of(
            Draw([], n=9, temperature=temperature, max_tokens=20, seed=4, distinct=True, allowed=allowed), sharp
        )
        assert sorted(s.text for s in samples) == sorted(allowed)
    refusing = samples_of(
        Draw(
            [],
            n=9,
            temperature=1.0,
            max_tokens=20,
            seed=4,
            accept=lambda s: s.text != "b",
            most=99,
            distinct=True,
            allowed=allowed,
        )
    )
    assert sorted(s.text for s in refusing) == sorted(set(allowed) - {"b"})


@pytest.mark.parametrize("distinct", [False, True])
def test_texts_are_judged_once_in_order_until_there_are_enough(distinct):
    judged: list[Sample] = []

    def accept(sample: Sample) -> bool:
        judged.append(sample)
        return "a" in sample.text

    def ask(n: int, most: int | None) -> list[Sample]:
        judged.clear()
        return samples_of(
            Draw([], n=n, temperature=1.5, max_tokens=DEPTH, seed=8, accept=accept, most=most, distinct=distinct)
        )

    assert ask(3, 60) == [s for s in judged if "a" in s.text] and judged[-1].text.count("a"), "not one more than needed"
    whole = list(judged)
    assert len(whole) > 3
    assert ask(2, 60) == [s for s in whole if "a" in s.text][:2] and judged == whole[: len(judged)]
    assert ask(3, 4) == [s for s in whole[:4] if "a" in s.text] and judged == whole[:4]
    assert ask(3, None) == [s for s in whole[:3] if "a" in s.text] and judged == whole[:3]
    assert whole == samples_of(Draw([], n=len(whole), temperature=1.5, max_tokens=DEPTH, seed=8, distinct=distinct)), (
        "without a judge they all count"
    )


# -- out of the tail -------------------------------------------------------------------------------------------------


def most_probable(exact: dict, contends, limit: int) -> float | None:
    """Return the probability of the most probable contending text among the first `limit` texts and beginnings."""
    beginnings: Counter = Counter()
    for (text, finished), p in exact.items():
        for n in range(1, len(text) + finished):
            beginnings[text[:n], None] += p
    entries = sorted([*beginnings.items(), *exact.items()], key=lambda entry: (-entry[1], entry[0][0]))
    return next((p for (text, end), p in entries[:limit] if end is not None and contends(text)), None)


def above_floor(exact: dict, min_p: float, contends=lambda text: True) -> dict:
    """Return the texts above the floor with their probabilities, which sum to 1."""
    floor = min_p * most_probable(exact, contends, 9999)
    remaining = {name: p for name, p in exact.items() if p >= floor}
    return {name: p / sum(remaining.values()) for name, p in remaining.items()}


@given(
    seed=integers(0, 10**6),
    spread=floats(0.3, 4.0),
    depth=integers(1, 4),
    min_p=floats(0.001, 0.9),
    temperature=sampled_from([0.7, 1.0, 3.0]),
    top_p=sampled_from([None, 0.6, 0.95]),
    n=integers(1, 30),
)
def test_min_p_leaves_the_draws_above_the_floor_and_no_others(seed, spread, depth, min_p, temperature, top_p, n):
    """The texts and their order equal those of drawing everything and dropping texts below the floor."""
    table = Table(seed, letters=4, spread=spread)

    def contends(sample: Sample) -> bool:
        return random.Random(f"{seed} {sample.text}").random() > 0.4

    request = Draw([], n=200, temperature=temperature, max_tokens=depth, seed=seed, distinct=True, top_p=top_p)
    everything = samples_of(request, table)
    exact = {(s.text, s.finished): float(np.exp(s.logprob)) for s in everything}
    # A beginning that top_p leaves is as probable as all that begins so, with what top_p leaves out.
    floor = max((p for (text, _), p in exact.items() if contends(Sample(text))), default=0) * min_p * (1 + 1e-9)
    expected = [s for s in everything if np.exp(s.logprob) >= floor]
    judged = []
    floored = replace(request, min_p=min_p, contends=contends, n=n, most=200)
    assert samples_of(floored, table) == expected[:n]
    assert (
        samples_of(replace(floored, accept=lambda s: not judged.append(s) and contends(s)), table)
        == [s for s in expected if contends(s)][:n]
    )
    assert set(names(judged)) <= set(names(expected)), "what is below the floor is never judged"


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_min_p_is_drawing_without_replacement_from_the_remaining_texts(temperature):
    """The policy's most probable text is the expert's action: it does not contend, and it is refused."""
    n, best = 1200, max(EXACT, key=EXACT.get)
    remaining = above_floor(EXACT, 0.3, lambda text: text != best[0])
    at_temperature = TABLE.texts([], DEPTH, temperature)
    alternatives = {name: at_temperature[name] for name in remaining if name[0] != best[0]}
    exact = {name: p / sum(alternatives.values()) for name, p in alternatives.items()}
    assert 4 < len(exact) < 15

    def other(sample: Sample) -> bool:
        return sample.text != best[0]

    how = dict(accept=other, most=50, distinct=True, min_p=0.3, contends=other)
    draws = [
        names(samples_of(Draw([], n=3, temperature=temperature, max_tokens=DEPTH, seed=seed, **how)))
        for seed in range(n)
    ]
    assert_frequencies(Counter(name for some in draws for name in some), inclusion(exact, 3), n)
    assert_frequencies(Counter(some[0] for some in draws), exact, n)


def test_too_few_contenders_end_the_search():
    """The search neither evaluates nor judges texts below the floor."""
    sure = Table(seed=7, spread=9.0)

    def evaluated(min_p: float | None, most: int) -> tuple[list, int]:
        search, n_evaluated = (
            open_search(
                Draw(
                    [],
                    n=9,
                    temperature=1.0,
                    max_tokens=6,
                    seed=1,
                    accept=lambda s: True,
                    most=most,
                    distinct=True,
                    min_p=min_p,
                ),
                Letters(),
            ),
            0,
        )
        while not search.done:
            node = search.frontier()[0]
            search.tell(node, sure.logits([n.token for n in node.path()]))
            n_evaluated += 1
        return search.accepted, n_evaluated

    contenders, few = evaluated(0.5, 90)
    draws, many = evaluated(None, 90)
    assert 1 <= len(contenders) < 5 and len(draws) == 9 and few < many
    assert contenders == [s for s in draws if s in contenders]


def test_a_most_probable_text_that_is_not_found_sets_no_floor(monkeypatch):
    for limit in (1, 3, 8, 20, 40):
        monkeypatch.setattr("eexp.models.engine.sampling.LEAST_LOOKS", limit)
        monkeypatch.setattr("eexp.models.engine.sampling.LOOKS_A_TOKEN", 0)
        for seed in range(40):
            table = Table(seed, letters=4, spread=random.Random(seed).choice([0.3, 2.0]))
            request = Draw(
                [],
                n=50,
                temperature=1.0,
                max_tokens=DEPTH,
                seed=seed,
                distinct=True,
                min_p=0.5,
                contends=lambda s: "b" in s.text,
            )
            exact = table.texts([], DEPTH)
            reference = most_probable(exact, lambda text: "b" in text, limit)
            remaining = exact if reference is None else above_floor(exact, 0.5, lambda text: "b" in text)
            assert set(names(samples_of(request, table))) == set(remaining)
            search = open_search(request, Letters())
            while not search.done:
                search.tell(node := search.frontier()[0], table.logits([n.token for n in node.path()]))
            assert search.without_floor == (reference is None)


@pytest.mark.parametrize("top_p", [0.5, 0.9])
def test_top_p_draws_from_the_nucleus_at_every_token(top_p):
    n = 1500
    for temperature in (1.0, 2.0):
        exact = TABLE.texts([], DEPTH, temperature, top_p)
        assert 1 < len(exact) < 40 and sum(exact.values()) == pytest.approx(1)
        assert set(
            names(
                samples_of(
                    Draw([], n=100, temperature=temperature, max_tokens=DEPTH, seed=1, distinct=True, top_p=top_p)
                )
            )
        ) == set(exact)
        k = min(2, len(exact))
        draws = [
            names(
                samples_of(Draw([], n=k, temperature=temperature, max_tokens=DEPTH, seed=s, distinct=True, top_p=top_p))
            )
            for s in range(n)
        ]
        assert_frequencies(Counter(name for some in draws for name in some), inclusion(exact, k), n)
        independent = samples_of(Draw([], n=n, temperature=temperature, max_tokens=DEPTH, seed=3, top_p=top_p))
        assert_frequencies(Counter(names(independent)), exact, n)
        for s in independent[:50]:
            assert s.logprob == pytest.approx(np.log(EXACT[s.text, s.finished]), abs=1e-5), "before the cut"


def test_a_nucleus_of_many_tokens():
    logits = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    p = np.exp(logits - logits.max()).astype(float)
    order = np.argsort(-p, kind="stable")
    for share in (1e-9, 0.2, 0.9, 0.999, 1.0):
        size = int(((p[order].cumsum() - p[order]) < share * p.sum()).sum())
        nucleus = [token for _, token in TokenDistribution(logits, top_p=share).likely(5000)]
        assert nucleus[: len(order)] == order[: len(nucleus)].tolist() and abs(len(nucleus) - size) <= 1
    equal = TokenDistribution(np.zeros(3000, np.float32), top_p=0.5)
    assert [token for _, token in equal.likely(3000)] == list(range(1500))


# -- the order of things ---------------------------------------------------------------------------------------------


def test_temperature_zero_is_the_most_probable_token_every_time():
    tokens: list[int] = []
    while not tokens or (tokens[-1] and len(tokens) < 9):
        tokens.append(int(TABLE.logits(tokens).argmax()))
    for distinct in (False, True):
        assert (
            len(
                {
                    (s.text, s.logprob)
                    for s in samples_of(Draw([], n=3, temperature=0, max_tokens=9, seed=1, distinct=distinct))
                }
            )
            == 1
        )
        assert len(samples_of(Draw([], n=3, temperature=0, max_tokens=9, seed=1, distinct=distinct))) == 3
        (sample,) = samples_of(Draw([], n=1, temperature=0, max_tokens=9, seed=1, distinct=distinct))
        assert Letters().completion(sample.text)[: len(tokens)] == tokens
        assert (
            samples_of(
                Draw([], n=3, temperature=0, max_tokens=9, seed=1, accept=lambda s: False, most=50, distinct=distinct)
            )
            == []
        )


def test_a_text_is_cut_at_the_token_limit():
    for distinct in (False, True):
        for s in samples_of(Draw([], n=20, temperature=1.0, max_tokens=2, seed=1, distinct=distinct)):
            assert s.tokens == len(s.text) <= 2 and s.finished == (s.tokens < 2)


@pytest.mark.parametrize(
    "request_",
    [Draw([], n=0), Draw([], n=0, distinct=True), Draw([], n=3, allowed=[]), Draw([], n=3, distinct=True, allowed=[])],
)
def test_a_request_for_no_text_gives_none(request_):
    assert open_search(request_, Letters()).done and samples_of(request_) == []


def test_the_seed_decides():
    for distinct in (False, True):
        some = [
            names(samples_of(Draw([], n=4, temperature=1.0, max_tokens=DEPTH, seed=seed, distinct=distinct)))
            for seed in (1, 1, 2)
        ]
        assert some[0] == some[1] != some[2]


def test_draws_do_not_depend_on_the_order_of_evaluations():
    """Texts and log-probabilities are equal to the last digit, whichever part of the frontier is evaluated first."""

    def in_any_order(request: Draw, table: Table, chance: random.Random) -> list[Sample]:
        search = open_search(request, Letters())
        while not search.done:
            frontier = search.frontier()
            for node in chance.sample(frontier, chance.randint(1, len(frontier))):
                if not search.done:
                    search.tell(node, table.logits([n.token for n in node.path()]))
        return search.accepted

    for seed in range(150):
        chance, table = random.Random(seed), Table(seed % 10, spread=0.5)
        request = Draw(
            [],
            n=chance.randint(1, 6),
            temperature=chance.choice([1.0, 3.0]),
            max_tokens=chance.randint(1, 4),
            seed=seed,
            accept=lambda s, seed=seed: random.Random(f"{seed} {s.text}").random() > 0.8,
            most=40,
            distinct=chance.random() < 0.8,
            top_p=chance.choice([None, 0.8]),
            min_p=chance.choice([None, 0.1, 0.5]),
            contends=lambda s: s.text[:1] != "a",
        )
        assert in_any_order(request, table, chance) == table.answer([], request)


def test_nodes_below_the_last_draw_are_not_evaluated():
    n_evaluated = 0
    for seed in range(200):
        search = open_search(Draw([], n=3, temperature=1.0, max_tokens=DEPTH, seed=seed, distinct=True), Letters())
        assert isinstance(search, WithoutReplacement)
        while not search.done:
            for node in search.frontier()[:1]:
                search.tell(node, TABLE.logits([n.token for n in node.path()]))
                n_evaluated += 1
    assert n_evaluated / 200 < 6, "three texts of at most three tokens, of 13 nodes in all"
