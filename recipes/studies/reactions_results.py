"""Print the table of a study on `reactions`: success by arm, and where only executed alternatives explain the way.

    python recipes/studies/reactions_results.py studies/reactions-0 [studies/reactions-1 ...]
    python recipes/studies/reactions_results.py --rows il.act sr.think sr-permuted.think -- studies/reactions-0

Test tasks are of three kinds: the demonstrations contain a way (shown), only they and the executed alternatives
together do (executed), or nothing does (unknown). Rows are arms, played without (act) or with a thought (think). The
difference is to the first row, or else to imitation played without a thought, with its interval over training seeds and
tasks, and p values corrected for the number of rows (Holm; docs/evidence.md). "True" is the share of what thoughts say
about outcomes that were executed in the training data that is true.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

from eexp.envs.opening import open_env
from eexp.evidence.comparison import compare
from eexp.evidence.table import shown_p
from eexp.records.jsonl import read
from eexp.records.record import expert_outcome

KINDS = ("shown", "executed", "unknown")
Edges = dict[str, set[str]]


def edges_of(trajectories: Iterable[dict], alternatives: bool) -> Edges:
    """Return what each observation leads to, by the experts' actions or by all executed ones."""
    edges: Edges = defaultdict(set)
    for trajectory in trajectories:
        for i, step in enumerate(trajectory["steps"]):
            outcomes = [expert_outcome(trajectory, i)]
            if alternatives:
                outcomes += [a.get("outcome") for a in step.get("alternatives") or []]
            edges[step["observation"]] |= {o["observation"] for o in outcomes if o}
    return edges


def explained(edges: Edges, start: str, goal: str) -> bool:
    """Return whether one or two known actions lead from an observation to another."""
    return goal in edges[start] or any(goal in edges[middle] for middle in list(edges[start]))


def kinds_of(study: Path) -> dict[str, str]:
    """Return the kind of each task of the panel."""
    rollout = list(read([str(study / "rollout.jsonl")], "trajectory"))
    shown, executed = edges_of(rollout, False), edges_of(rollout, True)
    kinds = {}
    for record in read([str(study / "panel.jsonl")], "task"):
        with open_env(record["env"]) as env:
            start = env.reset(record["task"]).text
            goal = env.words.holding.format(thing=env.names[env.goal])  # type: ignore[attr-defined]
        known = [explained(edges, start, goal) for edges in (shown, executed)]
        kinds[record["task"]["id"]] = "shown" if known[0] else "executed" if known[1] else "unknown"
    return kinds


def claims_true(episodes: Iterable[dict], edges: Edges) -> dict[bool, list[bool]]:
    """Return whether each claim in thoughts is true, by whether its outcome was executed in the training data."""
    verdicts: dict[bool, list[bool]] = {True: [], False: []}
    env = None
    for episode in episodes:
        if env is None:
            env = open_env(episode["env"])
            env.reset(episode["task"])
            table, names, words = env.table, list(env.names), env.words  # type: ignore[attr-defined]
        for turn in episode["transcript"]:
            for claim in re.findall(r"(\w+ \w+): (Nothing happens|You hold \w+)", turn.get("thought") or ""):
                operation, thing = claim[0].split()
                if operation not in words.operations or thing not in names:
                    continue
                following = table[names.index(thing), words.operations.index(operation)]
                told = names.index(thing) if claim[1] == "Nothing happens" else claim[1].split()[-1]
                name = words.ruined if following < 0 else names[following]
                true = following == told if isinstance(told, int) else name == told and following != names.index(thing)
                here = words.holding.format(thing=thing)
                after = (
                    words.nothing.format(thing=thing)
                    if following == names.index(thing)
                    else words.holding.format(thing=name)
                )
                verdicts[after in edges[here]].append(true)
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--rows", nargs="+", help="the rows to show, the first one to compare with; by default all")
    parser.add_argument("--only", choices=KINDS, help="compare on the tasks of this kind alone")
    parser.add_argument("--new", action="store_true", help="only tasks whose goal no demonstration had")
    parser.add_argument(
        "--new-starts", action="store_true", help="only tasks that begin where no demonstration ever was"
    )
    args = parser.parse_args()
    for study in args.studies:
        show(study, args.rows, args.only, args.new, args.new_starts)


