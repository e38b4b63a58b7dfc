"""Compare what one process writes with what several shards write, merged, and measure the merge.

Claim: the bytes are the same, and the memory of `eexp merge` does not grow with its input.

    python benchmarks/shards.py                                   # 1,000 trajectories of house, 7 shards
    python benchmarks/shards.py --trajectories 40 --model tiny    # alternatives drawn from a GGUF model
    python benchmarks/shards.py --model hf-model.gguf --trajectories 10 --shards 3 --at-once 1

Each shard is a pipe of two processes, `eexp branch --shard I/N | eexp rollout`; --at-once of them run side by side. The
table has the SHA-256 of both outputs, the wall time of each way, and the time and the peak memory of the merge. Then a
file of --copies times the output is put into shards (`eexp split --shard`) and merged, to see whether memory grows.
Ends with exit code 1 where the bytes differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

EEXP = shlex.join([sys.executable, "-m", "eexp"])


def shell(command: str, here: Path) -> float:
    """Run a command line of bash and return its wall time in seconds."""
    began = time.monotonic()
    subprocess.run(["bash", "-eo", "pipefail", "-c", command], cwd=here, check=True)
    return time.monotonic() - began


def merge(parts: list[str], output: str, here: Path) -> tuple[float, float]:
    """Merge parts; return the wall time in seconds and the peak memory in MB."""
    began = time.monotonic()
    child = subprocess.Popen([*shlex.split(EEXP), "merge", "-q", *parts, "-o", output], cwd=here)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"merge ended with exit code {child.returncode}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(file, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest() if sys.version_info >= (3, 11) else _digest(source)


def _digest(source) -> str:
    state = hashlib.sha256()
    while block := source.read(1 << 20):
        state.update(block)
    return state.hexdigest()


def megabytes(*files: Path) -> float:
    """Return the size of files in MB."""
    return sum(file.stat().st_size for file in files) / 1e6


def copies_of(file: Path, copies: int, output: Path) -> None:
    """Write the records of a file several times, each time with other ids."""
    with open(output, "wb") as to:
        for copy in range(copies):
            with open(file, "rb") as source:
                for line in source:
                    record = json.loads(line)
                    to.write(json.dumps({**record, "id": f"{record['id']}/copy-{copy}"}).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trajectories", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=7)
    parser.add_argument("-k", type=int, default=2)
    parser.add_argument("--model", help="draw alternatives from this model instead of the admissible actions")
    parser.add_argument("--at-once", type=int, default=1, help="shards that run side by side")
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--dir", help="keep all files here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eexp-shards-") as temporary:
        here = Path(options.dir or temporary).resolve()
        here.mkdir(parents=True, exist_ok=True)
        compare(options, here)


def compare(options: argparse.Namespace, here: Path) -> None:
    """Run both ways in a directory, and print the table."""
    source = f"-m {shlex.quote(options.model)} --threads 1" if options.model else "--from admissible"
    branch, rollout = f"{EEXP} branch -q {source} -k {options.k} expert.jsonl", f"{EEXP} rollout -q -j 1"
    shell(f"{EEXP} expert house -q -n {options.trajectories} > expert.jsonl", here)
    numbers = range(1, options.shards + 1)
    parts = [f"part-{i}.jsonl" for i in numbers]
    alone = shell(f"{branch} | {rollout} > one.jsonl", here)
    began = time.monotonic()
    with ThreadPoolExecutor(options.at_once) as pool:
        jobs = [f"{branch} --shard {i}/{options.shards} | {rollout} > {parts[i - 1]}" for i in numbers]
        times = list(pool.map(lambda job: shell(job, here), jobs))
    together = time.monotonic() - began
    seconds, memory = merge(parts, "merged.jsonl", here)
    size = megabytes(here / "one.jsonl")
    records = [sum(1 for _ in open(here / part, "rb")) - 1 for part in parts]
    print(f"{options.trajectories} trajectories of house, k={options.k}, {options.model or 'admissible actions'}")
    print(f"one process     {digest(here / 'one.jsonl')}  {size:8.1f} MB  {alone:7.1f} s")
    print(f"{options.shards} shards, merged {digest(here / 'merged.jsonl')}  {size:8.1f} MB  {together:7.1f} s")
    print(f"  records a shard: {', '.join(map(str, records))}; seconds: {', '.join(f'{one:.1f}' for one in times)}")
    print(f"  merge: {seconds:.1f} s, {size / seconds:.0f} MB/s, peak memory {memory:.0f} MB")
    is_same = digest(here / "one.jsonl") == digest(here / "merged.jsonl")
    print("the same bytes" if is_same else "DIFFERENT bytes")
    if options.copies:
        copies_of(here / "one.jsonl", options.copies, here / "large.jsonl")
        split = f"{EEXP} split -q --parts 1 --part 1 large.jsonl"
        began = time.monotonic()
        shell(f"{split} > one.jsonl", here)
        all_of_it = time.monotonic() - began
        began = time.monotonic()
        for i in numbers:
            shell(f"{split} --shard {i}/{options.shards} > {parts[i - 1]}", here)
        in_shards = time.monotonic() - began
        seconds, memory = merge(parts, "merged.jsonl", here)
        size = megabytes(here / "one.jsonl")
        print(
            f"{options.copies} times as many records: {size:.0f} MB, merge {seconds:.1f} s, peak memory {memory:.0f} MB"
        )
        print(f"  to read them all once: {all_of_it:.1f} s; as {options.shards} shards: {in_shards:.1f} s together")
        is_same = is_same and digest(here / "one.jsonl") == digest(here / "merged.jsonl")
    raise SystemExit(0 if is_same else 1)


if __name__ == "__main__":
    main()
