"""Compare the executors: the same bytes, and how many records a second they do.

    python benchmarks/executors.py same                      # 1,000 trajectories on a Ray cluster of three nodes
    python benchmarks/executors.py scaling --plot executors.svg   # needs matplotlib; --peer needs pandas and pyarrow
    python benchmarks/executors.py overhead

`same` runs `branch --from admissible -k 2 | rollout` on the built-in house as one process and with --on ray on three
nodes of this machine, and compares the bytes. `scaling` does jobs that only wait, on 1, 2, 4, ... workers, so that the
number of cores does not limit it: the jobs a second of the local pool, of Ray and, with --peer, of Ray Data's map over
actors, next to the ideal, which is workers divided by the seconds of a job. Starting the workers is not counted: the
clock begins when each has done a job. `overhead` does jobs that wait for nothing, on one worker, with a record of
20 kB each way.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tests"))

LIMIT = 600.0  # seconds without a sign of life


def wait(job: dict, environments: Any, on_step: Any) -> Any:
    """The job of `scaling` and `overhead`: sleep, and return what came with it."""
    on_step()
    time.sleep(job["seconds"])
    return job.get("record")


def own_pid(job: dict, environments: Any, on_step: Any) -> int:
    """A job that says which process does it, after a while, so that another process does the next one."""
    time.sleep(0.2)
    return os.getpid()


def eexp(directory: Path, *words: str, **variables: str) -> float:
    """Run a command; return its seconds."""
    began = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    subprocess.run([sys.executable, "-m", "eexp", *words], cwd=directory, env=env, check=True)
    return time.monotonic() - began


def same(number: int) -> None:
    """Compare a rollout in one process with one on a cluster of three nodes."""
    from ray_nodes import Nodes

    with tempfile.TemporaryDirectory(prefix="eexp-executors-") as name:
        directory = Path(name)
        eexp(directory, "expert", "house", "-n", str(number), "-o", "expert.jsonl", "-q")
        eexp(directory, "branch", "--from", "admissible", "-k", "2", "expert.jsonl", "-o", "branched.jsonl", "-q")
        seconds = {"one process": eexp(directory, "rollout", "-j", "1", "branched.jsonl", "-o", "0.jsonl")}
        with Nodes(3) as nodes:
            on = ("--on", f"ray:{nodes.address}")
            seconds["Ray, 3 nodes"] = eexp(directory, "rollout", *on, "branched.jsonl", "-o", "1.jsonl")
        digests = []
        for n, (what, one) in enumerate(seconds.items()):
            data = (directory / f"{n}.jsonl").read_bytes()
            digests.append(hashlib.sha256(data).hexdigest())
            n_records = len(data.splitlines())
            print(f"{what:13} {n_records:6,} records, {len(data):12,} bytes, {one:6.1f} s, {digests[-1][:16]}")
    sys.exit("error: the bytes differ") if len(set(digests)) > 1 else print("the same bytes")


def jobs(number: int, seconds: float, record: Any = None) -> Iterator[tuple[int, dict]]:
    """Yield jobs that wait."""
    return ((n, {"do": "executors:wait", "seconds": seconds, "record": record}) for n in range(number))


def rate_of_pool(on: str, workers: int, number: int, seconds: float, record: Any = None) -> float:
    """Return the jobs a second of a pool whose workers have all started."""
    from eexp.workers.pool import Pool

    with Pool(workers, None, LIMIT, on=on) as pool:
        started: set[int] = set()
        while len(started) < workers:
            started |= {pid for _, pid in pool.run((n, {"do": "executors:own_pid"}) for n in range(workers))}
        began = time.monotonic()
        results = [result for _, result in pool.run(jobs(number, seconds, record))]
        errors = [result for result in results if isinstance(result, Exception)]
        if errors or len(results) != number:
            sys.exit(f"error: {len(results)} of {number} results: {errors[:1]}")
        return number / (time.monotonic() - began)


def rate_of_ray_data(workers: int, number: int, seconds: float) -> float:
    """Return the jobs a second of Ray Data's map over a pool of actors, from the result in which all may have started.

    By then others are under way, so with few jobs a worker it comes out above the ideal.
    """
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)

    class Wait:
        def __call__(self, row: dict) -> dict:
            time.sleep(seconds)
            return row

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.range(number + workers, override_num_blocks=number + workers)
    share = round(1 / workers, 4)
    results = rows.map(Wait, compute=ray.data.ActorPoolStrategy(size=workers), num_cpus=share)
    began = 0.0
    for n, _ in enumerate(results.iter_rows(), 1):
        began = time.monotonic() if n == workers else began
    return number / (time.monotonic() - began)


def overhead(number: int) -> None:
    """Print the milliseconds that a job takes for itself."""
    from ray_nodes import Nodes

    record = {"text": "x" * 20_000}
    with Nodes(1) as nodes:
        for what, on in (("local pool", "local"), ("Ray", f"ray:{nodes.address}")):
            rate = rate_of_pool(on, 1, number, 0.0, record)
            print(f"{what:11} {1000 / rate:.2f} ms a record of 20 kB, on one worker", flush=True)


def scaling(most: int, seconds: float, per_worker: int, peer: bool, plot: str | None) -> None:
    """Print, and draw, the jobs a second by the number of workers."""
    from ray_nodes import Nodes

    counts = [2**n for n in range(most.bit_length()) if 2**n <= most]
    rates: dict[str, list[float]] = {"ideal": [n / seconds for n in counts]}
    rates["local pool"] = [rate_of_pool("local", n, per_worker * n, seconds) for n in counts]
    with Nodes(1, cpus=most) as nodes:
        rates["Ray"] = [rate_of_pool(f"ray:{nodes.address}", n, per_worker * n, seconds) for n in counts]
        if peer:
            import ray

            ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
            rates["Ray Data"] = [rate_of_ray_data(n, per_worker * n, seconds) for n in counts]
            ray.shutdown()
    print(f"jobs a second, each waits for {seconds:g} s\n{'workers':10}" + "".join(f"{n:>8}" for n in counts))
    for what, values in rates.items():
        print(f"{what:10}" + "".join(f"{value:8.1f}" for value in values))
    if plot:
        draw(counts, rates, seconds, plot)


def draw(counts: list[int], rates: dict[str, list[float]], seconds: float, file: str) -> None:
    """Draw the jobs a second over the number of workers, both logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "executors"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for what, values in rates.items():
        axes.plot(
            counts, values, "--" if what == "ideal" else "o-", label=what, color="grey" if what == "ideal" else None
        )
    axes.set(xscale="log", yscale="log", xlabel="workers", ylabel=f"jobs a second, each waits for {seconds:g} s")
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["same", "scaling", "overhead"])
    parser.add_argument("-n", type=int, default=1000, help="trajectories of `same`, jobs of `overhead`")
    parser.add_argument("--most", type=int, default=64, help="workers of `scaling`, at most")
    parser.add_argument("--seconds", type=float, default=0.5, help="seconds that a job of `scaling` waits")
    parser.add_argument("--jobs", type=int, default=20, help="jobs a worker of `scaling`")
    parser.add_argument("--peer", action="store_true", help="measure Ray Data, too")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw `scaling`")
    chosen = parser.parse_args()
    if chosen.what == "same":
        same(chosen.n)
    elif chosen.what == "overhead":
        overhead(chosen.n)
    else:
        scaling(chosen.most, chosen.seconds, chosen.jobs, chosen.peer, chosen.plot)


if __name__ == "__main__":
    main()
