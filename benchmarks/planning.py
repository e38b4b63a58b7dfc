"""Predict what a run takes from a smaller one, by `eexp plan`, and then run it.

    python benchmarks/planning.py                       # 200 and 2,000 trajectories of house, one after the other
    python benchmarks/planning.py --small 50 --large 500

Each stage runs alone, with one worker. Compared are the core-seconds and the bytes that the plan names with those that
the larger run took.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGES = {
    "expert": "expert house -n {n} -o expert-{n}",
    "branch": "branch --from admissible -k 2 -o branch-{n} expert-{n}",
    "rollout": "rollout -j 1 -o rollout-{n} branch-{n}",
}


def eexp(words: str, directory: Path) -> bytes:
    """Run eexp to its end and return its standard output."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.check_output([sys.executable, "-m", "eexp", *words.split()], cwd=directory, env=env)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", type=int, default=200)
    parser.add_argument("--large", type=int, default=2000)
    chosen = parser.parse_args()
    print(f"$ python benchmarks/planning.py {' '.join(sys.argv[1:])}".rstrip())
    print(f"{platform.platform()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="eexp-planning-") as name:
        directory = Path(name)
        for n in (chosen.small, chosen.large):
            for words in STAGES.values():
                eexp(f"{words.format(n=n)} -q --costs costs-{n}", directory)
        text = eexp(f"plan costs-{chosen.small} --trajectories {chosen.large} --parts 1 --json", directory)
        rows = [json.loads(line) for line in text.splitlines()]
        costs = [json.loads(line) for line in (directory / f"costs-{chosen.large}").read_bytes().splitlines()]
        print(f"{'':8} {'core-seconds':>13} {'predicted':>10} {'':>5} {'MB':>8} {'predicted':>10}")
        for row, cost in zip(rows, costs, strict=False):
            predicted, taken = row["core_hours"] * 3600, cost["cpu_seconds"]
            print(
                f"{cost['stage']:8} {taken:13.2f} {predicted:10.2f} {predicted / taken - 1:+5.0%} "
                f"{cost['bytes'] / 1e6:8.2f} {row['bytes'] / 1e6:10.2f} {row['bytes'] / cost['bytes'] - 1:+5.1%}"
            )


if __name__ == "__main__":
    main()
