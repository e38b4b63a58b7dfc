"""What changes at a million trajectories: the time of parts, the number of files, reading, merging, going on.

    python benchmarks/million.py                         # about a quarter of an hour on two cores, 2 GB of files
    python benchmarks/million.py --trajectories 20000    # a quick look

The trajectories are small (one step, some 300 bytes), and the stages do nothing to them, so what is measured is what
eexp itself adds. The work is a simulation: workers that only wait, each for a part of the records, with the sizes that
the hashes of these very ids give to the parts. The files, and what reads and merges them, are real.

    waiting   seconds until all parts are done, next to the time of evenly divided work, by parts for each worker; and
              the same where a sixteenth of the workers is lost half way, whose parts go on elsewhere
    reading   what one job with --shard I/N takes to find its part of all records, and what all N jobs take together
    merging   `eexp merge` of all parts, by their number: seconds, memory, open files
    resuming  what `--resume` takes to read what is there: in one file, and in one part
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from eexp.records.jsonl import dumps  # noqa: E402
from eexp.records.record import seed_of, with_lineage  # noqa: E402
from eexp.records.shards import Mark, Shard, Share, marked  # noqa: E402

ENTRY = "expert 0.2.0 split=train admissible=50 seed=0"
STAGE = "branch 0.2.0 k=2 from=admissible seed=0"
STAGE_COMMAND = ["branch", "-q", "--from", "admissible", "-k", "2"]
WORKERS = 512  # of the simulation
IDEAL = 8.0  # seconds that evenly divided work takes in it


def trajectory(i: int) -> dict:
    """Return a small trajectory."""
    step = {"observation": f"a room with {i % 97} things", "action": "look", "admissible": ["look", "go", "wait"]}
    return {
        "type": "trajectory",
        "id": f"house/train/{i}",
        "env": "house",
        "task": {"id": str(i)},
        "instruction": "do it",
        "steps": [step],
        "outcome": {"observation": "done", "done": True, "score": 1.0},
        "lineage": [ENTRY],
    }


def shard_number(record_id: str, count: int) -> int:
    """Return the shard of an id, as `Shard.has` decides it."""
    return seed_of("shard", record_id) % count + 1


async def play(sizes: list[int], seconds: float, lost: bool) -> float:
    """Let workers wait for parts, in order; return the seconds until all are done.

    Args:
        sizes: The records of each part.
        seconds: The time of one record.
        lost: Whether a sixteenth of the workers ends half way. Their parts go on from where they are.
    """
    parts = deque(size * seconds for size in sizes)
    left = len(parts)
    began = time.monotonic()
    done = asyncio.Event()

    async def work(number: int) -> None:
        nonlocal left
        ends = began + IDEAL / 2 if lost and number < WORKERS // 16 else float("inf")
        while not done.is_set():
            if time.monotonic() >= ends:
                return
            if not parts:
                await asyncio.sleep(0.01)
                continue
            part, start = parts.popleft(), time.monotonic()
            await asyncio.sleep(min(part, ends - start))
            if time.monotonic() >= ends:
                parts.appendleft(part - (time.monotonic() - start))
                return
            left -= 1
            if not left:
                done.set()

    await asyncio.gather(*(work(i) for i in range(WORKERS)))
    return time.monotonic() - began


def measured(arguments: list[str], output: Path) -> tuple[float, float]:
    """Run eexp and return its processor time in seconds, and the most memory that it held in MB."""
    with open(output, "wb") as file:
        command = [sys.executable, "-m", "eexp", *arguments]
        process = subprocess.Popen(command, stdout=file, env={**os.environ, "PYTHONPATH": str(ROOT)})
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"error: {' '.join(arguments[:6])} ...: exit code {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def write_parts(directory: Path, number: int, trajectories: int) -> list[str]:
    """Write the parts that `number` jobs with --shard write, and return their names."""
    directory.mkdir()
    share, written = Share(Shard(1, 1)), Counter[int]()  # sees every record, as the share of each job does
    names = [str(directory / f"{i:05}.jsonl") for i in range(1, number + 1)]
    with ExitStack() as stack:
        files = [stack.enter_context(open(name, "wb")) for name in names]
        for i in range(trajectories):
            record = trajectory(i)
            line = dumps(record)
            mark = share.mark(record["id"], line)
            assert mark
            shard = Shard(shard_number(record["id"], number), number)
            files[shard.number - 1].write(dumps(with_lineage(marked(record, Mark(shard, *mark[1:])), STAGE)))
            written[shard.number] += 1
        for i, file in enumerate(files, 1):
            end = share.end().after(STAGE, written[i])
            end.id, end.records = f"{i}/{number}", written[i]
            file.write(end.line())
    return names


def show_waiting(n: int) -> None:
    """Print how long workers that wait take, by parts for each."""
    print(f"\nwaiting: {WORKERS} workers, {IDEAL:g} seconds if all had the same")
    for each in (1, 2, 4, 8):
        sizes = Counter(shard_number(f"house/train/{i}", each * WORKERS) for i in range(n))
        by_part = [sizes[i + 1] for i in range(each * WORKERS)]
        whole, lost = (asyncio.run(play(by_part, IDEAL * WORKERS / n, lost)) for lost in (False, True))
        print(
            f"{each * WORKERS:6,} parts, {each} for each worker: {whole:5.2f} s ({whole / IDEAL - 1:+.0%}), "
            f"a sixteenth lost: {lost:5.2f} s ({lost / IDEAL - 1:+.0%}); largest part {max(by_part):,}, "
            f"mean {n / each / WORKERS:,.0f}",
            flush=True,
        )


def show_reading(directory: Path, whole: Path, numbers: list[int]) -> None:
    """Print what it takes to find one part of all records."""
    print(f"\nreading: {whole.stat().st_size / 1e6:,.0f} MB in one file")
    for parts in numbers:
        cpu, memory = measured([*STAGE_COMMAND, "--shard", f"1/{parts}", str(whole)], directory / "part")
        print(
            f"{parts:6,} parts: {cpu:6.1f} s of processor time for the first, {cpu * parts / 3600:7.2f} h for all; "
            f"{memory:.0f} MB",
            flush=True,
        )


def show_merging(directory: Path, n: int, numbers: list[int]) -> None:
    """Print what it takes to merge all parts."""
    print("\nmerging")
    merged = directory / "merged"
    for parts in numbers:
        names = write_parts(directory / str(parts), parts, n)
        cpu, memory = measured(["merge", "-q", *names], merged)
        with open(merged, "rb") as file:
            for i, line in enumerate(file):
                if json.loads(line)["id"] != f"house/train/{i}":
                    sys.exit(f"error: record {i} is not where it belongs")
        assert i + 1 == n
        print(
            f"{parts:6,} parts: {cpu:6.1f} s of processor time, {cpu / n * 1e6:.0f} us a record; {memory:.0f} MB; "
            f"{parts:,} open files; all records there, in order",
            flush=True,
        )
        for path in names:
            os.unlink(path)


def show_resuming(directory: Path, whole: Path, last: int) -> None:
    """Print what it takes to go on, with nothing left to do."""
    print("\ngoing on, with nothing left to do")
    part = directory / "one-part.jsonl"
    shard = ["--shard", f"1/{last}"]
    done = directory / "done.jsonl"
    measured([*STAGE_COMMAND, str(whole), "-o", str(done)], directory / "none")
    cpu, memory = measured([*STAGE_COMMAND, str(whole), "--resume", "-o", str(done)], directory / "none")
    print(f"one file: {cpu:6.1f} s of processor time, {memory:.0f} MB")
    measured([*STAGE_COMMAND, *shard, str(whole), "-o", str(part)], directory / "none")
    cpu, memory = measured([*STAGE_COMMAND, *shard, str(whole), "--resume", "-o", str(part)], directory / "none")
    print(f"one of {last:,} parts, of all records: {cpu:6.1f} s of processor time, {memory:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trajectories", type=int, default=1_000_000)
    parser.add_argument("--parts", type=int, nargs="+", default=[8, 64, 512, 2048])
    sections = ["waiting", "reading", "merging", "resuming"]
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    chosen = parser.parse_args()
    n = chosen.trajectories
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    print(f"$ python benchmarks/million.py {' '.join(sys.argv[1:])}".rstrip())
    print(f"{platform.platform()}, {os.cpu_count()} cores, {n:,} trajectories", flush=True)

    if "waiting" in chosen.only:
        show_waiting(n)
    with tempfile.TemporaryDirectory(prefix="eexp-million-") as name:
        directory = Path(name)
        whole = directory / "whole.jsonl"
        with open(whole, "wb") as file:
            for i in range(n):
                file.write(dumps(trajectory(i)))
        if "reading" in chosen.only:
            show_reading(directory, whole, chosen.parts)
        if "merging" in chosen.only:
            show_merging(directory, n, chosen.parts)
        if "resuming" in chosen.only:
            show_resuming(directory, whole, chosen.parts[-1])


if __name__ == "__main__":
    main()
