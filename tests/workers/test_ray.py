"""Workers on a Ray cluster: the same records as on this machine, whatever is lost, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from leftovers import MARK, marked, none_left
from running import ROOT, environment, read, run, spawn, start, write

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'eexp[ray]'")

TESTS = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A directory with the input of every command that has workers."""
    directory = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        run("expert", "house", "-n", 4, "-o", "expert", "-q").ok()
        run("branch", "--from", "admissible", "-k", 2, "expert", "-o", "branched", "-q").ok()
        run("rollout", "branched", "-o", "rolled", "-q").ok()
        run("eval", "house", "-m", "random", "--split", "train", "-n", 4, "--max-steps", 8, "-o", "episodes", "-q").ok()
        write(directory / "one", read(directory / "rolled")[:1])
    return directory


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """The folder of faults, and a cluster in this process, which `--on ray` starts at its first use."""
    from eexp.workers import ray_cluster

    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTS", str(folder))
        patch.syspath_prepend(TESTS)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield folder
    ray_cluster.end_own_cluster()


def put_fault(folder: Path, record: dict, step: int, kind: str) -> None:
    (folder / f"{record['task']['id'].replace('/', '-')}-{step}.{kind}").touch()


ON_RAY = ("--on", "ray", "-j", 2)
PLAY = ("eval", "house", "-m", "random", "-n", 3, "--max-steps", 4, "--parallel", 2)
COMMANDS = [
    ("rollout", "branched"),
    ("import", "episodes", "episodes"),
    ("correct", "episodes"),
    ("reward", "episodes"),
    ("follow", "--steps", 2, "--parallel", 2, "one"),
]


def same_on_ray(command: tuple) -> None:
    """Assert that a command writes and says the same on a cluster as on this machine."""
    here = run(*command).ok()
    there = run(*command, *(ON_RAY[:2] if "--parallel" in command else ON_RAY)).ok()
    assert there.out == here.out and there.err == here.err and here.out, command


@pytest.mark.slow
def test_records_are_the_same_also_if_processes_and_actors_are_lost(files, faults, monkeypatch):
    """One test for trajectories and episodes: each process that runs a part of them starts a cluster of its own."""
    monkeypatch.chdir(files)
    same_on_ray(PLAY)
    for record, kind in zip(read(files / "branched"), ("killed", "unheld", "hung")):
        put_fault(faults, record, 1, kind)
    faulty = ("rollout", "--env", "faulty_worlds:Faulty", "branched")
    disturbed = run(*faulty, *ON_RAY, "--timeout", 3).ok()
    assert disturbed.out == run(*faulty).ok().out and "3 workers lost" in disturbed.err
    assert not list(faults.iterdir())


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_writes_the_same(files, faults, monkeypatch, command):
    monkeypatch.chdir(files)
    same_on_ray(command)


@pytest.mark.long
def test_three_lost_actors_set_a_record_aside(files, faults, monkeypatch):
    monkeypatch.chdir(files)
    dying = run("rollout", "--env", "faulty_worlds:Unheld", "branched", *ON_RAY, "--rejects", "rejects").ok(4)
    first, *others = read(files / "branched")
    assert [record["id"] for record in dying.records] == [record["id"] for record in others]
    (reject,) = read(files / "rejects")
    assert reject["record"]["id"] == first["id"]
    assert "failed 3 times, at last: its Ray actor was lost: " in reject["error"]


@pytest.mark.long
def test_what_an_environment_prints_goes_to_standard_error(files, faults, monkeypatch):
    monkeypatch.chdir(files)
    put_fault(faults, read(files / "branched")[0], 1, "babbled")
    assert (
        "printed by an environment\nand more\n"
        in run("rollout", "--env", "faulty_worlds:Faulty", "branched", *ON_RAY).ok().err
    )


def test_an_executor_that_does_not_exist_is_named(files):
    run("rollout", "--on", "dask", files / "branched").one_error(2, "no executor 'dask'; there are: local, ray")
    run("rollout", "--on", "local:8", files / "branched").one_error(2, "--on local takes no address, got '8'")
    run("rollout", "--on", "ray:ray://h:10001", files / "branched").one_error(1, "Ray Client is not supported")


def test_without_the_package_one_line_says_what_to_install(files, monkeypatch):
    monkeypatch.setattr("eexp.workers.ray_executor.find_spec", lambda name: None)
    run("rollout", "--on", "ray", files / "branched").one_error(1, "pip install 'eexp[ray]'")


@pytest.mark.long
def test_another_version_on_the_cluster_is_told(files, faults, monkeypatch):
    run(*PLAY, *ON_RAY[:2]).ok()  # the next line imports Ray, which needs the variables that this sets
    monkeypatch.setattr("eexp.workers.ray_actors._versions", lambda: {"eexp": "9.9", "Python": "3.9.9"})
    error = run("rollout", files / "branched", *ON_RAY).one_error(1, "--on ray: eexp 9.9 here and ")
    assert error.endswith(": the same version has to be installed everywhere")


