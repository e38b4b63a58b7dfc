"""Kill parts of a distributed run at random moments, and check what it writes.

Claim: whatever is killed, the final bytes are those of an undisturbed run on one machine, and once a command has ended
or was killed, none of its processes is left.

    python benchmarks/faults.py                    # 50 faults on Ray: about a quarter of an hour on two cores
    python benchmarks/faults.py --faults 8 --seed 3

A rollout runs on a cluster of three nodes. Every few seconds one part of it is killed with SIGKILL: the process of an
actor, the process of an environment, a raylet (Ray's daemon on a node), all processes of a node, or the command itself,
which is then started again with --resume. A node that was killed is replaced by a new one. When the command has come to
its end, its output is compared, and it starts anew, until there were enough faults. The head of the cluster is spared:
without it Ray has no cluster.

A bed is where the command runs and what can be killed there; further ones go into BEDS. The seed decides what is killed
and when; what happens at that moment depends on the machine. Ends with exit code 1 where the claim does not hold.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "benchmarks"))

from leftovers import MARK, marked  # noqa: E402

WORLD = "waiting:Waiting?seconds=0.05"
TRAJECTORIES = 60
INTERVAL = (2.0, 7.0)  # seconds between two faults
LONGEST = 600.0  # seconds of one run
END = 30.0  # seconds that the processes of a command have to end


class Broken(Exception):
    """Error raised when the claim does not hold; the message says where."""


class RayBed:
    """A Ray cluster of three nodes on this machine.

    Attributes:
        options: What the command is given to run there.
        faults: What can be killed, by name. Each kills one, and returns whether there was one.
        variables: Environment variables for the command.
    """

    def __init__(self, rng: random.Random, mark: str):
        from ray_nodes import Nodes

        self._rng, self._mark = rng, mark
        self._nodes = Nodes(3)
        self.options = ["--on", f"ray:{self._nodes.address}", "-j", "3"]
        self.variables = self._nodes.variables
        self.faults: dict[str, Callable[[], bool]] = {
            "actor": lambda: self._kill(is_actor),
            "environment's process": lambda: self._kill(is_worker),
            "raylet": self._kill_raylet,
            "node": self._kill_node,
        }

    def _kill(self, is_victim: Callable[[list[str]], bool]) -> bool:
        victims = sorted((p.pid, p) for p, command in commands(self._mark) if is_victim(command))
        if victims:
            with suppress(psutil.NoSuchProcess):
                self._rng.choice(victims)[1].kill()
        return bool(victims)

    def _kill_raylet(self) -> bool:
        node = self._rng.choice(self._nodes.others)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        below = raylet.children(recursive=True)
        raylet.kill()
        _, alive = psutil.wait_procs(below, END)
        if left := [" ".join(p.cmdline())[:100] for p in alive if p.is_running() and p.status() != "zombie"]:
            raise Broken(f"processes left {END:g} s after their raylet was killed: {left}")
        self._nodes.remove(node)  # its other processes
        self._nodes.add()
        return True

    def _kill_node(self) -> bool:
        node = self._rng.choice(self._nodes.others)
        mine = [process.process.pid for kind in node.all_processes.values() for process in kind]
        below = [child for pid in mine if psutil.pid_exists(pid) for child in psutil.Process(pid).children(True)]
        for pid in [*mine, *(child.pid for child in below)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._nodes.remove(node)
        self._nodes.add()
        return True

    def left(self) -> list[str]:
        """Return the processes of commands that have ended."""
        return [
            " ".join(command)[:100] for _, command in commands(self._mark) if is_actor(command) or is_worker(command)
        ]

    def close(self) -> None:
        self._nodes.__exit__()


BEDS: dict[str, Callable[[random.Random, str], RayBed]] = {"ray": RayBed}


def commands(mark: str) -> Iterator[tuple[psutil.Process, list[str]]]:
    """Yield the processes with a mark, and their command lines."""
    for process in marked(mark):
        with suppress(psutil.NoSuchProcess):
            yield process, process.cmdline()


def is_actor(command: list[str]) -> bool:
    return "".join(command[:1]).startswith("ray::EnvironmentActor")


def is_worker(command: list[str]) -> bool:
    return command[-1:] == ["eexp.workers.worker"] and command[1:2] == ["-c"]


class Command:
    """The rollout, started again until it has come to its end."""

    def __init__(self, directory: Path, bed: RayBed):
        self.directory, self.bed = directory, bed
        self.output, self.errors = directory / "out.jsonl", directory / "errors"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        words = ["rollout", "--env", WORLD, str(self.directory / "branched.jsonl"), *self.bed.options]
        with open(self.errors, "ab") as errors:
            self.process = run(self.directory, *words, "--resume", "-o", str(self.output), stderr=errors)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()
        self.await_end_of_all("the command was killed")

    def await_end_of_all(self, after: str) -> None:
        """Wait until no process of the command is left. Raises Broken if one is."""
        deadline = time.monotonic() + END
        while left := self.bed.left():
            if time.monotonic() > deadline:
                raise Broken(f"processes left {END:g} s after {after}: {left}")
            time.sleep(0.1)


def run(directory: Path, *words: str, **popen: object) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "eexp", *words], env=env, cwd=directory, **popen)  # type: ignore


def make_input(directory: Path) -> bytes:
    """Make the input and return the output of an undisturbed run on this machine."""
    for words in (
        ("expert", WORLD.partition("?")[0] + "?seconds=0", "-n", str(TRAJECTORIES), "-o", "expert.jsonl", "-q"),
        ("branch", "--from", "admissible", "-k", "2", "expert.jsonl", "-o", "branched.jsonl", "-q"),
        ("rollout", "--env", WORLD, "-j", "8", "branched.jsonl", "-o", "whole.jsonl", "-q"),
    ):
        if code := run(directory, *words).wait(LONGEST):
            raise Broken(f"eexp {words[0]}: exit code {code}")
    return (directory / "whole.jsonl").read_bytes()


def disturb(command: Command, expected: bytes, number: int, rng: random.Random) -> tuple[Counter[str], int]:
    """Cause faults; return how many of each kind, and how many whole outputs were equal. Raises Broken."""
    counts: Counter[str] = Counter()
    kinds = [*command.bed.faults, "command, then --resume"]
    n_equal = 0
    command.start()
    while True:
        assert command.process
        due = time.monotonic() + rng.uniform(*INTERVAL)
        if sum(counts.values()) >= number:
            due += LONGEST
        with suppress(subprocess.TimeoutExpired):
            if code := command.process.wait(due - time.monotonic()):
                raise Broken(f"exit code {code}: {command.errors.read_text()[-800:]}")
            command.await_end_of_all("the command had ended")
            if command.output.read_bytes() != expected:
                raise Broken(f"the output differs; it is kept in {command.output}")
            n_equal += 1
            print(f"output {n_equal} equal after {sum(counts.values())} faults", flush=True)
            if sum(counts.values()) >= number:
                return counts, n_equal
            command.output.unlink()
            command.start()
            continue
        kind = kinds[sum(counts.values()) % len(kinds)]
        if kind in command.bed.faults:
            counts[kind] += command.bed.faults[kind]()
        elif command.output.exists() and command.output.stat().st_size:
            command.kill()
            counts[kind] += 1
            command.start()


@contextmanager
def place(root: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="eexp-faults-", dir=root) as directory:
        yield Path(directory).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--on", choices=BEDS, default="ray")
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", help="parent of the temporary directory")
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    began = time.monotonic()
    try:
        with place(chosen.directory) as directory:
            os.environ[MARK] = str(directory)
            expected = make_input(directory)
            bed = BEDS[chosen.on](rng, str(directory))
            try:
                counts, n_equal = disturb(Command(directory, bed), expected, chosen.faults, rng)
            finally:
                bed.close()
            lost = (directory / "errors").read_text()
    except Broken as e:
        sys.exit(f"error: {e}")
    print(f"\n{'killed':26} times")
    for kind, n in counts.items():
        print(f"{kind:26} {n:5}")
    print(
        f"{sum(counts.values())} faults in {time.monotonic() - began:.0f} s: {n_equal} whole outputs of {TRAJECTORIES} "
        f"trajectories, all equal; no process left; {lost.count('set aside')} records set aside"
    )


if __name__ == "__main__":
    main()
