"""Measure how long `eexp --help` takes, against the smallest click program. Claim: at most 1.5 times as long.

    python benchmarks/startup.py [--runs N]

The two are run in turns, so that other work of the machine slows down both. The medians are compared; the fastest runs,
which are least disturbed, stand beside them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

BARE = "import click\n@click.command()\ndef main():\n    '''Say nothing.'''\nmain(['--help'], standalone_mode=False)"
PROGRAMS = {
    "python": [sys.executable, "-c", "pass"],
    "click": [sys.executable, "-c", BARE],
    "eexp": [sys.executable, "-m", "eexp", "--help"],
}


def seconds(command: list[str]) -> float:
    """Return the wall-clock time of one run."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100, help="runs of each program")
    runs = parser.parse_args().runs
    for command in PROGRAMS.values():  # so that all modules are compiled
        seconds(command)
    durations: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(runs):
        for name, command in PROGRAMS.items():
            durations[name].append(seconds(command))
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {runs} runs each")
    for name, values in durations.items():
        print(f"{name:8} median {1000 * statistics.median(values):6.1f} ms   fastest {1000 * min(values):6.1f} ms")
    for how, of in (("median", statistics.median), ("fastest", min)):
        print(f"{how} ratio {of(durations['eexp']) / of(durations['click']):.2f}")


if __name__ == "__main__":
    main()