#: eexp, where the machines of the cluster have other files at the place of the command's, and take only so many bytes.
ELSEWHERE = """
import sys
from eexp.cli import main
from eexp.workers import ray_actors
ray_actors._stat, ray_actors.MOST_FILES = lambda path: (0, 0), int(sys.argv[1])
main(sys.argv[2:])
"""
MINE = """
from beside import Base
class Mine(Base):
    light = False
"""


@pytest.mark.long
def test_a_class_in_the_working_directory_travels(tmp_path):
    from ray_nodes import nodes_elsewhere

    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("from eexp.envs.worlds.house import House as Base\n")
    play = ("eval", "mine:Mine", "-m", "random", "-n", 2, "--max-steps", 3)
    with nodes_elsewhere(1) as found:
        variables = environment(**found)

        def elsewhere(most: int) -> subprocess.CompletedProcess:
            words = ["-c", ELSEWHERE, str(most), *map(str, play), "--on", "ray"]
            return subprocess.run([sys.executable, *words], cwd=tmp_path, env=variables, capture_output=True)

        assert elsewhere(1 << 20).stdout == spawn(*play, cwd=tmp_path).ok().out
        error = elsewhere(0).stderr.decode()
        assert " has no beside.py, which 'mine:Mine' names: put it there" in error


@pytest.mark.long
def test_actors_nodes_and_the_command_are_killed_at_random():
    command = [sys.executable, ROOT / "benchmarks" / "faults.py", "--faults", "10"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    assert "10 faults" in result.stdout and "all equal; no process left" in result.stdout


def is_part(part: str, command: list[str]) -> bool:
    """Return whether a process is a part of the cluster that `--on ray` starts: a daemon, its guard, or its program."""
    if part in ("raylet", "gcs_server"):
        return bool(command) and command[0].endswith(f"/{part}")
    is_guard = command[1:3] == ["-I", "-S"]
    return "eexp.workers.ray_cluster" in " ".join(command) and is_guard == (part == "guard")


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["raylet", *(pytest.param(part, marks=pytest.mark.long) for part in ("gcs_server", "guard", "program"))]
)
def test_the_end_of_its_own_cluster_ends_the_command(files, tmp_path, part):
    variables = environment(**{MARK: str(tmp_path), "TMPDIR": str(tmp_path / "t"), "PYTHONPATH": TESTS})
    (tmp_path / "t").mkdir()
    command = ("rollout", "--env", "faulty_worlds:Slow", files / "branched", "-o", tmp_path / "out")
    process = start(*command, "--on", "ray", "-j", 2, env=variables, stderr=subprocess.PIPE)
    while not (tmp_path / "out").exists() or not (tmp_path / "out").stat().st_size:
        assert process.poll() is None
        time.sleep(0.05)
    (victim,) = (p for p in psutil.Process(process.pid).children(recursive=True) if is_part(part, p.cmdline()))
    victim.kill()
    _, error = process.communicate(timeout=60)
    told = [line for line in error.decode().splitlines() if "trajectories so far" not in line]
    assert process.returncode == 1 and [line.partition(":")[0] for line in told if line] == ["error"], told
    assert "the cluster on this machine has ended; start the command again, with --resume" in error.decode()
    assert none_left(str(tmp_path)) and not list((tmp_path / "t").iterdir())
    if part == "raylet":
        spawn(*command, "--resume", env=variables).ok()
        assert (tmp_path / "out").read_bytes() == spawn(*command[:-2], env=variables).ok().out


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("delay", [None, 2.0, 5.0])
def test_nothing_outlives_the_command(files, tmp_path, number, delay):
    """Killed after so many seconds, or once it has written a record; a resumed run completes it."""
    variables = environment(**{MARK: str(tmp_path), "TMPDIR": str(tmp_path / "t"), "PYTHONPATH": TESTS})
    (tmp_path / "t").mkdir()
    command = ("rollout", "--env", "faulty_worlds:Slow", files / "branched", "-o", tmp_path / "out")
    process = start(*command, "--on", "ray", "-j", 2, env=variables, start_new_session=True)
    if delay is None:
        while not (tmp_path / "out").exists() or not (tmp_path / "out").stat().st_size:
            assert process.poll() is None
            time.sleep(0.05)
        assert len(marked(str(tmp_path))) > 10
    else:
        time.sleep(delay)
    os.killpg(process.pid, number)
    assert process.wait(60) == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert none_left(str(tmp_path)) and not list((tmp_path / "t").iterdir())
    if delay is None:
        spawn(*command, "--resume", env=variables).ok()
        undisturbed = spawn(*command[:-2], env=variables).ok()
        assert (tmp_path / "out").read_bytes() == undisturbed.out
