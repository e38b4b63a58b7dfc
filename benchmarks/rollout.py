"""Measure the cost of a branch, in milliseconds, by environment and by the way it is executed.

    python benchmarks/rollout.py --plot benchmarks/rollout.svg > benchmarks/rollout.txt    # an hour or so on two cores
    python benchmarks/rollout.py --paths 3                                                 # a quarter of one
    python benchmarks/rollout.py textworld bfcl                                            # some of the environments

Expert paths of 10 steps and more, with three alternatives at every step, go through `eexp.acting.execution.execute`:
every observation is compared with the record, the list of admissible actions too. This happens in a worker like those
of `eexp rollout`, for one path after the other, every way in turn: three times, and the fastest counts; once where it
takes long. The TextWorld games, and some like ALFWorld's, are made first, in --games.

naive     the usual code: before every alternative reset, walk to the state, and step; nothing is compared
bound     the environment's own steps alone, each taken once: the reset, the path, the alternatives where they belong
fork      the copy alone: `fork`, or `save` and `restore`, or a forked process that does nothing
limit     the goal: at most 1.5 times the bound, and a fork

The outcomes must be the naive way's, which is measured with one in ten branches in ALFWorld and ScienceWorld: with all
it would take hours. ScienceWorld's naive way goes through the package's own class, whose words differ from run to run
and are not compared (the outcomes by state and by replay are); eexp is measured in one worker, and, all paths together,
in two. ALFWorld's naive way goes through the package, too, which loads the game once for all branches of a path.
benchmarks/scienceworld_rollout.py compares it with the script of the paper's authors.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from eexp.acting.branch import branch
from eexp.acting.execution import execute
from eexp.acting.expert import expert
from eexp.acting.settings import BranchSettings
from eexp.envs import Environment, forking
from eexp.envs.base import FORK_AUTO, FORK_WAYS, Observation
from eexp.workers.pool import Pool

ROOT = Path(__file__).parents[1]
K = 3
SHORTEST = 10
LONG = 2.0  # seconds after which nothing is measured again
PATIENCE = 3600.0


@dataclass
class World:
    """An environment to be measured in.

    ways: to execute a branch. wanted: how many times as fast as the naive way it is to be. growth: the lengths to which
    the longest path is cut, for the plot. every: measure the naive way with one in so many branches.
    """

    spec: str
    ways: tuple[str, ...]
    paths: int
    wanted: float
    split: str = ""
    growth: tuple[int, ...] = (5, 10, 15, 20, 30, 40, 60)
    every: int = 1


ALL = FORK_WAYS
WORLDS = {
    "house": World("house", ALL, 20, 1),
    "bfcl": World("bfcl", ALL, 20, 1),
    "bfcl-long": World("bfcl", ALL, 10, 1, split="long_context-train"),
    "textcraft": World("textcraft", ALL, 20, 1),
    "babyai": World("babyai", ALL, 20, 1),
    "textworld": World("textworld?games={games}/textworld", ALL, 8, 3, growth=(5, 10, 20)),
    "alfworld": World("alfworld?data={games}/alfworld", ALL, 4, 5, growth=(5, 10, 20), every=10),
    "scienceworld": World("scienceworld", ALL[::2], 6, 10, growth=(5, 10, 20), every=10),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("worlds", nargs="*", metavar="ENV", default=list(WORLDS), help=f"of {', '.join(WORLDS)}")
    parser.add_argument("--paths", type=int, metavar="N", help="paths of each environment, instead of the usual number")
    parser.add_argument("--games", type=Path, default=Path(tempfile.gettempdir()) / "eexp-benchmark", metavar="DIR")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="cost by length of the path; needs matplotlib")
    chosen = parser.parse_args()
    print(machine())
    print(
        f"{'':26}{'paths':>5}{'steps':>8}{'branches':>9}{'naive ms':>10}{'ms':>8}{'faster':>8}{'wanted':>8}"
        f"{'bound':>9}{'fork':>9}{'of limit':>9}",
        flush=True,
    )
    growth = {}
    for name in chosen.worlds:
        make_games(name, chosen.games)
        world = WORLDS[name]
        world.paths = chosen.paths or world.paths
        growth[name] = measure_world(name, world, world.spec.format(games=chosen.games))
        for way, times in growth[name].items():
            print(f"{'':14}{way:12}ms by steps:", *(f"{steps:5}: {ms:.2f}" for steps, ms in times.items()), flush=True)
        if chosen.plot:
            plot(growth, chosen.plot)


def machine() -> str:
    """Return the machine's name for the heading of the table."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = models[0].partition(": ")[2] if models else platform.processor()
    return f"{cpu}, {os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}"


