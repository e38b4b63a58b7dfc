"""A small part of benchmarks/kills.py, which kills the slow stages a thousand times."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import pytest
from running import ROOT


@pytest.fixture(scope="module")
def kills():
    spec = importlib.util.spec_from_file_location("kills", Path(ROOT) / "benchmarks" / "kills.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["kills"] = module  # where dataclasses look up their types
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(kills, tmp_path_factory):
    return kills.Place(tmp_path_factory.mktemp("kills").resolve())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rollout-program", pytest.param("eval-program", marks=pytest.mark.long)])
def test_killed_at_random_points(kills, place, name):
    """The output is that of an undisturbed run, and nothing is left: processes, files."""
    counts = kills.disturb(place, name, 2, random.Random(name))
    assert counts["command"] + counts["worker"] == 2 and counts["compared"] > 0


@pytest.mark.long
def test_every_job_is_killed(kills, tmp_path):
    place = kills.Place(tmp_path)
    for name in kills.JOBS:
        assert kills.disturb(place, name, 2, random.Random(name))["compared"] > 0
