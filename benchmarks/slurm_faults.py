"""Kill jobs, processes, daemons and nodes of a Slurm cluster at random moments, and check what the parts become.

    python benchmarks/slurm_faults.py                       # 50 faults; needs slurm-wlm (recipes/cluster/slurm-here)
    python benchmarks/slurm_faults.py --faults 10 --seed 7

Claim: whatever is killed, the parts of a stage that are started again, as recipes/cluster/stage.sbatch does it, and
merged are byte for byte what one process writes: no record is lost and none is there twice; and no process is left.

Real daemons run on this machine: slurmctld, and four slurmd of two processors. In each round `branch --shard auto` and
`rollout` of some demonstrations of `house` are submitted as two arrays of seven, of which the second follows the first
task by task, and while they run, faults are made after random times, one after the other:

    scancel   a task is cancelled; the array is submitted again at the end
    requeue   a task is put back into the queue, as for a more important job
    timeout   a task is told that its time is over (SIGUSR1, as `--signal=B:USR1@60` does), and puts itself back
    process   a process of a task is killed (SIGKILL): the stage, a worker, its guard or the shell; again at the end
    slurmd    the daemon of a node is killed and started again; its tasks go on
    node      a daemon is killed with all processes of its tasks; Slurm puts them back, and the node returns later
    slurmctld the controller is killed and started again

At the end of a round everything is submitted again until `eexp merge` takes all parts, and the bytes are compared.
Where a daemon is killed while it starts a job, Slurm holds the job; it is released, as an operator does. Processes are
found by a mark in their environment. Ends with exit code 1 where the claim does not hold.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import psutil  # noqa: E402
from leftovers import MARK, marked  # noqa: E402
from slurm_here import CLUSTER, Slurm, slurm  # noqa: E402

PARTS, NODES = 7, 4
KINDS = ("scancel", "requeue", "timeout", "process", "slurmd", "node", "slurmctld")
#: Words in the command of a process that belongs to Slurm and not to a job.
DAEMONS = ("slurmctld", "slurmd", "slurmstepd", "munged")


class Difference(Exception):
    """Error raised when the claim does not hold; the message says where."""


def of_jobs(mark: str) -> list[psutil.Process]:
    """Return the processes of jobs: those with the mark, without daemons."""
    processes = []
    for process in marked(mark):
        with suppress(psutil.Error):
            if not any(name in " ".join(process.cmdline()[:2]) for name in DAEMONS):
                processes.append(process)
    return [process for process in processes if "SLURM_JOB_ID" in _environment(process)]


def _environment(process: psutil.Process) -> dict[str, str]:
    with suppress(psutil.Error):
        return process.environ()
    return {}


def eexp(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run eexp in this process's environment."""
    command = [sys.executable, "-m", "eexp", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)


def submit(cluster: Slurm, directory: Path) -> None:
    """Submit both arrays; parts that are finished end at once."""
    array, stage = f"--array=0-{PARTS - 1}", CLUSTER / "stage.sbatch"
    branch = ["branch", "--shard", "auto", "--from", "admissible", "-k", 2, "expert.jsonl"]
    first = cluster.submit("--job-name=branch", array, stage, "parts/branch.%a.jsonl", *branch, cwd=directory)
    after = (f"--dependency=aftercorr:{first}", "--kill-on-invalid-dep=yes")
    rollout = ["rollout", "-j", 2, "parts/branch.%a.jsonl"]
    cluster.submit("--job-name=rollout", array, *after, stage, "parts/rollout.%a.jsonl", *rollout, cwd=directory)


def running(cluster: Slurm) -> list[str]:
    """Return the tasks that run, as N_I."""
    return cluster.call("squeue", "-h", "-r", "-t", "running", "-o", "%i").split()


