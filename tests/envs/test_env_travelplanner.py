"""travelplanner on small files of our own: files, plans, every rule, alternatives, forks.

`benchmarks/travelplanner_rules.py` compares the rules with the benchmark's own code, for which it needs a checkout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from branches import observed
from running import run
from small_worlds import (
    long_plan,
    short_plan,
    travel_queries,
    travelplanner_spec,
    write_csv,
    write_database,
    write_lines,
)

from eexp.envs import open_env
from eexp.envs.worlds.travel.texts import SLOTS, dollars, split_name, without_state
from eexp.envs.worlds.travelplanner import TravelPlanner, parse_plan
from eexp.errors import EexpError, InputError, UsageError

SHORT, LONG = {"id": "train/1", "split": "train"}, {"id": "train/4", "split": "train"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> str:
    return travelplanner_spec(tmp_path_factory.mktemp("travel"))


@pytest.fixture
def env(spec) -> TravelPlanner:
    return open_env(spec)


def with_queries(directory: Path, *records: dict) -> TravelPlanner:
    database = write_database(directory / "database")
    return open_env(f"travelplanner?database={database}&queries={write_csv(directory / 'train.csv', list(records))}")


# -- files and tasks ---------------------------------------------------------------------------------------------------


def test_the_tasks_take_turns_between_levels_and_lengths(env):
    assert env.splits() == ["train", "validation"]
    tasks = list(env.tasks("train"))
    assert [task["id"] for task in tasks] == ["train/1", "train/3", "train/4", "train/2"]
    assert [env.kind_of(task) for task in tasks] == ["easy", "medium", "hard", "easy"]
    assert all(re.fullmatch("[0-9a-f]{16}", task["checksum"]) for task in tasks)
    with pytest.raises(UsageError, match="has no split 'test'; it has: train, validation"):
        list(env.tasks("test"))


def test_queries_may_be_json_lines(tmp_path, spec):
    queries = [{**record, "budget": int(record["budget"])} for record in travel_queries()]
    file = write_lines(tmp_path / "train.jsonl", queries)
    database = write_database(tmp_path / "TravelPlanner" / "database")
    env = open_env(f"travelplanner?database={database.parent}&queries={file}")
    env.reset(SHORT)
    assert env.step(env.expert()).success


def test_a_user_without_data_reads_one_line_that_says_what_to_get(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    get = r"README of https://github.com/OSU-NLP-Group/TravelPlanner links database.zip, and train.csv is in .*osunlp"
    run("expert", "travelplanner").one_error(2, "travelplanner: name your data", "https://github.com/OSU-NLP-Group")
    with pytest.raises(UsageError, match=rf"database=.: no flights/clean_Flights_2022.csv in it; the {get}"):
        open_env("travelplanner?database=.&queries=train.csv")
    write_database(tmp_path / "database")
    with pytest.raises(UsageError, match=rf"queries=train.csv: no such file; the {get}"):
        open_env("travelplanner?database=.&queries=train.csv")
    with pytest.raises(UsageError, match=rf"queries=database: no \*.csv or \*.jsonl in it; the {get}"):
        open_env("travelplanner?database=.&queries=database")
    with pytest.raises(UsageError, match="name the queries, too"):
        open_env("travelplanner?database=database")


def test_options_are_checked(spec):
    with pytest.raises(UsageError, match=r"travelplanner\?alternatives=all: expected a number from 0 to 999"):
        open_env(f"{spec}&alternatives=all")
    with pytest.raises(UsageError, match="has no option 'days'; it has: database, queries, alternatives, cache"):
        open_env(f"{spec}&days=3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": "much"}, "budget: expected a number, got 'much'"),
        ({"local_constraint": "{'house"}, "local_constraint: expected a value as Python writes it"),
        ({"annotated_plan": "[{}, [{'lunch': 3}]]"}, "annotated_plan: day 1: lunch: expected a text, got 3"),
        ({"reference_information": "[1]"}, "reference_information: expected parts"),
        ({"reference_information": ""}, "reference_information: missing"),
        ({"query": ""}, "query: missing"),
    ],
)
def test_a_record_that_is_no_query_is_an_error_with_its_place(tmp_path, changes, message):
    with pytest.raises(InputError, match=rf"train\.csv, record 2: {message}"):
        with_queries(tmp_path, travel_queries()[0], {**travel_queries()[0], **changes})


def test_a_query_without_its_facts_cannot_be_played(tmp_path):
    env = with_queries(tmp_path, {**travel_queries()[0], "budget": "", "local_constraint": ""})
    (task,) = env.tasks("train")
    with pytest.raises(InputError, match="has no budget and no local_constraint, so plans cannot be judged here"):
        env.reset(task)


def test_a_database_without_a_column_is_an_error(tmp_path):
    env_files = write_database(tmp_path / "database")
    (env_files / "attractions" / "attractions.csv").write_text("Name,Place\nZoo,Colby\n")
    with pytest.raises(EexpError, match=r"attractions\.csv: a column is missing: 'City'"):
        open_env(f"travelplanner?database={env_files}&queries={write_csv(tmp_path / 'train.csv', travel_queries())}")


def test_a_record_whose_data_has_changed_is_refused(env, tmp_path):
    task = next(env.tasks("train"))
    changed = with_queries(tmp_path, {**travel_queries()[0], "budget": "800"})
    with pytest.raises(InputError, match=r"\$.task.checksum: the query or the database has changed"):
        changed.reset(task)
    for wrong in ("train/0", "train/5", "train/x", "", None, "dev/1"):
        with pytest.raises(InputError, match="travelplanner has no task"):
            env.reset({"id": wrong})


# -- plans -------------------------------------------------------------------------------------------------------------


def test_the_annotated_plans_succeed(env):
    for task in env.tasks("train"):
        observation = env.reset(task)
        assert "Restaurants in Brookton:\nName  Average Cost" in observation.text
        assert env.instruction().rpartition("\n")[2].startswith("Query: ")
        plan = env.expert()
        assert "\n" not in plan and [day["days"] for day in json.loads(plan)] in ([1, 2, 3], [1, 2, 3, 4, 5])
        end = env.step(plan)
        assert (end.done, end.score, end.success, end.valid) == (True, 1.0, True, True), end.text
        assert env.expert() is None and env.admissible() == []
        over = env.step(plan)
        assert (over.text, over.valid, over.done, over.success) == ("The plan is made.", False, True, True)


def test_a_query_without_a_plan_has_neither_an_expert_nor_a_list(env):
    env.reset(next(env.tasks("validation")))
    assert env.expert() is None and env.admissible() is None
    assert env.step(json.dumps(short_plan())).success


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("", "expected a list of days"),
        ("Day 1: from Ambridge", "expected a list of days"),
        ("[]", "expected a list of days"),
        ("[1]", "day 1: expected an object, got 1"),
        ('[{"lunch": null}]', "day 1: lunch: expected a text, got None"),
        ('[{"lunch": "Old Mill', "expected a list of days"),
        ("[" * 100000, "expected a list of days"),
        ("[__import__('os').getcwd()]", "expected a list of days"),
    ],
)
def test_other_texts_are_not_valid_and_change_nothing(env, action, message):
    observation = env.reset(SHORT)
    before = observed(env, observation)
    refused = env.step(action)
    assert not refused.valid and not refused.done and f"That is no plan: {message}" in refused.text
    assert observed(env, observation) == before


def test_the_forms_of_a_plan(env):
    for text in (str(short_plan()), json.dumps({"plan": short_plan()}), f" {json.dumps(short_plan())}\n"):
        env.reset(SHORT)
        assert parse_plan(text) == short_plan() and env.step(text).success


# -- rules -------------------------------------------------------------------------------------------------------------


def edit(day: int, **slots: str | None) -> Callable[[list[dict]], None]:
    """Return a change of a plan: the slots of a day; None removes one."""

    def change(plan: list[dict]) -> None:
        plan[day - 1].update(slots)
        for slot in [slot for slot, value in slots.items() if value is None]:
            del plan[day - 1][slot]

    return change


def failed(env: TravelPlanner, task: dict, plan: list[dict]) -> dict[str, str]:
    """Return the constraints that a plan does not meet, with their reasons; those that are not judged with ''."""
    env.reset(task)
    observation = env.step(json.dumps(plan))
    head, *lines = observation.text.splitlines()
    reasons = dict(line.split(": ", 1) for line in lines)
    unjudged = reasons.pop("Not judged for that reason", ".").rstrip(".")
    n_met, total = map(int, re.search(r"meets (\d+) of (\d+)", head).groups())
    reasons |= dict.fromkeys(filter(None, unjudged.split(", ")), "")
    assert total - n_met == len(reasons) and observation.score == round(n_met / total, 4)
    assert observation.success == (not reasons)
    return reasons


B = "Brookton"


@pytest.mark.parametrize(
    ("change", "constraint", "reason"),
    [
        (
            edit(2, lunch=f"{B} Old Mill, {B}"),
            "Diverse restaurants",
            f"day 2, lunch: {B} Old Mill, {B} was there before.",
        ),
        (edit(3, attraction=f"{B} Old Bridge, {B};"), "Diverse attractions", f"day 3: {B} Old Bridge, {B} was visited"),
        (
            edit(1, accommodation=f"{B} Quiet Room, {B}"),
            "Minimum nights stay",
            "Brookton Sunny Flat, Brookton is let for 2 nights",
        ),
        (
            edit(3, transportation="Self-driving, from Brookton to Ambridge"),
            "Non-conflicting transportation",
            "Self-driving does not go with Flight.",
        ),
        (edit(2, current_city="Atlantis"), "Reasonable city route", "Brookton is left at once"),
        (
            edit(3, current_city="from Brookton to Dunmore"),
            "Reasonable city route",
            "the trip begins in Ambridge and ends",
        ),
        (edit(1, lunch="Home Kitchen, Ambridge (Westland)"), None, ""),
        (
            edit(3, lunch="Colby Old Mill, Colby"),
            "Within current city",
            "day 3, lunch: Colby Old Mill, Colby is not in",
        ),
        (
            edit(2, lunch="Grill of Dreams, Brookton"),
            "Within sandbox",
            "day 2, lunch: Grill of Dreams, Brookton is not in",
        ),
        (edit(2, dinner="Nan, Brookton"), "Within sandbox", "day 2, dinner: Nan, Brookton is not in the data."),
        (edit(3, attraction="Moon, Brookton;"), "Within sandbox", "day 3, attraction: Moon, Brookton; is not in"),
        (edit(3, attraction="Moon, Brookton"), None, "what has no ; after it is not looked at"),
        (
            edit(1, transportation="Flight Number: F0000003, from Ambridge to Brookton"),
            "Within sandbox",
            "day 1, transportation: Flight Number: F0000003",
        ),
        (
            edit(1, transportation="Flight Number: F0000009, from Ambridge to Brookton"),
            "Within sandbox",
            "day 1, transportation: Flight Number: F0000009",
        ),
        (edit(2, lunch="-"), "Complete information", "day 2: a meal is missing."),
        (edit(2, attraction="-"), "Complete information", "day 2: no attraction."),
        (edit(2, lunch=None), "Complete information", "day 2: nothing about lunch."),
        (edit(3, transportation="-"), "Complete information", "day 3: no transportation."),
        (lambda plan: plan.pop(), "Complete information", "the plan has 2 of 3 days."),
        (edit(2, lunch=f"{B} Harbour, Fish and More, {B}"), None, ""),
        (edit(1, transportation="Flight Number: F0000002, from Ambridge to Brookton"), None, ""),
    ],
)
def test_a_rule_of_common_sense(env, change, constraint, reason):
    plan = short_plan()
    change(plan)
    reasons = failed(env, SHORT, plan)
    if constraint is None:
        assert not reasons
    else:
        assert reasons[constraint].startswith(reason)
        unjudged = bool({"Within sandbox", "Complete information"} & reasons.keys())
        assert ("Budget" in reasons) == unjudged and reasons.get("Budget", "") == ""


@pytest.mark.parametrize(
    ("change", "constraint", "reason"),
    [
        (edit(3, lunch="Colby Harbour, Fish and More, Colby"), None, ""),
        (edit(3, transportation="Self-driving, from Brookton to Colby"), "Transportation", "day 3: Self-driving, from"),
        (
            edit(3, transportation="Self-driving, from Brookton to Colby"),
            "Non-conflicting transportation",
            "Self-driving",
        ),
        (
            edit(5, transportation="Taxi, from Colby to Ambridge"),
            "Within sandbox",
            "day 5, transportation: Taxi, from Colby to Ambridge is not in the data",
        ),
        (edit(2, current_city="from Brookton to Dunmore"), "Reasonable city route", "Dunmore is left at once"),
        (
            edit(2, current_city="from Brookton to Dunmore"),
            "Complete information",
            "the cities visited are 3, and not 2",
        ),
    ],
)
def test_a_rule_in_a_long_trip(env, change, constraint, reason):
    plan = long_plan()
    change(plan)
    reasons = failed(env, LONG, plan)
    assert not reasons if constraint is None else reasons[constraint].startswith(reason)


def test_the_hard_rules(env):
    plan = long_plan()
    for day in plan[2:4]:
        day["accommodation"] = "Colby Bunk House, Colby(Eastland)"
    assert failed(env, LONG, plan) == {
        "Room rule": "day 3: Colby Bunk House, Colby(Eastland) has the rule: No visitors.",
        "Room type": "day 3: Colby Bunk House, Colby(Eastland) is a shared room, and the wish is: entire room.",
    }
    plan = long_plan()
    plan[1]["dinner"] = "Brookton Red Lantern, Brookton(Eastland)"
    assert failed(env, LONG, plan) == {"Cuisine": "no meal is French."}
    plan = short_plan()
    plan[1]["lunch"] = "Brookton Harbour, Fish and More, Brookton"
    env.reset({"id": "train/2"})
    assert env.step(json.dumps(plan)).text.endswith("Budget: the plan costs $664 and the budget is $660.")


def test_a_name_in_a_plan():
    assert split_name("Harbour, Fish and More, Colby(Eastland)") == ("Harbour, Fish and More", "Colby")
    assert split_name("Colby") == split_name("Colby,") == ("-", "-")
    assert without_state("Colby (East) x") == "Colby " and without_state("Colby(") == "Colby("
    assert dollars(1234567.0) == "$1,234,567" and dollars(20.5) == "$20.50"


# -- alternatives ------------------------------------------------------------------------------------------------------


def differences(plan: list[dict], other: list[dict]) -> set[str]:
    return {slot for day, changed in zip(plan, other) for slot in SLOTS if day[slot] != changed[slot]}


@pytest.mark.parametrize("task", [SHORT, LONG], ids=["short", "long"])
def test_an_alternative_differs_in_one_slot(env, task):
    env.reset(task)
    expert, *others = listed = env.admissible()
    assert expert == env.expert() and len(set(listed)) == len(listed) and listed == env.admissible()
    plan = json.loads(expert)
    changed_slots = [differences(plan, json.loads(other)) for other in others]
    assert all(len(slots) == 1 for slots in changed_slots) and set().union(*changed_slots) == set(SLOTS)
    scores = set()
    for action in others:
        env.reset(task)
        observation = env.step(action)
        assert observation.valid and observation.done
        scores.add(observation.success)
        assert "is not in the data" not in observation.text
    assert scores == {True, False}, "some are as good as the expert's plan, and some are not"


def test_an_accommodation_is_changed_for_the_whole_stay(env):
    env.reset(SHORT)
    plan, *others = map(json.loads, env.admissible())
    stays = [
        [day["accommodation"] for day in other] for other in others if differences(plan, other) == {"accommodation"}
    ]
    names = ["Bunk House", "Quiet Room", "Loft over the Square"]
    assert stays == [[f"Brookton {name}, Brookton"] * 2 + ["-"] for name in names] + [["-"] * 3]


def test_the_number_of_alternatives_is_an_option(spec):
    sizes = []
    for number in (0, 1, 3, 99):
        env = open_env(f"{spec}&alternatives={number}")
        env.reset(SHORT)
        sizes.append(len(env.admissible()))
        assert sizes[-1] <= 1 + (number + 1) * 12, "two flights, three attractions, six meals and one stay"
    assert sizes == sorted(sizes) and sizes[0] == 1 + 12


def test_flights_are_those_of_the_day(env):
    env.reset(LONG)
    plan, *others = map(json.loads, env.admissible())
    ways = {
        other[place]["transportation"]
        for other in others
        for place in (0, 4)
        if other[place]["transportation"] != plan[place]["transportation"]
    }
    assert ways == {
        "-",
        "Self-driving, from Ambridge to Brookton(Eastland), duration: 5 hours 2 mins, distance: 512 km, cost: 25",
        "Taxi, from Ambridge to Brookton(Eastland), duration: 5 hours 2 mins, distance: 512 km, cost: 512",
        "Flight Number: F0000001, from Ambridge to Brookton(Eastland), Departure Time: 06:10, Arrival Time: 08:00",
        "Flight Number: F0000006, from Colby(Eastland) to Ambridge, Departure Time: 07:00, Arrival Time: 09:00",
    }


def test_a_fork_goes_its_own_way(env):
    observation = env.reset(SHORT)
    before = observed(env, observation)
    assert env.fork().step("[{}]").success is False
    assert observed(env, observation) == before
    assert env.fork().step(env.expert()) == env.step(env.expert())


# -- stages ------------------------------------------------------------------------------------------------------------


def test_the_check_passes(spec):
    result = run("env", "check", spec, "-n", "3").ok()
    assert b"FAIL" not in result.out and b"reaches the goal in 3 of 3 tasks; for 1 it knows no action" in result.out


def test_the_pipe(spec):
    expert = run("expert", spec).ok()
    branched = run("branch", "--from", "admissible", "-k", "3", stdin=expert.out).ok()
    rollout = run("rollout", "-j", "1", "--env", spec, stdin=branched.out).ok()
    outcomes = [a["outcome"] for record in rollout.records for a in record["steps"][0]["alternatives"]]
    assert len(outcomes) == 12 and all(outcome["done"] and outcome["valid"] for outcome in outcomes)
    assert len(run("world-model-data", "--max-repeats", "all", stdin=rollout.out).ok().records) == 16
