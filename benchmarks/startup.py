"""Count the modules that help imports, and measure how long it takes, against the smallest click program.

    python benchmarks/startup.py [--runs N] [STAGE ...]

Modules are counted for `eexp --help` and for the help of every stage: how many more than the click program imports,
and which heavy packages are among them. The count does not depend on the machine; tests/commands/test_cli.py holds all
of them to it. Then `eexp --help` and the help of the STAGEs are timed. The aim is 1.2 times the click program and 30
ms. All are run in turns, so that other work of the machine slows down all; the medians are compared, and the fastest
runs, which are least disturbed, stand beside them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from eexp.cli import COMMANDS

#: Modules that take milliseconds to import, and packages that no help may import.
HEAVY = ("msgspec", "orjson", "hashlib", "subprocess", "tomllib", "json", "numpy", "httpx", "torch", "transformers")
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


def modules_of(command: list[str]) -> set[str]:
    """Return the names of the modules that a program imports."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    arguments = [command[0], "-X", "importtime", *command[1:]]
    process = subprocess.run(arguments, check=True, capture_output=True, text=True, env=env)
    lines = [line for line in process.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def print_modules(stages: Iterable[str]) -> None:
    """Print how many modules the help of stages imports beyond the click program, and the heavy ones."""
    bare = modules_of(PROGRAMS["click"])
    for name in ["", *stages]:
        more = modules_of([sys.executable, "-m", "eexp", *filter(None, [name]), "--help"]) - bare
        heavy = [package for package in HEAVY if package in more]
        print(f"{name or 'eexp':18} {len(more):4} more modules{': ' * bool(heavy)}{' '.join(heavy)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100, help="runs of each program; 0 counts modules alone")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="count modules for these alone, and time their help")
    options = parser.parse_args()
    print_modules(options.stages or COMMANDS)
    if not options.runs:
        return
    programs = {**PROGRAMS, **{name: [sys.executable, "-m", "eexp", name, "--help"] for name in options.stages}}
    for command in programs.values():  # so that all modules are compiled
        seconds(command)
    durations: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(options.runs):
        for name, command in programs.items():
            durations[name].append(seconds(command))
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {options.runs} runs each")
    for how, of in (("median", statistics.median), ("fastest", min)):
        print(f"{how}: at most {1200 * of(durations['click']) + 30:.1f} ms wanted")
        for name, values in durations.items():
            print(f"  {name:18} {1000 * of(values):6.1f} ms")


if __name__ == "__main__":
    main()
