"""The workers of rollout under faults (killed, hung, corrupted, grown), and that none of them is left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import orjson
import psutil
import pytest
from running import environment, lines, spawn
from running import start as start_process

from eexp.acting.branch import branch
from eexp.acting.expert import expert
from eexp.acting.settings import BranchSettings
from eexp.envs.worlds.house import House
from eexp.errors import EnvironmentFailed, InputError
from eexp.workers.pool import Pool

HERE = str(Path(__file__).parents[1])
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def branched():
    house = House()
    tasks = [t for _, t in zip(range(36), house.tasks("train"))]
    return list(branch(expert(house, iter(tasks)), None, BranchSettings(k=2, source="admissible")))


def variables(folder: Path, limit: float) -> dict[str, str]:
    return environment(FAULTS=str(folder), PYTHONPATH=os.pathsep.join([HERE, str(ROOT)]), EEXP_ENV_TIMEOUT=str(limit))


def start(folder: Path, records: list[dict], *args, limit: float = 60, code: int = 0, env: str = "Faulty"):
    return spawn(
        "rollout", "--env", f"faulty_worlds:{env}", *args, stdin=lines(records), env=variables(folder, limit)
    ).ok(code)


UNDISTURBED: dict[int, list[dict]] = {}


def undisturbed(records: list[dict], tmp_path: Path) -> list[dict]:
    """Execute the first records of `branched` without faults, once for each number of records."""
    if len(records) not in UNDISTURBED:
        (tmp_path / "none").mkdir()
        UNDISTURBED[len(records)] = start(tmp_path / "none", records).records
    return UNDISTURBED[len(records)]


def put_fault(folder: Path, record: dict, step: int, kind: str) -> None:
    (folder / f"{record['task']['id'].replace('/', '-')}-{step}.{kind}").touch()


@pytest.mark.parametrize("fork", ["state", "process", "replay"])
@pytest.mark.parametrize("kind", ["killed", "hung", "babbled"])
def test_one_fault_costs_a_retry(branched, tmp_path, kind, fork):
    put_fault(tmp_path, branched[1], 2, kind)
    limit = 3 if kind == "hung" else 60  # on a busy machine others may take long, too
    result = start(tmp_path, branched[:4], "--fork", fork, "-j", 2, limit=limit)
    assert result.records == undisturbed(branched[:4], tmp_path)
    assert not list(tmp_path.glob("*.*"))


def test_a_process_that_grows_is_stopped(branched, tmp_path):
    put_fault(tmp_path, branched[1], 2, "grown")
    result = start(tmp_path, branched[:3], "--memory", "400M", limit=60)
    assert result.records == undisturbed(branched[:3], tmp_path) and "1 worker lost" in result.err


def test_an_environment_that_always_dies_is_a_bad_record(branched, tmp_path):
    result = start(tmp_path, branched[:3], "--rejects", tmp_path / "r", env="Dying", code=4)
    assert result.records == []
    (first, *_) = [orjson.loads(line) for line in (tmp_path / "r").read_bytes().splitlines()]
    assert (
        first["line"] == 1
        and first["error"] == "the environment's process failed 3 times, at last: killed by signal 9 (SIGKILL)"
    )
    stopped = start(tmp_path, branched[:3], env="Dying", code=1)
    assert "<stdin>:1: the environment's process failed 3 times" in stopped.err


def test_an_exception_in_an_environment_costs_its_record_and_is_quoted(branched, tmp_path):
    put_fault(tmp_path, branched[0], 1, "raised")
    result = start(tmp_path, branched[:2], "--rejects", tmp_path / "r.jsonl", code=4)
    assert [r["id"] for r in result.records] == [branched[1]["id"]]
    (reject,) = [orjson.loads(line) for line in (tmp_path / "r.jsonl").read_bytes().splitlines()]
    assert "the roof fell in" in reject["error"]


@pytest.mark.slow
def test_many_trajectories_with_faults(branched, tmp_path):
    """Every trajectory is as in a run without faults, or set aside with a reason; and no process is left."""
    rng = random.Random(0)
    disturbed = {}
    for record in branched:
        if rng.random() < 0.5:
            kind = rng.choice(["killed"] * 4 + ["hung"] + ["corrupted", "raised"] * 2)
            put_fault(tmp_path, record, rng.randrange(len(record["steps"])), kind)
            disturbed[record["id"]] = kind
    result = start(tmp_path, branched, "-j", 4, "--rejects", tmp_path / "rejects", limit=4, code=4)
    expected = {r["id"]: r for r in undisturbed(branched, tmp_path)}
    rejects = [orjson.loads(line) for line in (tmp_path / "rejects").read_bytes().splitlines()]
    set_aside = {r["record"]["id"]: r["error"] for r in rejects}
    assert [r["id"] for r in result.records] == [i for i in expected if i in {r["id"] for r in result.records}]
    same = {r["id"] for r in result.records if r == expected[r["id"]]}
    assert same | set(set_aside) == set(expected) and not same & set(set_aside)
    assert all(disturbed[i] in ("corrupted", "raised") for i in set_aside) and all(set_aside.values())
    assert len(disturbed) > 12 and not workers_of(tmp_path)


def workers_of(folder: Path) -> list[int]:
    """Return the ids of running workers that were started with this folder of faults."""
    pids = []
    for process in psutil.process_iter():
        try:
            if "eexp.workers.worker" in process.cmdline() and process.environ().get("FAULTS") == str(folder):
                pids.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return pids


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("fork", ["process", "replay"])
def test_no_process_outlives_the_command(branched, tmp_path, how, fork):
    put_fault(tmp_path, branched[0], 1, "hung")
    command = start_process(
        "rollout",
        "--env",
        "faulty_worlds:Faulty",
        "--fork",
        fork,
        "-j",
        2,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=variables(tmp_path, 100),
    )
    command.stdin.write(lines(branched[:2]))
    command.stdin.flush()
    deadline = time.monotonic() + 60
    while list(tmp_path.glob("*.hung")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers_of(tmp_path)
    command.send_signal(how)
    command.wait(30)
    while workers_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers_of(tmp_path)
    command.stdin.close()


# -- the pool by itself ----------------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_jobs(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", HERE)
    rng = random.Random(0)
    jobs = [(n, {"do": "faulty_worlds:nap", "n": n, "seconds": rng.choice([0, 0.05])}) for n in range(40)]
    with Pool(4, None, 30) as pool:
        assert list(pool.run(iter(jobs))) == [(n, n) for n in range(40)]


def test_input_is_read_only_a_little_ahead(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", HERE)
    numbers = []

    def jobs():
        for n in range(1000):
            numbers.append(n)
            yield n, {"do": "faulty_worlds:nap", "n": n, "seconds": 0}

    with Pool(2, None, 30) as pool:
        for n, _ in pool.run(jobs()):
            assert len(numbers) <= n + 1 + 4 * 2


def test_an_error_in_the_input_is_raised_after_the_results_before_it(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", HERE)

    def jobs():
        for n in range(3):
            yield n, {"do": "faulty_worlds:nap", "n": n, "seconds": 0.1}
        raise InputError("line 4 is bad")

    numbers = []
    with Pool(4, None, 30) as pool, pytest.raises(InputError, match="line 4"):
        for n, _ in pool.run(jobs()):
            numbers.append(n)
    assert numbers == [0, 1, 2]


def test_a_job_that_hangs_comes_back_as_failed(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", HERE)
    jobs = [(n, {"do": "faulty_worlds:nap", "n": n, "seconds": 60 if n == 1 else 0}) for n in range(4)]
    with Pool(2, None, 0.5) as pool:
        results = list(pool.run(iter(jobs)))
    assert [n for n, _ in results] == [0, 1, 2, 3] and [r for _, r in results if isinstance(r, int)] == [0, 2, 3]
    assert isinstance(results[1][1], EnvironmentFailed) and "no answer within 0.5 s" in str(results[1][1])
    assert pool.counts["worker[s] lost"] == 3