def make_games(name: str, folder: Path) -> None:
    options = {"textworld": ["--train", "24", "--valid", "0", "--test", "0"], "alfworld": ["--large"]}
    if name in options:
        command = [sys.executable, str(ROOT / "recipes" / name / "make_games.py"), str(folder / name), *options[name]]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def measure_world(name: str, world: World, spec: str) -> dict[str, dict[int, float]]:
    """Print a row for every way; return milliseconds a branch by way and length of the path."""
    asked = {"spec": spec, "ways": world.ways, "every": world.every}
    with Pool(1, spec, PATIENCE) as pool:
        (found,) = ask(pool, "paths", [{**asked, "split": world.split, "paths": world.paths}])
        longest = max(found, key=lambda path: len(path["steps"]))
        cuts = [cut(longest, n) for n in world.growth if n < len(longest["steps"])]
        measured = list(ask(pool, "measure", [{**asked, "path": path} for path in [*found, *cuts]]))
    total: dict[str, float] = {}
    for what, value in chain.from_iterable(seconds.items() for seconds in measured[: len(found)]):
        total[what] = total.get(what, 0) + value
    ways = world.ways
    if name == "scienceworld":
        total["2 workers"] = pooled(spec, found)
        ways = (*ways, "2 workers")
    for way in ways:
        show(f"{name:14}{way:12}", total, way, found, world.wanted)
    grown = [*zip(cuts, measured[len(found) :]), (longest, measured[found.index(longest)])]
    return {
        way: {len(path["steps"]): 1000 * m[way] / m["branches"] for path, m in grown} for way in ("naive", *world.ways)
    }


def show(label: str, seconds: dict[str, float], way: str, found: list[dict], wanted: float) -> None:
    ms = {what: 1000 * value / seconds["branches"] for what, value in seconds.items()}
    lengths = [len(path["steps"]) for path in found]
    alone, fork = ms.get("bound"), ms.get(f"fork {way}")
    columns = [alone, fork, ms[way] / (1.5 * alone + fork) if alone and fork else None]
    print(
        f"{label}{len(found):5}{min(lengths):5}-{max(lengths):<3}{seconds['branches']:8}{ms['naive']:10.2f}{ms[way]:8.2f}"
        f"{ms['naive'] / ms[way]:8.2f}{wanted:8}",
        *(" " * 8 if x is None else f"{x:8.2f}" for x in columns),
        flush=True,
    )


def ask(pool: Pool, do: str, jobs: list[dict]) -> Iterator[Any]:
    """Yield the answers of a function of this file, called in a worker."""
    for _, answer in pool.run((None, {"do": f"{Path(__file__).stem}:{do}", **job}) for job in jobs):
        if isinstance(answer, Exception):
            raise answer
        yield answer


def pooled(spec: str, expert_paths: list[dict]) -> float:
    """Return the seconds for all paths with two workers like those of `eexp rollout`, which run already."""
    job = {"do": "eexp.acting.execution:job", "fork": FORK_AUTO, "again": False}
    jobs = [{**job, "trajectory": path} for path in expert_paths]
    with Pool(2, spec, PATIENCE) as pool:
        list(pool.run((None, {**job, "trajectory": cut(job["trajectory"], 2)}) for job in jobs))
        began = time.perf_counter()
        refused = [answer["refused"] for _, answer in pool.run((None, job) for job in jobs)]
        assert not any(refused), refused
        return time.perf_counter() - began


def cut(path: dict, n: int) -> dict:
    """Return the first n steps of a path."""
    if len(path["steps"]) <= n:
        return path
    return {**path, "steps": path["steps"][:n], "outcome": {"observation": path["steps"][n]["observation"]}}


# -- in a worker -----------------------------------------------------------------------------------------------------


def paths(job: dict, opened: Any, on_step: Callable) -> list[dict]:
    """Return the first expert paths that are long enough, with alternatives."""
    env, expert_paths = opened.get(job["spec"]), []
    others: list[str] = []  # what the expert did anywhere, for where nothing lists the actions
    for path in expert(env, env.tasks(job["split"] or env.splits()[0])):
        others += [step["action"] for step in path["steps"]]
        if path["outcome"].get("success") and len(path["steps"]) >= SHORTEST:
            expert_paths.append(path)
        if len(expert_paths) == job["paths"]:
            break
    return [with_alternatives(path, others) for path in expert_paths]


def with_alternatives(path: dict, others: list[str]) -> dict:
    """Add alternatives as `eexp branch --from admissible` does; where none are listed, take the others in turn."""
    (branched,) = branch(iter([path]), None, BranchSettings(k=K, source="admissible"))
    for i, step in enumerate(branched["steps"]):
        if step["admissible"] is None:
            actions = dict.fromkeys(others[(7 * i + j) % len(others)] for j in range(len(others)))
            different = (action for action in actions if action != step["action"])
            step["alternatives"] = [{"action": action, "source": "program"} for action in islice(different, K)]
    return branched


