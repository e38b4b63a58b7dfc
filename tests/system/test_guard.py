"""No process that an environment starts outlives it, whichever process is killed or hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from leftovers import MARK, marked, none_left
from running import BARE_PYTHON

from eexp.envs import open_env
from eexp.errors import EnvironmentFailed
from eexp.system.child import Child, ChildFailed
from eexp.workers.pool import Pool

#: Where other processes find this module and the package under test.
PATH = os.pathsep.join(map(str, Path(__file__).parents[:3]))

# Hangs without reading its input, having started a child that has left its session and lost its parent.
PROGRAM = """
import json, os, subprocess, sys, time

HIDDEN = '''
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
print("hidden", flush=True)
os.close(1)
time.sleep(600)
'''

def say(**answer):
    print(json.dumps(answer), flush=True)

for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "hello":
        say(protocol=1, splits=["train"])
    elif request["op"] == "reset":
        say(observation="start")
    elif request["op"] == "step":
        if "grow" in request["action"]:
            ballast = b"x" * (200 << 20)
        if "child" in request["action"]:
            child = subprocess.Popen([sys.executable, "-c", HIDDEN], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            assert child.stdout.read() == b"hidden\\n"
        if "exit" in request["action"]:
            sys.exit(3)
        time.sleep(600)
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setenv(MARK, str(tmp_path))
    return f"exec:{BARE_PYTHON} {tmp_path}/program.py"


def play(job, opened, on_step):
    """Take one step, in a worker."""
    env = opened.get(job["env"])
    env.reset({"id": "0"})
    on_step()
    env.step(job["action"])


def jobs(spec: str, action: str):
    yield 0, {"do": "test_guard:play", "env": spec, "action": action}


def appears(mark: str, arguments: str) -> psutil.Process:
    """Wait for a marked process whose arguments begin with `arguments`, and return it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in marked(mark):
            with suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()[1:]).lstrip().startswith(arguments):
                    return process
        time.sleep(0.02)
    raise AssertionError(f"no process with {arguments}")


@pytest.mark.parametrize("action", ["child", "child, exit"])
def test_children_that_left_the_session_are_killed_with_their_program(spec, tmp_path, monkeypatch, action):
    with open_env(spec) as env:
        env.reset({"id": "0"})
        env._limit = 1.5
        with pytest.raises(EnvironmentFailed):
            env.step(action)
        assert none_left(str(tmp_path), 5)


def test_a_program_that_grows_is_killed_with_its_worker(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATH)
    monkeypatch.setattr("eexp.workers.pool.TRIES", 1)
    with Pool(1, spec, 60, memory=200 << 20) as pool:
        ((_, result),) = pool.run(jobs(spec, "child, grow"))
        assert "and 200 are allowed" in str(result) and pool.counts["worker[s] lost"] == 1
        assert none_left(str(tmp_path), 5)


HOLDER = """
import sys
from eexp.workers.pool import Pool
from test_guard import jobs
with Pool(1, sys.argv[1], 600) as pool:
    list(pool.run(jobs(sys.argv[1], "child")))
"""


@pytest.mark.parametrize("victim", ["command", "worker", "guard of the worker", "guard of the program"])
def test_no_process_is_left_when_one_of_them_is_killed_while_the_program_hangs(spec, tmp_path, victim):
    mark = str(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, spec], env={**os.environ, "PYTHONPATH": PATH})
    try:
        appears(mark, "-c \nimport os, time")  # the hidden child is the last to be started
        if victim == "command":
            holder.kill()
        else:
            process = appears(
                mark, f"-S {mark}/program.py" if victim == "guard of the program" else "-c import sys; sys.path"
            )
            (process.parent() if victim.startswith("guard") else process).kill()
            time.sleep(0.2)
            holder.terminate()
        holder.wait(30)
        assert none_left(mark, 10)
    finally:
        holder.kill()
        for process in marked(mark):
            process.kill()


def test_the_kernel_refuses_memory_that_is_taken_between_two_measurements(tmp_path):
    code = "import sys; sys.stdin.readline(); b = bytearray(400 << 20); print(len(b), flush=True)"
    for memory, answer in ((None, str(400 << 20)), (300 << 20, None)):
        child = Child([sys.executable, "-c", code], stderr=subprocess.DEVNULL, memory=memory)
        if answer:
            assert child.ask(b"", 30).decode() == answer
        else:
            with pytest.raises(ChildFailed, match="ended with exit status 1"):
                child.ask(b"", 30)
        child.end()


def test_a_guard_without_its_parent_ends_quietly():
    """As when a command is interrupted while it starts a program: both pipes of the guard are closed by then."""
    from eexp.system import guard

    lifeline, held = os.pipe()
    nobody, report = os.pipe()
    os.close(held)
    os.close(nobody)
    command = [sys.executable, "-I", "-S", guard.__file__, str(lifeline), str(report), "0", "", "sleep", "600"]
    ended = subprocess.run(command, pass_fds=(lifeline, report), capture_output=True, timeout=60)
    os.close(lifeline)
    os.close(report)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
