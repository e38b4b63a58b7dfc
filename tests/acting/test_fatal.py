"""An alternative on which the environment dies is refused with the cause, and costs nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from running import BARE_PYTHON, lines, spawn

from eexp.acting.execution import execute
from eexp.envs import open_env
from eexp.workers.pool import Pool

#: Where other processes find this module and the package under test.
PATH = os.pathsep.join(map(str, [Path(__file__).parents[1], Path(__file__).parents[2]]))

# Counts, and ends as the action says. With an argument it can save its state.
PROGRAM = """
import json, os, sys, time

def say(**answer):
    print(json.dumps(answer), flush=True)

for line in sys.stdin:
    request = json.loads(line)
    match request["op"]:
        case "hello": say(protocol=1, splits=["train"], save="save" in sys.argv, harmless=["look.*"])
        case "reset": count = 0; say(observation="0")
        case "save": say(state=count)
        case "restore": count = request["state"]; say()
        case "step":
            verb, _, rest = request["action"].partition(" ")
            if verb in ("exit", "look-exit"): sys.exit(int(rest))
            if verb == "signal": os.kill(os.getpid(), int(rest))
            if verb == "hang": time.sleep(600)
            if verb == "refuse": say(error="no, not that"); continue
            if not verb.startswith("look"): count += 1
            say(observation=f"{count}")
"""

FATAL = {
    "exit 9": "step: ended with exit status 9",
    "look-exit 3": "step: ended with exit status 3",
    "signal 9": "step: killed by signal 9 (SIGKILL)",
    "signal 11": "step: killed by signal 11 (SIGSEGV)",
    "hang": "step: no answer within 1 s (EEXP_ENV_TIMEOUT)",
    "refuse": "step: no, not that",
}


def trajectory(env: str, alternatives: dict[int, list[str]], length: int = 3) -> dict:
    """Return a path that counts to `length`, with alternatives at some of its steps."""
    steps = [
        {
            "observation": str(i),
            "action": "add",
            "alternatives": [{"action": a, "source": "model", "outcome": None} for a in alternatives.get(i, [])],
        }
        for i in range(length)
    ]
    outcome = {"observation": str(length), "done": False, "score": None, "valid": True}
    return {
        "type": "trajectory",
        "id": "t",
        "env": env,
        "task": {"id": "0"},
        "instruction": "",
        "steps": steps,
        "outcome": outcome,
        "lineage": [],
    }


@pytest.mark.parametrize("way", ["state", "replay"])
def test_a_program_that_ends_costs_one_alternative(tmp_path, monkeypatch, way):
    monkeypatch.setenv("EEXP_ENV_TIMEOUT", "20")
    (tmp_path / "program.py").write_text(PROGRAM)
    spec = f"exec:{BARE_PYTHON} {tmp_path}/program.py {'save' if way == 'state' else ''}"
    record = trajectory(spec, {0: ["more", "exit 9", "other"], 2: [*FATAL, "look", "last"]})
    with open_env(spec) as env:
        patient = env._ask

        def ask(shape, op, **fields):
            env._limit = 1 if fields.get("action") == "hang" else 20  # a start may take longer than a step
            return patient(shape, op, **fields)

        monkeypatch.setattr(env, "_ask", ask)
        executed = execute(env, record)
    steps = executed.trajectory["steps"]
    for i, step in enumerate(steps):
        for alternative in step["alternatives"]:
            if alternative["action"] in FATAL:
                assert alternative["outcome"] is None
                assert alternative["refused"] == f"{spec}: {FATAL[alternative['action']]}"
            else:
                expected = str(i) if alternative["action"] == "look" else str(i + 1)
                assert alternative["outcome"]["observation"] == expected and "refused" not in alternative
    assert executed.counts["alternative[s] refused"] == len(executed.refused) == 1 + len(FATAL)
    assert (
        executed.counts[f"alternative[s] executed by {way}"] == 4 and executed.counts["branch point[s] verified"] == 2
    )
    assert (
        "alternative 'exit 9' refused: exec:" in str(executed.refused[0]) and executed.refused[0].where == "$.steps[0]"
    )


def test_the_command_sets_the_branch_aside_and_goes_on(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    spec = f"exec:{BARE_PYTHON} {tmp_path}/program.py"
    record = trajectory(spec, {1: ["exit 9", "other"]})
    result = spawn("rollout", "-j", 1, "--env", spec, "--rejects", tmp_path / "r", stdin=lines([record])).ok(4)
    assert [bool(a["outcome"]) for a in result.records[0]["steps"][1]["alternatives"]] == [False, True]
    assert "ended with exit status 9" in (tmp_path / "r").read_text() and "1 alternative refused" in result.err


@pytest.mark.parametrize("way", ["process", "replay"])
def test_a_process_that_dies_costs_one_alternative(monkeypatch, way):
    monkeypatch.setenv("PYTHONPATH", PATH)
    record = trajectory("faulty_worlds:Mortal", {0: ["more"], 1: ["die", "raise", "other"]}, 2)
    job = {"do": "eexp.acting.execution:job", "fork": way, "again": False, "trajectory": record}
    with Pool(1, "faulty_worlds:Mortal", 30) as pool:
        ((_, result),) = pool.run(iter([(0, job)]))
    died, raised, other = result["trajectory"]["steps"][1]["alternatives"]
    killed = {"process": "the forked process was killed by signal 9", "replay": "killed by signal 9 (SIGKILL)"}
    assert died["outcome"] is None and killed[way] in died["refused"]
    assert raised["outcome"] is None and "ValueError: the roof fell in" in raised["refused"]
    assert other["outcome"]["observation"] == "2"
    assert pool.counts["worker[s] lost"] == (0 if way == "process" else 3)


def test_a_path_on_which_the_process_dies_is_still_a_bad_record(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATH)
    record = trajectory("faulty_worlds:Mortal", {0: ["more"]}, 2)
    record["steps"][1]["action"] = "die"
    job = {"do": "eexp.acting.execution:job", "fork": "replay", "again": False, "trajectory": record}
    with Pool(1, "faulty_worlds:Mortal", 30) as pool:
        ((_, error),) = pool.run(iter([(0, job)]))
    assert "failed 3 times, at last: killed by signal 9 (SIGKILL)" in str(error)
