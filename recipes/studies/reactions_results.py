"""Print the table of a study on `reactions`: success by arm, and where only executed alternatives explain the way.

    python recipes/studies/reactions_results.py studies/reactions-0 [studies/reactions-1 ...]

Test tasks are of three kinds: the demonstrations contain a way (shown), only they and the executed alternatives
together do (executed), or nothing does (unknown). Rows are arms, played without (act) or with a thought (think). The
difference is to imitation, played without a thought, with its interval over training seeds and tasks
(docs/evidence.md). "Knows" is the share of what its thoughts say an action leads to that is true: of outcomes that were
executed in the training data, and of all others.
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
from eexp.jsonl import read
from eexp.records import expert_outcome

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
    parser.add_argument("--only", choices=KINDS, help="compare on the tasks of this kind alone")
    args = parser.parse_args()
    for study in args.studies:
        kinds, rollout = kinds_of(study), list(read([str(study / "rollout.jsonl")], "trajectory"))
        runs: dict[str, list[list[dict]]] = defaultdict(list)
        for file in sorted(study.glob("*/*.jsonl")):
            arm, _, played = file.stem.rpartition(".")
            if played in ("act", "think"):
                episodes = list(read([str(file)], "episode"))
                if len(episodes) == len(kinds):
                    runs[f"{arm}, {played}"].append(episodes)
                else:
                    print(f"{file}: not finished")
        print(study, ", ".join(f"{list(kinds.values()).count(kind)} {kind}" for kind in KINDS))
        chosen = {
            name: [[e for e in seed if args.only in (None, kinds[e["task"]["id"]])] for seed in seeds]
            for name, seeds in runs.items()
        }
        compared = {}
        if len(runs) > 1 and "il, act" in runs:
            order = ["il, act", *(name for name in chosen if name != "il, act")]
            compared = {row["name"]: row for row in compare({name: chosen[name] for name in order})}
        for name, seeds in runs.items():
            cells = [f"{name:24}", f"{mean(e['success'] for seed in seeds for e in seed):6.1%}"]
            for kind in KINDS:
                of_kind = [e["success"] for seed in seeds for e in seed if kinds[e["task"]["id"]] == kind]
                cells.append(f"{kind} {mean(of_kind) if of_kind else 0:6.1%}")
            verdicts = claims_true((e for seed in seeds for e in seed), edges_of(rollout, True))
            if any(verdicts.values()):
                told = [f"{mean(verdicts[known]):.0%}" if verdicts[known] else "-" for known in (True, False)]
                cells.append(f"knows {told[0]} of executed, {told[1]} of other outcomes")
            by_seed = " ".join(f"{mean(e['success'] for e in seed):.1%}" for seed in seeds)
            row = compared.get(name, {})
            if row.get("difference") is not None:
                low, high = row["difference_low"], row["difference_high"]
                cells.append(f"{row['difference']:+.1%} ({low:+.1%} to {high:+.1%})")
            print("  ".join(cells), f" [{by_seed}]")


if __name__ == "__main__":
    main()
