"""Execute the same alternatives in ScienceWorld by the authors' own script and by eexp, and compare the time.

    curl -LO https://raw.githubusercontent.com/OSU-NLP-Group/EarlyExperience/f39f970/envs/scienceworld/scripts/rollout_iwm.py
    python benchmarks/scienceworld_rollout.py rollout_iwm.py --paths 3       # half an hour or so on two cores

The script belongs to the release of the paper's authors (first commit of OSU-NLP-Group/EarlyExperience). Its function
`probe_trajectory` is called as it is. At every state of a path it draws three of the admissible actions, takes each,
and returns to the state by loading the task and taking the path's actions again. The expert's paths and these
alternatives are then given to `eexp.acting.execution.execute`, which is what `eexp rollout` runs in a worker: it
compares every observation on the path, and the list of admissible actions, with the record.

theirs    the authors' function
naive     for every alternative: load, reset, the path's actions, the alternative, through the package's class
replay    `eexp rollout --fork replay`, in one worker
state     `eexp rollout`, in one worker: a copy of the state for each alternative
2 workers the same, all paths at once, in two workers

All run in processes that have been started and warmed up by a path of five steps. The naive way is measured with one
alternative in ten. The outcomes by state and by replay must be equal. Then the longest path is cut to several lengths.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

from rollout import PATIENCE, cut, machine, through_the_package

from eexp.acting.execution import execute
from eexp.acting.expert import expert
from eexp.envs import open_env
from eexp.workers.pool import Pool

SPEC = "scienceworld?simplifications=none&max_steps=200"  # what their script plays
COLUMNS = ("theirs s", "naive s", "replay s", "state s", "faster")
LENGTHS = (5, 10, 20, 30, 40, 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("script", type=Path, help="rollout_iwm.py of the authors' release")
    parser.add_argument("--paths", type=int, default=3, metavar="N", help="paths [default: %(default)s]")
    parser.add_argument("--shortest", type=int, default=20, metavar="N", help="steps of a path, at least [20]")
    parser.add_argument("--longest", type=int, default=60, metavar="N", help="steps of a path, at most [60]")
    parser.add_argument("--growth", action="store_true", help="measure the longest path at several lengths, too")
    chosen = parser.parse_args()
    print(machine())
    paths = find_paths(chosen.paths, chosen.shortest, chosen.longest)
    theirs = load_script(chosen.script)
    theirs.probe_trajectory(as_their_record(cut(paths[0], 5)))
    with Pool(1, SPEC, PATIENCE) as pool:
        ask(pool, [{"path": add_alternatives(cut(paths[0], 5), theirs)[0], "fork": "state"}])
        print(f"{'task':20}{'steps':>6}{'branches':>9}", *map("{:>9}".format, COLUMNS))
        branched = [measure(path, theirs, pool) for path in paths]
        if chosen.growth:
            longest = max(paths, key=lambda path: len(path["steps"]))
            for n in LENGTHS:
                if n < len(longest["steps"]):
                    measure(cut(longest, n), theirs, pool)
    seconds, ours = sum(duration for _, duration in branched), pooled([path for path, _ in branched])
    row("all, 2 workers", [path for path, _ in branched], [seconds, None, None, ours, seconds / ours])


def find_paths(n: int, shortest: int, longest: int) -> list[dict]:
    """Return expert paths of different kinds of task, with lists of admissible actions."""
    paths: list[dict] = []
    with open_env(SPEC) as env:
        for path in expert(env, env.tasks("train")):
            if path["outcome"].get("success") and shortest <= len(path["steps"]) <= longest:
                paths.append(path)
                if len(paths) == n:
                    break
    return paths


def load_script(file: Path) -> Any:
    """Return the authors' script as a module, with the simulator that its workers would start."""
    spec = importlib.util.spec_from_file_location("rollout_iwm", file)
    assert spec and spec.loader, file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._worker_init()
    return module


def as_their_record(path: dict) -> dict:
    return {
        "item_id": path["id"],
        "task_value": path["task"]["task"],
        "variation_idx": path["task"]["variation"],
        "agenttraj_actions": [step["action"] for step in path["steps"]],
        "replay_steps": path["steps"],
    }


def add_alternatives(path: dict, theirs: Any) -> tuple[dict, float]:
    """Run their function; return the path with the alternatives that it drew, and the seconds that it took."""
    began = time.perf_counter()
    records = theirs.probe_trajectory(as_their_record(path))
    seconds = time.perf_counter() - began
    steps = [{**step, "alternatives": []} for step in path["steps"]]
    for record in records:
        if record["kind"] == "alt":
            steps[record["step"]]["alternatives"].append({"action": record["action"], "source": "admissible"})
    return {**path, "steps": steps}, seconds


def measure(path: dict, theirs: Any, pool: Pool) -> tuple[dict, float]:
    """Print a row; return the path with its alternatives, and the seconds of the authors' function."""
    branched, seconds = add_alternatives(path, theirs)
    branches = [(i, a["action"]) for i, step in enumerate(branched["steps"]) for a in step["alternatives"]]
    began = time.perf_counter()
    through_the_package(branched, branches[5::10])
    naive = (time.perf_counter() - began) * len(branches) / len(branches[5::10])
    results = ask(pool, [{"path": branched, "fork": way} for way in ("replay", "state")])
    assert results[0]["outcomes"] == results[1]["outcomes"], "a copy and a replay differ"
    replay, state = (result["seconds"] for result in results)
    row(path["task"]["id"], [branched], [seconds, naive, replay, state, seconds / state])
    return branched, seconds


def row(label: str, paths: list[dict], columns: list[float | None]) -> None:
    steps = [step for path in paths for step in path["steps"]]
    branches = sum(len(step["alternatives"]) for step in steps)
    texts = ("" if x is None else f"{x:.1f}" for x in columns)
    print(f"{label:20}{len(steps):6}{branches:9}", *map("{:>9}".format, texts), flush=True)


def ask(pool: Pool, jobs: list[dict]) -> list[dict]:
    """Return the answers of `run`, called in workers."""
    answers = []
    for _, answer in pool.run((None, {"do": f"{Path(__file__).stem}:run", **job}) for job in jobs):
        if isinstance(answer, Exception):
            raise answer
        answers.append(answer)
    return answers


def pooled(paths: list[dict]) -> float:
    """Return the seconds for all paths in two workers, which run already."""
    jobs = [{"path": path, "fork": "state"} for path in paths]
    with Pool(2, SPEC, PATIENCE) as pool:
        ask(pool, [{**job, "path": cut(job["path"], 5)} for job in jobs])
        began = time.perf_counter()
        ask(pool, jobs)
        return time.perf_counter() - began


# -- in a worker -----------------------------------------------------------------------------------------------------


def run(job: dict, opened: Any, on_step: Any) -> dict:
    """Execute the alternatives of a path; return their outcomes and the seconds that it took."""
    env = opened.get(SPEC)
    began = time.perf_counter()
    execution = execute(env, job["path"], job["fork"])
    seconds = time.perf_counter() - began
    assert not execution.refused, execution.refused
    outcomes = [a["outcome"] for step in execution.trajectory["steps"] for a in step["alternatives"]]
    return {"seconds": seconds, "outcomes": outcomes}


if __name__ == "__main__":
    main()
