"""Signals that come at a bad moment: nothing is printed, and the process ends as it should."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import BARE_PYTHON, environment, start

from eexp.system.child import Child

#: Raises SIGTERM within the change number AT of its handler: after Python's check for signals, and before the change.
RACE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
int sigaction(int number, const struct sigaction *new, struct sigaction *old) {
    static int (*real)(int, const struct sigaction *, struct sigaction *), changes;
    if (!real) real = dlsym(RTLD_NEXT, "sigaction");
    if (number == SIGTERM && new && ++changes == atoi(getenv("AT"))) raise(SIGTERM);
    return real(number, new, old);
}
"""


@pytest.fixture(scope="module")
def race(tmp_path_factory) -> Path:
    compiler = shutil.which("cc")
    if not compiler or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and LD_PRELOAD")
    where = tmp_path_factory.mktemp("race")
    (where / "race.c").write_text(RACE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", where / "race.so", where / "race.c", "-ldl"], check=True)
    return where / "race.so"


@pytest.mark.parametrize(
    ("program", "change", "status"),
    [
        ("exit 7", 3, 7),  # the guard is killing what the program has started
        ("kill -TERM $$", 3, -signal.SIGTERM),
        ("kill -TERM $$", 4, -signal.SIGTERM),  # it is to end by the same signal
    ],
)
def test_a_signal_while_a_guard_changes_its_handler(race, tmp_path, program, change, status):
    """Where the handler changed to SIG_IGN or SIG_DFL just then, Python would print a traceback."""
    with open(tmp_path / "stderr", "wb") as stderr:
        child = Child(["sh", "-c", program], stderr.fileno(), env=environment(LD_PRELOAD=str(race), AT=str(change)))
    assert child.wait(60) == status
    child.end()
    assert (tmp_path / "stderr").read_bytes() == b""


def test_a_signal_while_a_worker_changes_its_handler(race):
    """Its standard input has ended, and it is closing its environments."""
    command = [sys.executable, "-c", "from eexp.workers.worker import main; main()"]
    preload = environment(LD_PRELOAD=str(race), AT="2")
    process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=preload, timeout=60)
    assert (process.returncode, process.stderr) == (0, b"")


# Hangs when it is told to end, too.
PROGRAM = """
import json, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for line in sys.stdin:
    operation = json.loads(line)["op"]
    if operation == "step":
        open({mark!r}, "w").close()
        time.sleep(600)
    answer = {{"hello": {{"protocol": 1, "splits": ["train"]}}, "reset": {{"observation": "start"}}}}
    print(json.dumps(answer[operation]), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("signals", [["TERM"], ["TERM"] * 5, ["INT"]])
def test_a_command_that_hangs_ends_at_a_signal_without_a_traceback(data, tmp_path, signals):
    mark = tmp_path / "mark"
    (tmp_path / "program.py").write_text(PROGRAM.format(mark=str(mark)))
    spec = f"exec:{BARE_PYTHON} {tmp_path}/program.py"
    process = start(
        "rollout", "--env", spec, "-j", 1, data["branched"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    for name in signals:
        process.send_signal(signal.Signals[f"SIG{name}"])
        time.sleep(0.05)
    error = process.communicate(timeout=60)[1]
    ended = 128 + signal.Signals[f"SIG{signals[0]}"]
    assert process.returncode == ended or (len(signals) > 1 and process.returncode == -signal.SIGTERM)
    assert error.strip() == b"rollout: interrupted"


LOST = """
import os, signal, time
from eexp.system import signals

class Late:
    def __del__(self):
        os.kill(os.getpid(), number)
        time.sleep(1)  # the exception is raised in here, where Python cannot pass it on

signals.exit_at_sigterm()
signals.raise_lost_exceptions()
number = {number}
late = Late()
try:
    del late
    time.sleep(60)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_within_a_finalizer_is_not_lost(number):
    code = LOST.format(number=int(number))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), timeout=30)
    assert (process.returncode, process.stderr) == (128 + number, b"")
