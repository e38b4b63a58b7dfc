"""A Slurm cluster on this machine for tests and benchmarks, by recipes/cluster/slurm-here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "recipes" / "cluster"
SLURM_HERE = CLUSTER / "slurm-here"


class Slurm:
    """A running cluster, and a directory in which its jobs run.

    Attributes:
        directory: Where the daemons keep their files.
        env: The environment of `sbatch` and of the jobs.
    """

    def __init__(self, directory: Path, **variables: str):
        self.directory = directory
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("EEXP_", "SLURM_", "SBATCH_"))
        }
        self.env = {
            **kept,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"]),
            "PYTHONPATH": str(ROOT),
            "SLURM_CONF": str(directory / "slurm.conf"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **variables,
        }

    def call(self, *command: object, cwd: Path | None = None, check: bool = True, **variables: str) -> str:
        """Run a command to its end, with the cluster's environment, and return what it prints."""
        words = [str(word) for word in command]
        env = {**self.env, **variables}
        done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def submit(self, *words: object, cwd: Path, **variables: str) -> str:
        """Submit a job, `sbatch WORDS`, and return its number."""
        return self.call("sbatch", "--parsable", *words, cwd=cwd, **variables)

    def states(self) -> dict[str, str]:
        """Return the states of all jobs that the cluster remembers, by the number of the job, or N_I in an array."""
        lines = self.call("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)  # type: ignore[arg-type]

    def wait(self, limit: float = 600) -> dict[str, str]:
        """Wait until no job is pending, running or ending, and return the states of all jobs."""
        deadline = time.monotonic() + limit
        while self.call("squeue", "-h"):
            if time.monotonic() > deadline:
                raise TimeoutError(self.call("squeue"))
            time.sleep(0.2)
        return self.states()

    def act(self, action: str, node: str) -> None:
        """Kill or boot a node."""
        subprocess.run([SLURM_HERE, action, self.directory, node], check=True, env=self.env, timeout=60)


@contextmanager
def slurm(nodes: int = 4, cpus: int = 2, **variables: str) -> Iterator[Slurm]:
    """Start a cluster for the block, with these variables in the environment of all its processes."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as name:  # a socket's path has at most 107 bytes
        cluster = Slurm(Path(name), **variables)
        try:
            start = [SLURM_HERE, "start", name, str(nodes), str(cpus)]
            subprocess.run(start, check=True, env=cluster.env, timeout=240, stdout=subprocess.DEVNULL)
            yield cluster
        finally:
            subprocess.run([SLURM_HERE, "stop", name], check=True, env=cluster.env, timeout=120)
