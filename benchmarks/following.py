"""Measure what `eexp view --follow` costs the stage that it follows.

    python benchmarks/following.py --alternatives 10000 --pairs 3      # some minutes on two cores

House trajectories get random alternatives until there are --alternatives of them. `eexp rollout` executes them, alone
and while `eexp view --follow` reads its output, in turns. Beside the viewer, a client asks for the state, the list and
a record every two seconds, as the open page does.

stage     user CPU of rollout and its workers, in seconds; the ratio is of the two runs of a pair
viewer    user CPU of the viewer, as a share of the stage's

Claim: the stage takes at most 2 % more user CPU while it is followed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from contextlib import suppress
from itertools import islice
from pathlib import Path

from eexp.acting.branch import branch
from eexp.acting.expert import expert
from eexp.acting.settings import BranchSettings
from eexp.envs.worlds.house import House
from eexp.records.jsonl import dumps

EEXP = [sys.executable, "-m", "eexp"]


def write_input(file: Path, alternatives: int) -> int:
    """Write trajectories with at least so many alternatives; return their number."""
    demonstrations = expert(House(), islice(House().tasks("train"), alternatives))
    written = 0
    with file.open("wb") as out:
        for trajectory in branch(demonstrations, None, BranchSettings(k=4, source="admissible")):
            out.write(dumps(trajectory))
            written += sum(len(step["alternatives"]) for step in trajectory["steps"])
            if written >= alternatives:
                break
    return written


def user_seconds(process: subprocess.Popen) -> float:
    """Wait for a process, and return its user CPU with that of its children."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime


def roll_out(source: Path, output: Path) -> float:
    process = subprocess.Popen([*EEXP, "rollout", "-q", str(source), "-o", str(output)])
    seconds = user_seconds(process)
    assert process.returncode == 0
    return seconds


def ask(address: str, ended: threading.Event) -> None:
    """Ask what the open page asks, until the run has ended."""
    while not ended.wait(2.0):
        for what in ("state", "list?count=100", "record?entry=0"):
            with suppress(OSError):
                json.load(urllib.request.urlopen(address + what))


def follow(source: Path, output: Path) -> tuple[float, float, int]:
    """Run the stage while it is followed; return both user CPUs, and how many records the viewer has read."""
    output.touch()
    viewer = subprocess.Popen([*EEXP, "view", "--follow", str(output)], stderr=subprocess.PIPE, text=True)
    assert viewer.stderr is not None
    found = re.search(r"http://\S+", viewer.stderr.readline())
    assert found, "the viewer gives no address"
    ended = threading.Event()
    client = threading.Thread(target=ask, args=(found[0], ended))
    client.start()
    try:
        seconds = roll_out(source, output)
        ended.wait(2.0)
        records = json.load(urllib.request.urlopen(found[0] + "state"))["records"]
    finally:
        ended.set()
        client.join()
        viewer.send_signal(signal.SIGINT)
    return seconds, user_seconds(viewer), records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alternatives", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        number = write_input(here / "branched.jsonl", arguments.alternatives)
        records = (here / "branched.jsonl").read_bytes().count(b"\n")
        print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
        print(f"{number:,} alternatives in {records:,} trajectories")
        print("pair    stage alone    followed    ratio    viewer")
        for pair in range(arguments.pairs):
            runs = {}
            for kind in ("alone", "followed") if pair % 2 else ("followed", "alone"):
                output = here / f"{kind}-{pair}.jsonl"
                if kind == "alone":
                    runs[kind] = roll_out(here / "branched.jsonl", output)
                else:
                    runs[kind], viewer, seen = follow(here / "branched.jsonl", output)
                    assert seen == records, f"the viewer has read {seen} of {records} records"
            ratios.append(runs["followed"] / runs["alone"])
            shares = f"{ratios[-1]:9.3f} {100 * viewer / runs['followed']:8.1f} %"
            print(f"{pair + 1:4} {runs['alone']:12.1f} s {runs['followed']:9.1f} s{shares}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
