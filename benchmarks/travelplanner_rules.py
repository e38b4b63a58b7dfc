"""Compare the rules of `travelplanner` with the evaluation code of a checkout of TravelPlanner, on many plans.

    python benchmarks/travelplanner_rules.py CHECKOUT train.csv
    python benchmarks/travelplanner_rules.py CHECKOUT train.csv --database DIR --plans 5000

The plans are the annotated ones and changes of them: slots that are emptied, removed, taken from another day or another
task, or replaced; days left out or repeated; cities, names, numbers and the marks between them changed; and queries
with another budget, another number of people or other wishes. Every constraint of every plan is judged twice. The
checkout's code needs pandas, tqdm and requests. It is copied to a temporary directory, since it reads its database from
beside itself. It imports gradio for its annotation tool alone, so an empty module stands for it where it is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import random
import shutil
import sys
import tempfile
import types
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

from eexp.envs import open_env
from eexp.envs.worlds.travel.rules import PlanJudge
from eexp.envs.worlds.travel.texts import SLOTS
from eexp.envs.worlds.travelplanner import TravelPlanner

#: The names of the constraints here and there.
NAMES = {
    "Reasonable city route": "is_reasonable_visiting_city",
    "Diverse restaurants": "is_valid_restaurants",
    "Diverse attractions": "is_valid_attractions",
    "Minimum nights stay": "is_valid_accommodation",
    "Non-conflicting transportation": "is_valid_transportation",
    "Within current city": "is_valid_information_in_current_city",
    "Within sandbox": "is_valid_information_in_sandbox",
    "Complete information": "is_not_absent",
    "Cuisine": "valid_cuisine",
    "Room rule": "valid_room_rule",
    "Transportation": "valid_transportation",
    "Room type": "valid_room_type",
    "Budget": "valid_cost",
}
COMMON = list(NAMES)[:8]
RULES = ["smoking", "parties", "children under 10", "visitors", "pets", None]
ROOMS = ["entire room", "private room", "shared room", "not shared room", None]
CUISINES = ["American", "Chinese", "French", "Indian", "Italian", "Mediterranean", "Mexican"]
EDITS = {
    "emptied": lambda value, rng: "-",
    "blank": lambda value, rng: "",
    "shortened": lambda value, rng: value[: rng.randrange(len(value) + 1)],
    "without its end": lambda value, rng: value.rstrip(";").rpartition(",")[0],
    "without a state": lambda value, rng: value.replace("(", " (") if rng.random() < 0.3 else value.partition("(")[0],
    "without its last mark": lambda value, rng: value.removesuffix(";"),
    "lower": lambda value, rng: value.lower(),
    "with a blank": lambda value, rng: f" {value} ",
    "by taxi": lambda value, rng: value.replace("Self-driving", "Taxi").replace("Flight Number:", "Taxi"),
    "by car": lambda value, rng: value.replace("Taxi", "Self-driving").replace("Flight Number: ", "self-driving "),
    "back": lambda value, rng: " to ".join(value.replace("from ", "from ").split(" to ")[::-1]),
    "another number": lambda value, rng: value.replace("F3", "F4").replace("F4", "F3"),
}


def changed(plan: list[dict], others: list[list[dict]], rng: random.Random) -> list[dict]:
    """Return a plan with up to four changes."""
    plan = deepcopy(plan)
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 4])):
        day, slot = rng.choice(plan), rng.choice([*SLOTS, "current_city"])
        draw = rng.random()
        if draw < 0.5 and isinstance(day.get(slot), str):
            day[slot] = EDITS[rng.choice(list(EDITS))](day[slot], rng)
        elif draw < 0.6:
            day.pop(slot, None)
        elif draw < 0.75:
            day[slot] = rng.choice(plan).get(slot, "-")
        elif draw < 0.9:
            day[slot] = rng.choice(rng.choice(others)).get(slot, "-")
        elif draw < 0.95:
            plan[rng.randrange(len(plan))] = deepcopy(rng.choice(plan))
        elif len(plan) > 1:
            plan.pop(rng.randrange(len(plan)))
    return plan


def another_query(query: dict, cost: float, rng: random.Random) -> dict:
    """Return a query with some fields drawn anew."""
    query = deepcopy(query)
    if rng.random() < 0.5:
        query["budget"] = round(cost * rng.choice([0.5, 0.9, 1, 1, 1.1, 2]))
    if rng.random() < 0.3:
        query["people_number"] = rng.randint(1, 9)
    if rng.random() < 0.6:
        query["local_constraint"] = {
            "house rule": rng.choice(RULES),
            "room type": rng.choice(ROOMS),
            "cuisine": rng.choice([None, rng.sample(CUISINES, rng.randint(1, 3))]),
            "transportation": rng.choice([None, "no flight", "no self-driving"]),
        }
    return query


def load_checkout(checkout: Path, database: Path, directory: Path) -> tuple[Any, Any]:
    """Import the evaluation of a checkout; return its functions for the rules of common sense and for the hard ones."""
    for name in ("evaluation", "tools", "utils"):
        shutil.copytree(checkout / name, directory / name)
    (directory / "database").symlink_to(database.resolve())
    with contextlib.suppress(ImportError):
        import gradio  # noqa: F401
    sys.modules.setdefault("gradio", types.ModuleType("gradio"))
    sys.path[:0] = [str(directory), str(directory / "evaluation")]
    os.chdir(directory / "evaluation")
    with contextlib.redirect_stdout(io.StringIO()):
        common = importlib.import_module("commonsense_constraint")
        hard = importlib.import_module("hard_constraint")
    return common.evaluation, hard.evaluation


def their_verdicts(evaluations: tuple[Any, Any], query: dict, plan: list[dict]) -> dict[str, bool | None]:
    """Return the verdicts of the checkout by our names; constraints that do not apply are left out."""
    with contextlib.redirect_stdout(io.StringIO()):
        boxes = evaluations[0](query, plan)
        if boxes["is_not_absent"][0] and boxes["is_valid_information_in_sandbox"][0]:
            hard = evaluations[1](query, plan)
        else:
            wishes = query["local_constraint"]
            keys = {"Cuisine": "cuisine", "Room rule": "house rule", "Transportation": "transportation"}
            keys["Room type"] = "room type"
            hard = {NAMES[name]: (None, None) for name, key in keys.items() if wishes[key]} | {"valid_cost": (None,)}
            return {name: boxes[NAMES[name]][0] for name in COMMON} | {n: None for n in NAMES if NAMES[n] in hard}
    verdicts = {name: boxes[NAMES[name]][0] for name in COMMON}
    applicable = {name: hard[NAMES[name]][0] for name in list(NAMES)[8:]}
    return verdicts | {name: met for name, met in applicable.items() if met is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkout", type=Path, metavar="CHECKOUT")
    parser.add_argument("queries", type=Path, metavar="FILE", help="records with annotated plans")
    parser.add_argument("--database", type=Path, metavar="DIR", help="default: CHECKOUT/database")
    parser.add_argument("--plans", type=int, default=2000, metavar="N", help="default 2000")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    chosen = parser.parse_args()
    database = chosen.database or chosen.checkout / "database"
    env = open_env(f"travelplanner?database={database.resolve()}&queries={chosen.queries.resolve()}")
    assert isinstance(env, TravelPlanner)
    tasks = [query for queries in env._queries.values() for query in queries if query.plan is not None]
    checkout = chosen.checkout.resolve()
    rng, counts = random.Random(chosen.seed), Counter[str]()
    met, differences = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as directory:
        evaluations = load_checkout(checkout, database, Path(directory))
        for number in range(len(tasks) + chosen.plans):
            task = tasks[number] if number < len(tasks) else rng.choice(tasks)
            assert task.plan is not None
            query, plan = task.fields, task.plan
            if number >= len(tasks):
                plan = changed(plan, [other.plan for other in tasks if other.plan], rng)
                if rng.random() < 0.5:
                    cost = PlanJudge(env._data, query, plan).cost()
                    query = another_query(query, cost, rng)
                    plan = task.plan if rng.random() < 0.3 else plan
            ours = {v.constraint: v.met for v in PlanJudge(env._data, query, plan).verdicts()}
            success = all(ours.values())
            counts["plans"] += 1
            counts["plans that pass here"] += success
            if number < len(tasks):
                counts["annotated plans that pass here"] += success
            try:
                theirs = their_verdicts(evaluations, query, plan)
            except Exception as e:  # whatever their code raises where a key is missing or a text has another form
                counts["plans at which their code stops"] += 1
                counts["of these, plans that pass here"] += success
                counts[f"  {type(e).__name__}"] += 1
                continue
            counts["plans judged by both"] += 1
            met.update(name for name, verdict in ours.items() if verdict)
            if ours != theirs:
                counts["plans with a difference"] += 1
                for name in ours.keys() | theirs.keys():
                    if ours.get(name, "absent") != theirs.get(name, "absent"):
                        differences[name] += 1
                        if differences[name] <= 3:
                            print(
                                f"{name}: {ours.get(name, 'absent')} here, {theirs.get(name, 'absent')} there: {plan}"
                            )
        os.chdir("/")
    for name, count in counts.items():
        print(f"{name:34} {count:6}")
    for name in NAMES:
        print(f"  {name:32} met {met[name]:6}   different {differences[name]:4}")


if __name__ == "__main__":
    main()
