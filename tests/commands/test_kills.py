"""A small part of benchmarks/kills.py, which kills the slow stages a thousand times."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
from leftovers import MARK, none_left
from running import ROOT, environment, read, run, start, write


@pytest.fixture(scope="module")
def kills():
    spec = importlib.util.spec_from_file_location("kills", Path(ROOT) / "benchmarks" / "kills.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["kills"] = module  # where dataclasses look up their types
    spec.loader.exec_module(module)
    module.INPUTS["safe"] = module.INPUTS["safe"].replace("-n 12", "-n 4")
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


#: Commands that take seconds: one with programs and workers as children, and some with a model.
#: tests/training/test_finetune.py interrupts trainings.
INTERRUPTED = {
    "eval-program": [
        "eval",
        f"exec:sh {ROOT}/examples/safe.sh",
        "-m",
        "random",
        "-n",
        "120",
        "--max-steps",
        "6",
        "--parallel",
        "2",
    ],
    "eval": ["eval", "house", "-m", "tiny", "-n", "40", "--max-steps", "5", "--max-tokens", "8", "--parallel", "4"],
    "branch": ["branch", "-k", "5", "--rounds", "8", "expert"],
    "reflect": [
        "reflect",
        "-m",
        "tiny",
        "--max-tokens",
        "60",
        "--no-guard",
        "all",
        "--on-error",
        "skip",
        "few-states",
    ],
}


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """Return a function that gives the command of a name, and its exit code and output when nothing disturbs it."""
    here = tmp_path_factory.mktemp("undisturbed")
    states = [{**trajectory, "steps": trajectory["steps"][:2]} for trajectory in read(data["rollout"])]
    files = {
        "expert": data["expert"],
        "few-states": write(here / "few-states.jsonl", states),
    }

    @cache
    def whole(name):
        command = [str(files.get(word, word)) for word in INTERRUPTED[name]]
        return command, run(*command, "-o", here / name).code, (here / name).read_bytes()

    return whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "to_group"),
    [
        pytest.param("eval-program", True, marks=pytest.mark.long),
        ("eval-program", False),
        ("eval", True),
        ("branch", False),
        ("reflect", True),
    ],
)
def test_an_interrupt_is_one_line_and_the_output_resumes(name, to_group, undisturbed, tmp_path):
    """Ctrl-C, which a terminal sends to all processes of a command, and `kill -INT`, which is sent to one."""
    command, code, whole = undisturbed(name)
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
    deadline = time.monotonic() + 120
    while not (out.exists() and out.stat().st_size) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    (os.killpg if to_group else os.kill)(child.pid, signal.SIGINT)
    err = child.communicate(timeout=60)[1].decode()
    assert child.returncode == 130, err
    assert (
        err.count(f"{command[0]}: interrupted; the same command with --resume goes on") == 1 and "Traceback" not in err
    )
    assert none_left(mark)
    result = run(*command, "-o", out, "--resume")
    assert result.code == code in (0, 4), result.err
    assert out.read_bytes() == whole
