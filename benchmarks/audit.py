"""Measure what the audit of `eexp rollout` costs: processor time of the command without it and with it.

    python benchmarks/audit.py                          # some minutes; ScienceWorld where there is Java
    python benchmarks/audit.py house textcraft --rounds 5

The expert's paths with three alternatives at every step are executed by `eexp rollout -j 1`, with `--audit 0` and with
the default, in turn. The time is that of the command and all its processes, which other work on the machine changes
less than it changes the time on a clock; the fastest round counts. `replay` is what an audited alternative costs, in
milliseconds.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from rollout import machine, with_alternatives  # noqa: E402

from eexp.acting.expert import expert  # noqa: E402
from eexp.acting.settings import RolloutSettings  # noqa: E402
from eexp.envs import open_env  # noqa: E402
from eexp.records.jsonl import dumps  # noqa: E402

#: name -> spec, and number of paths
WORLDS = {
    "house": ("house", 1000),
    "textcraft": ("textcraft", 300),
    "program": (f"exec:{sys.executable} {ROOT / 'examples' / 'blocks.py'}", 300),
    "safe.sh": (f"exec:sh {ROOT / 'examples' / 'safe.sh'}", 50),
    "babyai": ("babyai", 100),
    "scienceworld": ("scienceworld", 12),
}
NEEDS = {"babyai": "minigrid", "scienceworld": "scienceworld"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("worlds", nargs="*", metavar="ENV", default=list(WORLDS), help=f"of {', '.join(WORLDS)}")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    chosen = parser.parse_args()
    print(machine())
    columns = f"{'alternatives':>13}{'audited':>9}{'without, s':>12}{'with, s':>9}{'more':>9}{'replay, ms':>12}"
    print(f"{'':14}{'by':8}{columns}")
    for name in chosen.worlds:
        missing = name in NEEDS and not find_spec(NEEDS[name])
        if missing or (name == "scienceworld" and not shutil.which("java")):
            print(f"{name:14}is not installed")
        else:
            measure(name, *WORLDS[name], chosen.rounds)


def measure(name: str, spec: str, paths: int, rounds: int) -> None:
    """Print the row of an environment."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "branched.jsonl"
        with open_env(spec) as env, open(file, "wb") as out:
            for path in islice(expert(env, env.tasks(env.splits()[0])), paths):
                out.write(dumps(with_alternatives(path, [])))
        seconds: dict[float, float] = {0.0: float("inf"), RolloutSettings().audit: float("inf")}
        message = ""
        for _ in range(rounds):
            for share in seconds:
                duration, message = rollout(spec, file, share)
                seconds[share] = min(seconds[share], duration)
    way, number = re.findall(r"alternatives? executed by (\w+), (\d+) alternatives? audited", message)[0]
    alternatives = re.findall(r"(\d+) alternatives? executed by", message)[0]
    without, audited = seconds.values()
    print(
        f"{name:14}{way:8}{alternatives:>13}{number:>9}{without:12.2f}{audited:9.2f}"
        f"{100 * (audited / without - 1):7.1f} %{1000 * (audited - without) / int(number):12.2f}",
        flush=True,
    )


def rollout(spec: str, file: Path, share: float) -> tuple[float, str]:
    """Return the seconds of processor time of a rollout, and its summary."""
    command = [sys.executable, "-m", "eexp", "rollout", "-j", "1", "--env", spec, "--audit", str(share), str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before = os.times()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True)
    after = os.times()
    if done.returncode:
        raise SystemExit(done.stderr)
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, re.sub(r"\d+ alternatives? answered as invalid, ", "", done.stderr)


if __name__ == "__main__":
    main()
