"""Measure the speed of the data stages, against `jq -c .` on the same file in the same run, and their memory.

    python benchmarks/streams.py --size 100                                   # a few minutes
    python benchmarks/streams.py --size 2000 --runs 1                         # an hour or so on two busy cores

House trajectories, with alternatives and outcomes where a stage needs them, are repeated under ids of their own until
a file has --size MB. Each stage then reads its file in turns with jq, --runs times; the least disturbed run of each
counts, by the clock and by processor time. The output goes to /dev/null, and is counted in a run of its own.

in, out   MB/s read and written, by the clock
ratio     how many times as fast as jq: bytes read, and bytes written, by the clock; in brackets by processor time
memory    largest resident memory

Claims: imitation-data and world-model-data write at least 2 times as many bytes a second as jq, and memory does not
depend on the size. At the end, `rollout` reads records of some MB one after the other; its memory should grow no faster
than their size.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import orjson

from eexp.acting.branch import branch
from eexp.acting.expert import expert
from eexp.acting.rollout import rollout
from eexp.acting.settings import BranchSettings
from eexp.envs.worlds.house import House
from eexp.workers.jobs import InProcess

ROOT = Path(__file__).parents[1]
EEXP = [sys.executable, "-m", "eexp"]
MB = 1_000_000


@dataclass
class Run:
    """The cost of one run of a program: seconds by the clock and of processors, MB of memory."""

    seconds: float
    cpu: float
    memory: float


def measured(command: list[str]) -> Run:
    """Run a program, without its standard output, and return its cost."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=env)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        sys.exit(f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def written(command: list[str]) -> int:
    """Count the bytes that a program writes."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as child:
        stdout = child.stdout
        assert stdout is not None
        return sum(len(block) for block in iter(lambda: stdout.read(1 << 20), b""))


def trajectories(number: int) -> list[dict]:
    """Return expert trajectories of `house`."""
    house = House()
    return list(expert(house, islice(house.tasks("train"), number)))


def repeated(records: list[dict], size: int) -> Iterator[bytes]:
    """Yield the lines of `records` repeatedly, each with an id of its own, until they have `size` bytes."""
    n_bytes = 0
    for turn in count():
        for record in records:
            line = orjson.dumps({**record, "id": f"{record['id']}/{turn}"}, option=orjson.OPT_APPEND_NEWLINE)
            n_bytes += len(line)
            yield line
            if n_bytes >= size:
                return


def make_files(folder: Path, size: int) -> dict[str, Path]:
    """Write the files that the stages read: trajectories, those with outcomes, and examples."""
    files = {name: folder / f"{name}.jsonl" for name in ("expert", "rollout", "examples")}
    experts = trajectories(300)
    rolled = list(
        rollout(branch(iter(experts), None, BranchSettings(k=3, source="admissible")), InProcess(lambda _: House()))
    )
    for name, records in (("expert", experts), ("rollout", rolled)):
        with open(files[name], "wb") as file:
            file.writelines(repeated(records, size))
    few = folder / "few.jsonl"
    few.write_bytes(b"".join(map(orjson.dumps, experts)).replace(b"}{", b"}\n{"))
    examples = subprocess.run(
        [*EEXP, "imitation-data", "-q", few],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    with open(files["examples"], "wb") as file:
        file.writelines(repeated([orjson.loads(line) for line in examples.splitlines()], size))
    return files


def compare(stage: list[str], file: Path, runs: int) -> str:
    """Run a stage and jq in turns; return a line of the table."""
    eexp_runs, jq_runs = [], []
    for _ in range(runs):
        jq_runs.append(measured(["jq", "-c", ".", str(file)]))
        eexp_runs.append(measured([*EEXP, *stage, "-q", str(file)]))
    size, output = file.stat().st_size, written([*EEXP, *stage, "-q", str(file)])
    seconds, jq_seconds = (min(run.seconds for run in several) for several in (eexp_runs, jq_runs))
    cpu, jq_cpu = (min(run.cpu for run in several) for several in (eexp_runs, jq_runs))
    growth = output / size
    return (
        f"{stage[0]:18} {size / seconds / MB:7.1f} {output / seconds / MB:7.1f}   "
        f"{jq_seconds / seconds:5.2f} ({jq_cpu / cpu:5.2f})   {growth * jq_seconds / seconds:5.2f} "
        f"({growth * jq_cpu / cpu:5.2f})   {max(run.memory for run in eexp_runs):6.0f} MB   "
        f"{size / jq_seconds / MB:7.1f}"
    )


def one_record(size: int, folder: Path) -> str:
    """Measure rollout of one record of `size` MB; return a line of the table."""
    (record,) = branch(iter(trajectories(1)), None, BranchSettings(k=3, source="admissible"))
    file = folder / "record.jsonl"
    file.write_bytes(orjson.dumps({**record, "more": "x" * size * MB}))
    run = measured([*EEXP, "rollout", "-q", "-j", "1", str(file)])
    return f"{size:6} MB   {run.seconds:6.1f} s   {run.cpu:5.1f} s of the command's own processor time"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=100, help="MB of each file")
    parser.add_argument("--runs", type=int, default=3, help="runs of each program")
    parser.add_argument("--records", type=int, nargs="*", default=[1, 16, 32], help="MB of the records for rollout")
    parser.add_argument("--folder", help="where the files are made (default: a temporary folder)")
    parser.add_argument("stages", nargs="*", help="some of the stages: imitation-data, world-model-data, split, mix")
    chosen = parser.parse_args()
    stages = {"imitation-data": "expert", "world-model-data": "rollout", "split": "rollout", "mix": "examples"}
    more = {"split": ["--part", "1", "--part", "2"]}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        jq = subprocess.run(["jq", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {jq}")
        print(f"{chosen.size} MB a file, {chosen.runs} runs each")
        files = make_files(folder, chosen.size * MB)
        print("stage                   in     out   ratio in        ratio out           memory    jq in")
        for stage in chosen.stages or stages:
            line = compare([stage, *more.get(stage, [])], files[stages[stage]], chosen.runs)
            print(line, flush=True)
        for size in chosen.records:
            print(f"rollout of one record of {one_record(size, folder)}", flush=True)


if __name__ == "__main__":
    main()
