"""Which records a shard takes, what its marks say, and which values of --shard are taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eexp.errors import InputError
from eexp.records.jsonl import dumps
from eexp.records.shards import Shard, Share, key_of, mark_of, marked, parse_end, parse_mark, parse_shard, without_mark

IDS = st.lists(st.text(min_size=1, max_size=8).filter(lambda s: s.isprintable()), max_size=15)


def _records(ids: list[str]) -> list[dict]:
    return [{"type": "trajectory", "id": name} for name in ids]


def _taken(records: list[dict], count: int) -> list[list[dict]]:
    return [[without_mark(r) for r in Share(Shard(i, count)).of(records)] for i in range(1, count + 1)]


@given(IDS, st.integers(1, 9))
def test_shards_are_disjoint_and_complete(ids, count):
    records = [{**record, "lineage": [f"line {i}"]} for i, record in enumerate(_records(ids))]
    shards = _taken(records, count)
    assert sorted(map(dumps, (r for one in shards for r in one))) == sorted(map(dumps, records))
    for one in shards:
        assert [r for r in records if r in one] == one, "in the order of the input"


@given(IDS, IDS, st.integers(1, 9), st.data())
def test_a_shard_stays_what_it_was_when_lines_are_added(ids, more, count, data):
    old, longer = [f"old {name}" for name in ids], [f"old {name}" for name in ids]
    for name in more:
        longer.insert(data.draw(st.integers(0, len(longer))), f"new {name}")
    before = [[r["id"] for r in one] for one in _taken(_records(old), count)]
    after = [[r["id"] for r in one if r["id"].startswith("old")] for one in _taken(_records(longer), count)]
    assert before == after


def test_the_hash_never_changes():
    """Parts that were made with different versions of eexp must fit together."""
    shards = [next(i for i in range(1, 8) if Shard(i, 7).has(f"house/train/{n}")) for n in range(12)]
    assert shards == [4, 5, 7, 7, 2, 6, 3, 1, 1, 7, 2, 1]
    assert Shard(1, 2).has("\ud800") or Shard(2, 2).has("\ud800"), "names of tasks may be no text"


def test_examples_of_a_trajectory_are_in_one_shard():
    assert key_of({"id": "a/3/imitation", "group": "a"}, b"") == "a"
    assert key_of({"id": "a"}, b"") == "a"
    assert key_of(None, b"{broken\n") == key_of(None, b"{broken") != key_of({"id": 7}, b'{"id": 7}')


@given(st.integers(1, 50), st.integers(1, 50), st.lists(st.text(max_size=9), max_size=4), st.integers(1, 10**9))
def test_a_mark_comes_out_as_it_went_in(number, count, lineage, position):
    mark = Share(Shard(1, 1)).mark("x", b"x")
    assert mark
    mark = mark._replace(shard=Shard(number, count), position=position)
    assert parse_mark(str(mark)) == mark
    record = {"id": "x", "lineage": [line for line in lineage if not parse_mark(line)], "more": 1}
    assert mark_of(marked(record, mark)) == mark and without_mark(marked(record, mark)) == record


@pytest.mark.parametrize("text", ["1/1", "1/7", "7/7", "12/400"])
def test_a_shard_is_spelled_as_it_is_shown(text):
    assert str(parse_shard(text)) == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("0/7", "the first one is 1/7"),
        ("8/7", "the last one is 7/7"),
        ("1/0", "numbered from 1"),
        ("3", "write I/N"),
        ("-1/7", "write I/N"),
        ("3/7/9", "write I/N"),
        ("three/7", "write I/N"),
        ("1.5/7", "write I/N"),
        ("", "write I/N"),
    ],
)
def test_other_spellings_are_refused(text, hint):
    with pytest.raises(ValueError, match=hint):
        parse_shard(text)


def _slurm(**values: int) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("variables", "shard"),
    [
        (_slurm(ID=0, COUNT=7, MIN=0, MAX=6), "1/7"),  # --array=0-6
        (_slurm(ID=6, COUNT=7, MIN=0, MAX=6), "7/7"),
        (_slurm(ID=1, COUNT=7, MIN=1, MAX=7), "1/7"),  # --array=1-7
        (_slurm(ID=7, COUNT=7, MIN=1, MAX=7), "7/7"),
        (_slurm(ID=20, COUNT=3, MIN=10, MAX=30), "2/3"),  # --array=10-30:10
        (_slurm(ID=5, COUNT=1, MIN=5, MAX=5), "1/1"),
        (_slurm(ID=2, COUNT=3), "2/3"),
        (_slurm(ID=0, COUNT=2, MIN=0), "1/2"),
    ],
)
def test_auto_is_the_task_of_a_slurm_array(variables, shard):
    assert str(parse_shard("auto", variables)) == shard


@pytest.mark.parametrize(
    ("variables", "hint"),
    [
        ({}, "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT not set"),
        (_slurm(ID=3), "SLURM_ARRAY_TASK_COUNT not set"),
        (_slurm(ID=0, COUNT=3), "gaps"),  # numbered from 0, and MIN does not say so
        (_slurm(ID=3, COUNT=3, MIN=1, MAX=9), "gaps"),  # --array=1,3,9
        (_slurm(ID=9, COUNT=3, MIN=1, MAX=3), "gaps"),
        ({**_slurm(COUNT=3), "SLURM_ARRAY_TASK_ID": "x"}, "is 'x', which is no number"),
    ],
)
def test_auto_elsewhere_is_refused(variables, hint):
    with pytest.raises(ValueError, match=hint):
        parse_shard("auto", variables)


def test_an_end_is_checked():
    end = Share(Shard(2, 3)).end().after("branch", 4)
    record = {"type": "shard", "id": "2/3", "of": "records", "written": 4, "records": 0, "lineage": ["branch"]}
    record |= {"input": {"records": 0, "hash": end.input.hash}}
    assert parse_end(record) == end
    assert parse_end({"type": "trajectory", "id": "2/3"}) is None
    for wrong in ({"id": "4/3"}, {"id": "x"}, {"written": "4"}, {"input": None}, {"lineage": [1]}):
        with pytest.raises(InputError):
            parse_end({**record, **wrong})
