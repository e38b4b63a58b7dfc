"""Tests of sorted entries, which are on disk where they are many."""

from __future__ import annotations

import sys
import tracemalloc
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eexp.errors import EexpError
from eexp.examples import ordered
from eexp.examples.ordered import Ordered


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(min_size=3, max_size=3), max_size=40), st.integers(1, 7), st.integers(1, 4))
def test_entries_are_sorted_in_every_iteration(entries, part, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordered, "PART", part)
        patch.setattr(ordered, "BLOCK", block)
        some = Ordered(iter(entries))
        assert len(some) == len(entries)
        assert list(some) == list(some) == sorted(entries)


def test_memory_holds_one_part(monkeypatch):
    monkeypatch.setattr(ordered, "PART", 1 << 12)
    count = 50_000
    entries = (blake2b(b"%d" % i, digest_size=24).digest() for i in range(count))
    tracemalloc.start()
    try:
        some = Ordered(entries)
        previous = b""
        for entry in some:
            assert previous < entry
            previous = entry
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(some) == count
    assert peak < 1_500_000 < count * sys.getsizeof(previous) / 1.5


def test_a_full_temporary_directory_is_an_error(monkeypatch):
    monkeypatch.setattr(ordered, "PART", 2)
    monkeypatch.setattr(ordered.tempfile, "TemporaryFile", lambda: open("/dev/full", "wb"))
    with pytest.raises(EexpError, match=r"cannot sort in a temporary file .*: No space left"):
        Ordered([b"a", b"b", b"c"])