def show(study: Path, rows: list[str] | None, only: str | None, new_goals: bool, new_starts: bool) -> None:
    """Print the table of one study."""
    kinds = kinds_of(study)
    demonstrations = list(read([str(study / "expert.jsonl")], "trajectory"))
    goals = {trajectory["instruction"] for trajectory in demonstrations} if new_goals else set()
    places = (
        {step["observation"] for trajectory in demonstrations for step in trajectory["steps"]} if new_starts else set()
    )
    edges = edges_of(read([str(study / "rollout.jsonl")], "trajectory"), True)
    runs = runs_of(study, kinds, rows)
    if new_goals or new_starts:
        runs = {name: [[e for e in seed if is_new(e, goals, places)] for seed in seeds] for name, seeds in runs.items()}
        asked = {episode["task"]["id"] for seeds in runs.values() for seed in seeds for episode in seed}
        kinds = {task: kind for task, kind in kinds.items() if task in asked}
    chosen = {
        name: [[e for e in seed if only in (None, kinds[e["task"]["id"]])] for seed in seeds]
        for name, seeds in runs.items()
    }
    compared = {row["name"]: row for row in compare(chosen)} if len(runs) > 1 else {}
    counts = ", ".join(f"{list(kinds.values()).count(kind)} {kind}" for kind in KINDS)
    print(f"{study}: {counts}" + (f"; compared on {only} tasks" if only else ""))
    labels = "".join(f"{kind:>9}" for kind in KINDS)
    print(f"{'':22} success{labels}  difference   95 % interval  p (Holm)  exact p  true  by seed")
    for name, seeds in runs.items():
        played = [episode for seed in seeds for episode in seed]
        cells = [f"{name:22} {mean(e['success'] for e in played):7.1%}"]
        for kind in KINDS:
            of_kind = [e["success"] for e in played if kinds[e["task"]["id"]] == kind]
            cells.append(f"{mean(of_kind):9.1%}" if of_kind else f"{'-':>9}")
        row = compared.get(name, {})
        if row.get("difference") is not None:
            interval = f"{100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f}"
            exact = "-" if row.get("p_exact") is None else f"{row['p_exact']:.2g}"
            p = shown_p(row["p_holm"], row["p_holm_bound"])
            cells.append(f"  {100 * row['difference']:+10.1f}  {interval:>14}  {p:>8}  {exact:>7}")
        else:
            cells.append(" " * 47)
        true = claims_true(played, edges)[True]
        cells.append(f"  {mean(true):4.0%}" if true else f"  {'-':>4}")
        by_seed = " ".join(f"{100 * mean(e['success'] for e in seed):.1f}" for seed in seeds)
        print("".join(cells) + "  " + by_seed)


def is_new(episode: dict, goals: set[str], places: set[str]) -> bool:
    """Return whether an episode has neither one of the goals nor begins in one of the places."""
    return episode["instruction"] not in goals and episode["transcript"][0]["observation"] not in places


def runs_of(study: Path, kinds: dict[str, str], rows: list[str] | None) -> dict[str, list[list[dict]]]:
    """Return the episodes of every training run by row, the one to compare with first."""
    runs: dict[str, list[list[dict]]] = defaultdict(list)
    for file in sorted(study.glob("*/*.jsonl")):
        if file.stem.endswith((".act", ".think")) and (rows is None or file.stem in rows):
            episodes = list(read([str(file)], "episode"))
            if len(episodes) == len(kinds):
                runs[file.stem].append(episodes)
            else:
                print(f"{file}: not finished")
    order = rows or sorted(runs, key=lambda name: (name != "il.act", name))
    return {name: runs[name] for name in order if name in runs}


if __name__ == "__main__":
    main()