def make_fault(cluster: Slurm, kind: str, rng: random.Random, mark: str) -> bool:
    """Make one fault; return False where there was nothing to kill any more."""
    if kind in ("slurmd", "node"):
        node = f"node{rng.randrange(NODES) + 1}"
        if kind == "node":
            cluster.act("kill", node)
            cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
            time.sleep(rng.uniform(0, 2))
            cluster.act("boot", node)
            cluster.call("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        else:
            kill_daemon(cluster, node)
            time.sleep(rng.uniform(0, 2))
            cluster.act("boot", node)
        return True
    if kind == "slurmctld":
        kill_daemon(cluster, "slurmctld")
        time.sleep(rng.uniform(0, 1))
        subprocess.run(["slurmctld", "-f", cluster.env["SLURM_CONF"]], env=cluster.env, check=True, capture_output=True)
        return True
    if kind == "process":
        processes = of_jobs(mark)
        if not processes:
            return False
        with suppress(psutil.Error):
            rng.choice(processes).kill()
        return True
    tasks = running(cluster)
    if not tasks:
        return False
    task = rng.choice(tasks)
    command = {
        "scancel": ("scancel", task),
        "requeue": ("scontrol", "requeue", task),
        "timeout": ("scancel", "--batch", "--signal=USR1", task),
    }[kind]
    cluster.call(*command, check=False)  # it may have ended meanwhile
    return True


def kill_daemon(cluster: Slurm, name: str) -> None:
    """Kill a daemon by the number in its PID file, and wait for its end."""
    with suppress(FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        pid = int((cluster.directory / f"{name}.pid").read_text())
        process = psutil.Process(pid)
        os.kill(pid, signal.SIGKILL)
        process.wait(20)


def repair(cluster: Slurm, made: Counter[str]) -> None:
    """Do what an operator does: release jobs that Slurm holds because they could not be started, and resume nodes."""
    for line in cluster.call("squeue", "-h", "-r", "-t", "pending", "-o", "%i %r").splitlines():
        job, _, reason = line.partition(" ")
        if "held" in reason:
            cluster.call("scontrol", "release", job, check=False)
            made["released"] += 1
    for node in set(cluster.call("sinfo", "-h", "-N", "-t", "drain,down", "-o", "%N").split()):
        cluster.call("scontrol", "update", f"nodename={node}", "state=resume", check=False)


def wait(cluster: Slurm, mark: str, made: Counter[str]) -> None:
    """Wait until all jobs have ended, and all their processes with them."""
    limit = time.monotonic() + 900
    while cluster.call("squeue", "-h"):
        if time.monotonic() > limit:
            raise Difference(cluster.call("squeue", "-r"))
        repair(cluster, made)
        time.sleep(0.5)
    deadline = time.monotonic() + 60
    while left := of_jobs(mark):
        if time.monotonic() > deadline:
            raise Difference(f"processes left: {[' '.join(process.cmdline()) for process in left]}")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--faults", type=int, default=50, help="number of faults")
    parser.add_argument("--trajectories", type=int, default=700, help="demonstrations in a round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of faults, separated by commas")
    chosen = parser.parse_args()
    kinds, rng = chosen.kinds.split(","), random.Random(chosen.seed)
    print(f"$ python benchmarks/slurm_faults.py {' '.join(sys.argv[1:])}".rstrip(), flush=True)
    made: Counter[str] = Counter()
    rounds = submissions = 0
    try:
        with tempfile.TemporaryDirectory(prefix="eexp-slurm-faults-") as name:
            root, mark = Path(name), name
            eexp("expert", "house", "-n", chosen.trajectories, "-q", "-o", "expert.jsonl", cwd=root)
            eexp("branch", "--from", "admissible", "-k", 2, "-q", "-o", "branched", "expert.jsonl", cwd=root)
            eexp("rollout", "-q", "-o", "whole.jsonl", "branched", cwd=root)
            expected = (root / "whole.jsonl").read_bytes()
            assert expected.count(b"\n") == chosen.trajectories
            with slurm(NODES, 2, **{MARK: mark}) as cluster:
                while sum(made[kind] for kind in KINDS) < chosen.faults:
                    rounds += 1
                    directory = root / f"round-{rounds}"
                    directory.mkdir()
                    shutil.copy(root / "expert.jsonl", directory)
                    submit(cluster, directory)
                    submissions += 1
                    while cluster.call("squeue", "-h") and sum(made[kind] for kind in KINDS) < chosen.faults:
                        time.sleep(rng.uniform(0, 2.5))
                        kind = kinds[sum(made[kind] for kind in KINDS) % len(kinds)]
                        if make_fault(cluster, kind, rng, mark):
                            made[kind] += 1
                        repair(cluster, made)
                    wait(cluster, mark, made)
                    for _ in range(5):
                        whole = eexp("merge", *sorted(directory.glob("parts/rollout.*.jsonl")), cwd=directory)
                        if whole.returncode == 0:
                            break
                        print(f"round {rounds}: {whole.stderr.decode().strip()}; submitted again", flush=True)
                        submit(cluster, directory)
                        submissions += 1
                        wait(cluster, mark, made)
                    if whole.stdout != expected:
                        raise Difference(f"round {rounds}: {whole.stderr.decode() or 'the bytes differ'}; {directory}")
                    print(
                        f"round {rounds}: {sum(made[kind] for kind in KINDS)} faults so far, the same bytes", flush=True
                    )
            if left := marked(mark):
                raise Difference(f"processes left at the end: {[' '.join(process.cmdline()) for process in left]}")
    except Difference as e:
        sys.exit(f"error: {e}")
    print(f"{made['released']} times a job was released that Slurm held, because it could not be started")
    counts = ", ".join(f"{made[kind]} {kind}" for kind in KINDS if made[kind])
    print(f"{sum(made[kind] for kind in KINDS)} faults ({counts}) in {rounds} rounds, {submissions} submissions")
    print("every round the bytes of one process: nothing lost, nothing doubled, no process left")


if __name__ == "__main__":
    main()
