"""Make a few ALFWorld games in the layout of the real data, for tests and benchmarks; users download the real data.

    python recipes/alfworld/make_games.py data            # 7 games with 2 to 7 places
    python recipes/alfworld/make_games.py data --large    # 6 games with 14 or 15, where the real ones have dozens

A game is a kitchen or a study in PDDL, with the package's own domain and grammar, so that it plays like the real ones.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path

#: receptacle -> whether it can be opened
RECEPTACLES = {
    "Cabinet": True,
    "CounterTop": False,
    "Fridge": True,
    "Microwave": True,
    "SinkBasin": False,
    "DiningTable": False,
    "Desk": False,
    "Drawer": True,
    "Shelf": False,
    "Bed": False,
}
#: object -> the actions it allows besides picking it up
OBJECTS = {
    "Apple": "cleanable heatable coolable",
    "Mug": "cleanable heatable coolable",
    "Plate": "cleanable coolable",
    "Fork": "cleanable",
    "AlarmClock": "",
    "Book": "",
    "Pen": "",
    "CD": "",
    "DeskLamp": "toggleable",
}
KITCHEN = ["Cabinet", "Cabinet", "CounterTop", "Fridge", "Microwave", "SinkBasin", "DiningTable"]
STUDY = ["Desk", "Drawer", "Drawer", "Drawer", "Shelf", "Bed"]

PUT = "(inReceptacle ?o ?r) (objectType ?o {object}Type) (receptacleType ?r {to}Type)"
GOALS = {
    "pick_and_place_simple": ("put a {object} in {to}", PUT),
    "pick_clean_then_place_in_recep": ("put a clean {object} in {to}", f"{PUT} (isClean ?o)"),
    "pick_heat_then_place_in_recep": ("heat some {object} and put it in {to}", f"{PUT} (isHot ?o)"),
    "pick_cool_then_place_in_recep": ("cool some {object} and put it in {to}", f"{PUT} (isCool ?o)"),
    "pick_two_obj_and_place": (
        "put two {object} in {to}",
        f"{PUT} (exists (?p - object) (and (not (= ?o ?p)) (objectType ?p {{object}}Type) (inReceptacle ?p ?r)))",
    ),
    "look_at_obj_in_light": (
        "look at {object} under the {to}",
        "(objectType ?o {object}Type) (holds agent1 ?o) (exists (?t - object ?l - location) (and (isToggled ?t) "
        "(objectType ?t {to}Type) (objectAtLocation ?t ?l) (atLocation agent1 ?l)))",
    ),
}

#: split -> (type of task, object, where to, places of the room, what is where: object and number of the place)
GAMES = {
    "train": [
        ("pick_and_place_simple", "AlarmClock", "Desk", ["Desk", "Drawer"], [("AlarmClock", 1)]),
        ("pick_and_place_simple", "Book", "Bed", STUDY, [("Book", 2), ("Pen", 0), ("CD", 3), ("CD", 4)]),
        ("pick_clean_then_place_in_recep", "Fork", "DiningTable", KITCHEN, [("Fork", 1), ("Apple", 2), ("Mug", 6)]),
        ("pick_heat_then_place_in_recep", "Apple", "Fridge", KITCHEN, [("Apple", 0), ("Mug", 2), ("Mug", 6)]),
        ("pick_two_obj_and_place", "Pen", "Desk", STUDY, [("Pen", 1), ("Pen", 3), ("Book", 0), ("CD", 3)]),
    ],
    "valid_seen": [("pick_cool_then_place_in_recep", "Plate", "CounterTop", KITCHEN, [("Plate", 6), ("Mug", 1)])],
    "valid_unseen": [("look_at_obj_in_light", "CD", "DeskLamp", STUDY, [("DeskLamp", 0), ("CD", 2), ("Book", 4)])],
}

LARGE_KITCHEN = [
    *["Cabinet"] * 6,
    *["Drawer"] * 3,
    "CounterTop",
    "CounterTop",
    "Fridge",
    "Microwave",
    "SinkBasin",
    "DiningTable",
]
LARGE_STUDY = ["Desk", *["Drawer"] * 8, *["Shelf"] * 4, "Bed"]
_DISHES = [("Mug", 2), ("Fork", 7), ("Plate", 4), ("Mug", 10), ("Apple", 14)]
_PAPERS = [("Book", 0), ("CD", 3), ("CD", 11), ("AlarmClock", 13)]
LARGE_GAMES = {
    "train": [
        ("pick_clean_then_place_in_recep", "Plate", "CounterTop", LARGE_KITCHEN, _DISHES),
        ("pick_two_obj_and_place", "Pen", "Desk", LARGE_STUDY, [("Pen", 6), ("Pen", 10), *_PAPERS]),
        ("pick_heat_then_place_in_recep", "Apple", "Fridge", LARGE_KITCHEN, [("Apple", 5), *_DISHES[:4]]),
        ("look_at_obj_in_light", "Pen", "DeskLamp", LARGE_STUDY, [("DeskLamp", 0), ("Pen", 12), *_PAPERS]),
        ("pick_cool_then_place_in_recep", "Mug", "Cabinet", LARGE_KITCHEN, _DISHES[1:]),
        ("pick_two_obj_and_place", "CD", "Bed", LARGE_STUDY, [("Pen", 6), *_PAPERS]),
    ],
}


def make(directory: Path, chosen: dict[str, list[tuple]] = GAMES) -> Path:
    """Write the chosen games under directory/json_2.1.1; return `directory`."""
    for split, games in chosen.items():
        for number, (kind, thing, to, places, contents) in enumerate(games):
            task = f"{kind}-{thing}-None-{to}-{number + 1}"
            trial = directory / "json_2.1.1" / split / task / f"trial_T2019{number:04}"
            trial.mkdir(parents=True, exist_ok=True)
            lamp = kind == "look_at_obj_in_light"
            parameters = {
                "object_target": thing,
                "parent_target": "" if lamp else to,
                "mrecep_target": "",
                "toggle_target": to if lamp else "",
                "object_sliced": False,
            }
            information = {"task_type": kind, "pddl_params": parameters, "task_id": trial.name}
            (trial / "traj_data.json").write_text(json.dumps(information))
            (trial / "game.tw-pddl").write_text(json.dumps(game(kind, thing, to, places, contents)))
    return directory


def game(kind: str, thing: str, to: str, places: list[str], contents: list[tuple[str, int]]) -> dict:
    """Return the contents of game.tw-pddl."""
    data = files("alfworld") / "data"
    sentence, goal = (text.format(object=thing, to=to) for text in GOALS[kind])
    return {
        "pddl_domain": (data / "alfred.pddl").read_text(),
        "grammar": (data / "alfred.twl2").read_text().replace("UNKNOWN GOAL", sentence.lower()),
        "pddl_problem": problem(places, contents, goal),
        "solvable": True,
    }


def problem(places: list[str], contents: list[tuple[str, int]], goal: str) -> str:
    where = [f"{place}_bar__plus_{i:02}_dot_50" for i, place in enumerate(places)]
    where = [f"{name.replace('SinkBasin', 'Sink', 1)}_bar_SinkBasin" if "SinkBasin" in name else name for name in where]
    things = [(f"{name}_bar__minus_{i:02}_dot_25", name, place) for i, (name, place) in enumerate(contents)]
    objects = ["agent1 - agent", "loc_start - location"]
    kinds = sorted({name for name, _ in contents} | {"Knife", "ButterKnife"})  # the domain speaks of those two
    objects += [f"{place}Type - rtype" for place in sorted({*places, "SinkBasin", "Microwave", "Fridge"})]
    objects += [f"{name}Type - otype" for name in kinds]
    facts = ["(= (total-cost) 0)", "(atLocation agent1 loc_start)"]
    facts += [f"(canContain {place}Type {name}Type)" for place in sorted(set(places)) for name in kinds]
    for i, (place, kind) in enumerate(zip(where, places)):
        objects += [f"{place} - receptacle", f"loc_{i} - location"]
        facts += [f"(receptacleType {place} {kind}Type)", f"(receptacleAtLocation {place} loc_{i})"]
        facts += [f"(openable {place})"] if RECEPTACLES[kind] else []
    for thing, name, i in things:
        objects.append(f"{thing} - object")
        facts += [f"(objectType {thing} {name}Type)", f"(inReceptacle {thing} {where[i]})"]
        facts += [f"(objectAtLocation {thing} loc_{i})"] + [f"({able} {thing})" for able in OBJECTS[name].split()]
        facts += [] if name == "DeskLamp" else [f"(pickupable {thing})"]
    return (
        f"(define (problem room) (:domain alfred)\n(:objects\n{_lines(objects)})\n(:init\n{_lines(facts)})\n"
        f"(:goal (exists (?r - receptacle ?o - object) (and {goal})))\n)"
    )


def _lines(parts: list[str]) -> str:
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--large", action="store_true", help="games with more places")
    arguments = parser.parse_args()
    make(arguments.directory, LARGE_GAMES if arguments.large else GAMES)