def measure(job: dict, opened: Any, on_step: Callable) -> dict[str, float]:
    """Return the seconds for all branches of one path, by way, those of the steps and forks, and how many there are."""
    env, path, every = opened.get(job["spec"]), job["path"], job["every"]
    branches = [(i, a["action"]) for i, step in enumerate(path["steps"]) for a in step["alternatives"]]
    some = branches[every // 2 :: every]
    seconds: dict[str, float] = {"branches": len(branches)}
    share = len(branches) / len(some)
    first_outcomes: dict[int, list] = {}
    if env.spec == "scienceworld":
        observations = None
        seconds["naive"] = share * fastest(lambda: through_the_package(path, some))[0]
    else:
        duration, (observations, alone) = fastest(lambda: naive(env, path, some))
        if env.spec.startswith("alfworld"):
            duration = fastest(lambda: through_alfworld(env, path, some))[0]
        seconds["naive"] = share * duration
        seconds["bound"] = share * alone + fastest(lambda: walk_to(env, path, len(path["steps"])))[0]
    for way in job["ways"]:
        seconds[way], execution = fastest(lambda way=way: execute(env, path, way))
        assert not execution.refused, execution.refused
        outcomes = [a["outcome"] for step in execution.trajectory["steps"] for a in step["alternatives"]]
        assert outcomes == first_outcomes.setdefault(0, outcomes), f"{way}: other outcomes than {job['ways'][0]}"
        if observations is not None:
            expected = [observation.outcome() for observation in observations]
            assert outcomes[every // 2 :: every] == expected, f"{way}: other outcomes"
        if way != "replay":
            seconds[f"fork {way}"] = forks(env, path, way)
    return seconds


def fastest(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds and the answer of the fastest of three runs, or of one that takes long."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        answer = call()
        best = min(best, time.perf_counter() - began)
        if best > LONG:
            break
    return best, answer


def walk_to(env: Environment, path: dict, i: int) -> None:
    env.reset(path["task"])
    for step in path["steps"][:i]:
        env.step(step["action"])


Branch = tuple[int, str]  # the step it belongs to, and the action


def naive(env: Environment, path: dict, branches: list[Branch]) -> tuple[list[Observation], float]:
    """Return the outcomes of the alternatives, and the seconds of their own steps."""
    observations, alone = [], 0.0
    for i, action in branches:
        walk_to(env, path, i)
        began = time.perf_counter()
        observations.append(env.step(action))
        alone += time.perf_counter() - began
    return observations, alone


def through_the_package(path: dict, branches: list[Branch]) -> None:
    """Do as `naive` does, with ScienceWorld's own class."""
    theirs, task = package(), path["task"]
    for i, action in branches:
        theirs.load(task["task"], task["variation"], task["simplifications"])
        theirs.reset()
        for step in path["steps"][:i]:
            theirs.step(step["action"])
        theirs.step(action)


@cache
def package() -> Any:
    from scienceworld import ScienceWorldEnv

    return ScienceWorldEnv(envStepLimit=1000)


def through_alfworld(env: Any, path: dict, branches: list[Branch]) -> None:
    """Do as `naive` does, with ALFWorld's own environment, in which the game is loaded once."""
    theirs, task = alfworld_package(), path["task"]
    theirs.load(str(env._directory / task["split"] / task["game"] / "game.tw-pddl"))
    for i, action in branches:
        theirs.reset()
        for step in path["steps"][:i]:
            theirs.step(step["action"])
        theirs.step(action)


@cache
def alfworld_package() -> Any:
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.core import EnvInfos
    from textworld.envs.pddl import PddlEnv

    return AlfredDemangler(PddlEnv(EnvInfos(admissible_commands=True)))


class Idle(Environment):
    """An environment whose steps do nothing, to measure the fork of the process alone."""

    def splits(self) -> list[str]:
        return []

    def tasks(self, split: str) -> Iterator[dict]:
        return iter(())

    def reset(self, task: dict) -> Observation:
        return Observation("")

    def step(self, action: str) -> Observation:
        return Observation("")


def forks(env: Environment, path: dict, way: str) -> float:
    """Return the seconds for as many forks as there are branches, at their states."""

    def copy() -> None:
        if way == "process":
            with forking.executor(Idle(), way, PATIENCE) as in_fork:
                in_fork("")
        elif env.has("save"):
            env.restore(env.save())
        else:
            env.fork().close()

    seconds = 0.0
    env.reset(path["task"])
    for step in path["steps"]:
        for _ in step["alternatives"]:
            began = time.perf_counter()
            copy()
            seconds += time.perf_counter() - began
        env.step(step["action"])
    return seconds


# -- the plot --------------------------------------------------------------------------------------------------------

COLORS = {"naive": "#999999", "replay": "#d55e00", "process": "#0072b2", "state": "#009e73"}


def plot(growth: dict[str, dict[str, dict[int, float]]], file: Path) -> None:
    """Draw seconds a path by its length, one panel for every environment."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text, which can be searched
    from matplotlib import pyplot

    columns = min(3, len(growth))
    rows = -(-len(growth) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False)
    for panel in axes.flat[len(growth) :]:
        panel.set_axis_off()
    for panel, (name, by_way) in zip(axes.flat, growth.items()):
        for way, ms_by_steps in by_way.items():
            seconds = [ms * K * steps / 1000 for steps, ms in ms_by_steps.items()]
            panel.plot(list(ms_by_steps), seconds, marker="o", markersize=3, label=way, color=COLORS[way])
        panel.set_title(name, fontsize=10)
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("steps of the path")
        panel.set_ylabel(f"seconds for {K} branches a step")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
