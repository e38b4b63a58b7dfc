"""Send SIGKILL at random points of the slow stages, and check that --resume completes them.

Claim: the final bytes are those of an undisturbed run, and no process, file or shared memory is left.

    python benchmarks/kills.py                           # 1,000 kills: about an hour on two cores
    python benchmarks/kills.py --kills 40 --jobs rollout-program,eval-tiny --seed 7

Each stage is run once undisturbed. Then it is started, killed after a random time or when its output has reached a
random size, and resumed, until a run comes to its end; the output is compared, and this is repeated until there were
enough kills. One kill in five is of a worker instead of the command, which has to continue by itself. After every kill,
all processes that the command started have to end within seconds; their environment identifies them. Everything runs in
a directory of its own, with its own TMPDIR and cache, in which no file may be left that an undisturbed run does not
leave.

The seed decides when to kill; what the command does at that moment depends on the machine. Ends with exit code 1 where
the claim does not hold.
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from leftovers import MARK, marked, none_left  # noqa: E402

SAFE = f"exec:sh {ROOT}/examples/safe.sh"
TINY = "-m tiny --threads 1 --max-tokens 10"
#: The inputs of the stages, each made from those before it.
INPUTS = {
    "expert": "expert house -n 40",
    "branched": "branch --from admissible -k 3 expert",
    "rolled": "rollout branched",
    "examples": "imitation-data expert",
    "episodes": "eval house -m random -n 60 --max-steps 12",
    "safe": f"expert '{SAFE}' -n 12",
    "safe-branched": "branch --from admissible -k 3 safe",
}
#: Slow stages; a name from INPUTS stands for its file.
JOBS = {
    "expert": "expert house -n 1500 --max-steps 12 --all",
    "branch-tiny": f"branch -k 2 --temperature 2 {TINY} expert",
    "rollout": "rollout -j 2 branched",
    "rollout-process": "rollout -j 2 --fork process branched",
    "rollout-program": f"rollout -j 2 --env '{SAFE}' safe-branched",
    "import": "import episodes --drop-invalid -j 2 episodes",
    "reflect": "reflect --rationale outcome rolled",
    "score": "score -m tiny --threads 1 examples",
    "world-model-data": "world-model-data --predictable model -m tiny --threads 1 rolled",
    "eval": "eval house -m random -n 300",
    "eval-program": f"eval '{SAFE}' -m random -n 30 --max-steps 6 --parallel 2",
    "eval-tiny": f"eval house -n 6 --max-steps 5 --temperature 1 --trials 2 {TINY}",
}
LONGEST = 600.0  # seconds of one run
WORKERS = 0.2  # share of the kills that hit a worker instead of the command


class Difference(Exception):
    """Error raised when the claim does not hold; the message says where."""


@dataclass
class Place:
    """The directory of the benchmark: inputs, outputs, an empty working directory, TMPDIR and a cache."""

    root: Path
    mark: str = field(init=False)

    def __post_init__(self) -> None:
        self.mark = str(self.root)
        for name in ("cwd", "tmp", "cache"):
            (self.root / name).mkdir()

    def start(self, words: str, *more: object) -> subprocess.Popen:
        """Start `eexp WORDS MORE`, with the names of inputs as their files."""
        import shlex

        files = {name: str(self.root / name) for name in INPUTS}
        parts = shlex.split(words)
        arguments = [parts[0], *(files.get(word, word) for word in parts[1:]), *map(str, more)]
        if parts[0] in ("expert", "eval", "import"):  # the first word after these is no file
            arguments[1:2] = parts[1:2]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EEXP_")}
        env = {
            **environment,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            MARK: self.mark,
            "TMPDIR": str(self.root / "tmp"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
        }
        command = [sys.executable, "-m", "eexp", *arguments, "-q"]
        with open(self.root / "errors", "wb") as errors:
            return subprocess.Popen(command, env=env, cwd=self.root / "cwd", stdin=subprocess.DEVNULL, stderr=errors)

    def finish(self, process: subprocess.Popen, name: str) -> None:
        """Wait for a run, which has to succeed."""
        if process.wait(LONGEST) != 0:
            raise Difference(f"{name}: exit code {process.returncode}: {(self.root / 'errors').read_text()[-500:]}")

    def files(self) -> set[str]:
        """Return the files in the working directory, TMPDIR and the cache."""
        return {str(path) for name in ("cwd", "tmp", "cache") for path in (self.root / name).rglob("*")}

    def make_inputs(self, words: str) -> None:
        """Make the inputs of a command, and their own inputs, unless they exist."""
        for name in set(words.split()[1:]) & set(INPUTS):
            if not (self.root / name).exists():
                self.make_inputs(INPUTS[name])
                self.finish(self.start(INPUTS[name], "-o", self.root / name), name)


def kill(place: Place, process: subprocess.Popen, output: Path, size: int | None, delay: float, worker: bool) -> str:
    """Kill when the output has reached `size`, or after `delay`; return what was killed, or "" if it was too late."""
    began = time.monotonic()
    while process.poll() is None:
        if output.exists() and output.stat().st_size >= size if size is not None else time.monotonic() - began > delay:
            victim = next(_workers(place.mark), None) if worker else None
            with suppress(ProcessLookupError):
                os.kill(victim or process.pid, signal.SIGKILL)
            return "worker" if victim else "command"
        time.sleep(0.001)
    return ""


def _workers(mark: str) -> Iterator[int]:
    import psutil

    for process in marked(mark):
        with suppress(psutil.NoSuchProcess):
            command = process.cmdline()
            if command[1:2] == ["-c"] and command[-1] == "eexp.workers.worker":
                yield process.pid


def shared_memory() -> set[str]:
    """Return segments of shared memory, POSIX and System V, that this user owns and no process has open."""
    segments = set()
    with suppress(FileNotFoundError, PermissionError):
        maps = ""
        names = [path for path in Path("/dev/shm").iterdir() if path.stat().st_uid == os.getuid()]
        for process in Path("/proc").glob("[0-9]*/maps") if names else ():
            with suppress(OSError):
                maps += process.read_text()
        segments |= {str(path) for path in names if str(path) not in maps}
    with suppress(FileNotFoundError):
        for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            words = line.split()
            if int(words[7]) == os.getuid() and words[6] == "0":
                segments.add(f"System V {words[1]}")
    return segments


def disturb(place: Place, name: str, kills: int, rng: random.Random) -> Counter[str]:
    """Kill one job `kills` times, and compare whenever it comes to its end; raises Difference."""
    words, whole, output = JOBS[name], place.root / "whole", place.root / "output"
    place.make_inputs(words)
    whole.unlink(missing_ok=True)
    began = time.monotonic()
    place.finish(place.start(words, "-o", whole), name)
    duration, expected, files = time.monotonic() - began, whole.read_bytes(), place.files()
    counts: Counter[str] = Counter()
    output.unlink(missing_ok=True)
    kills_to_do = kills
    while kills_to_do > 0 or output.exists() or not counts["compared"]:
        process = place.start(words, "--resume", "-o", output)
        try:
            bytes_before = output.stat().st_size if output.exists() else 0
            size = rng.randrange(bytes_before, len(expected) + 1) if rng.random() < 0.5 else None
            delay, worker = rng.uniform(0, 1.1 * duration), rng.random() < WORKERS
            victim = kill(place, process, output, size, delay, worker) if kills_to_do > 0 else ""
            counts[victim] += bool(victim)
            kills_to_do -= bool(victim)
            if victim == "command":
                process.wait(LONGEST)
            else:
                place.finish(process, f"{name} after {sum(counts.values())} kills")
        finally:
            process.kill()
        if not none_left(place.mark):
            left_over = [" ".join(p.cmdline()) for p in marked(place.mark)]
            raise Difference(f"{name}: processes left after {sum(counts.values())} kills: {left_over}")
        if process.returncode == 0:
            if output.read_bytes() != expected:
                raise Difference(f"{name}: the output differs after {sum(counts.values())} kills")
            counts["compared"] += 1
            output.unlink()
            if more := place.files() - files:
                raise Difference(f"{name}: files left after {sum(counts.values())} kills: {sorted(more)}")
    return counts


@contextmanager
def place_for(root: str | None) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="eexp-kills-", dir=root) as directory:
        yield Place(Path(directory).resolve())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(". ")[0])
    parser.add_argument("--kills", type=int, default=1000, help="number of kills, over all jobs")
    parser.add_argument("--jobs", default=",".join(JOBS), help="jobs, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", help="parent of the temporary directory")
    chosen = parser.parse_args()
    names = chosen.jobs.split(",")
    if unknown := set(names) - set(JOBS):
        parser.error(f"no job {', '.join(sorted(unknown))}; there are: {', '.join(JOBS)}")
    memory = shared_memory()
    total: Counter[str] = Counter()
    try:
        with place_for(chosen.directory) as place:
            for n, name in enumerate(names):
                share = chosen.kills * (n + 1) // len(names) - chosen.kills * n // len(names)
                counts = disturb(place, name, share, random.Random(f"{chosen.seed} {name}"))
                total += counts
                print(
                    f"{name:18} {counts['command']:4} kills of the command, {counts['worker']:3} of a worker; "
                    f"{counts['compared']:3} whole outputs, all equal",
                    flush=True,
                )
        if more := shared_memory() - memory:
            raise Difference(f"shared memory left: {sorted(more)}")
    except Difference as e:
        sys.exit(f"error: {e}")
    print(f"{total['command'] + total['worker']} kills: all outputs equal; no process, file or shared memory left")


if __name__ == "__main__":
    main()
