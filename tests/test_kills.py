"""A small part of benchmarks/kills.py, which kills the slow stages a thousand times."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from leftovers import MARK, none_left
from running import ROOT, environment, run, start


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


#: Commands that take seconds, and what standard error shows once they are at work.
INTERRUPTED = {
    "eval": ["eval", "house", "-m", "tiny", "-n", "60", "--max-steps", "12"],
    "branch": ["branch", "-k", "5", "--rounds", "8", "expert"],
    "reflect": ["reflect", "-m", "tiny", "--max-tokens", "400", "--no-guard", "all", "--on-error", "skip", "rollout"],
    "finetune": ["finetune", "-m", "tiny", "--epochs", "3", "--save-every", "1", "imitation"],
}


@pytest.mark.slow
@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupt_is_one_line_and_the_output_resumes(name, to_group, data, tmp_path):
    """Ctrl-C, which a terminal sends to all processes of a command, and `kill -INT`, which is sent to one."""
    command = [str(data.get(word, word)) for word in INTERRUPTED[name]]
    out, mark = tmp_path / "out", str(tmp_path)
    child = start(
        *command,
        "-o",
        out,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**{MARK: mark}),
        start_new_session=True,
    )
    begun = (lambda: (out / "metrics.jsonl").is_file()) if name == "finetune" else (lambda: out.stat().st_size)
    deadline = time.monotonic() + 120
    while not (out.exists() and begun()) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    (os.killpg if to_group else os.kill)(child.pid, signal.SIGINT)
    err = child.communicate(timeout=60)[1].decode()
    assert child.returncode == 130, err
    assert err.count(f"{name}: interrupted; the same command with --resume goes on") == 1 and "Traceback" not in err
    assert none_left(mark)
    result = run(*command, "-o", out, "--resume")
    whole = run(*command, "-o", tmp_path / "whole")
    assert result.code == whole.code in (0, 4), result.err + whole.err
    out, whole_out = (
        path / "adapter_model.safetensors" if name == "finetune" else path for path in (out, tmp_path / "whole")
    )
    assert out.read_bytes() == whole_out.read_bytes()
