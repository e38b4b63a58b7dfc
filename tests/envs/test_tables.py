"""Databases that cost nothing to copy: they equal a deep copy, whatever is done to it."""

from __future__ import annotations

import json
import random
from copy import deepcopy

import pytest

from eexp.envs.worlds.tables import Database

TABLES = {
    "orders": {"1": {"items": [{"n": 1}, {"n": 2}], "sum": 3.0}, "2": {"items": [], "sum": 0}, "3": {"items": [{}]}},
    "users": {"a": {"orders": ["1"]}, "b": {"orders": []}},
    "log": ["begun"],
    "next": 4,
}


def plain(database: Database) -> dict:
    return json.loads(json.dumps(database._tables))


def append(t):
    t["orders"]["1"]["items"].append({"n": 9})


def put(t):
    t["orders"]["4"] = {"items": [{"n": t["next"]}]}
    t["next"] += 1


def take(t):
    return t["orders"].pop("2", "none"), t["orders"].pop("7", None)


def take_last(t):
    return t["users"].popitem()


def delete(t):
    del t["users"]["a"]


def nested(t):
    t["orders"]["1"]["items"][0]["n"] += 1


def through_values(t):
    for order in t["orders"].values():
        order["items"] += [{"n": 0}]
    t["log"].append("all")


def through_items(t):
    for key, order in t["orders"].items():
        order["key"] = key


def through_get(t):
    t["orders"].get("3", {})["seen"] = True
    t["orders"].get("9", {})["seen"] = True


def through_setdefault(t):
    t["users"].setdefault("a", {})["seen"] = True
    t["users"].setdefault("c", {})["seen"] = True


def through_a_copy(t):
    t["orders"] = t["orders"].copy()
    t["orders"]["1"]["sum"] = 1


def through_a_dict(t):
    dict(t["users"])["b"]["orders"].append("3")


def through_a_deep_copy(t):
    t["orders"] = deepcopy(t["orders"])
    t["orders"]["1"]["items"].clear()


def through_a_union(t):
    (t["users"] | {})["b"]["name"] = "B"


def through_json(t):
    t["users"] = json.loads(json.dumps(t["users"]))


def sort(t):
    t["orders"]["1"]["items"].sort(key=lambda item: -item["n"])
    t["orders"]["1"]["items"].reverse()


def shuffle(t):
    random.Random(0).shuffle(t["orders"]["1"]["items"])


def another_table(t):
    t["more"] = {"x": {"y": [1]}}


def clear(t):
    t["users"].clear()
    t["orders"].update({"8": {}})


WRITES = [f for f in list(globals().values()) if getattr(f, "__code__", None) and f.__code__.co_varnames[:1] == ("t",)]


@pytest.mark.parametrize("write", WRITES, ids=lambda f: f.__name__)
def test_a_write_makes_a_new_database_and_leaves_the_old_one(write):
    database = Database(TABLES)
    assert database.read(write) == (False, None)
    after, answer = database.write(write)
    tables = deepcopy(TABLES)
    assert answer == write(tables) and plain(after) == tables and plain(database) == TABLES
    assert not after.equals(database) or tables == TABLES
    assert after.equals(Database(tables)) and after.read(lambda t: json.dumps(t)) == (True, json.dumps(tables))


def test_many_writes_along_many_branches_equal_those_of_deep_copies():
    rng, states = random.Random(0), [(Database(TABLES), TABLES)]
    for _ in range(1500):
        database, tables = rng.choice(states)
        write, expected = rng.choice(WRITES), deepcopy(tables)
        try:
            answer, error = write(expected), None
        except (KeyError, IndexError, AttributeError, TypeError) as e:
            error = type(e)
        if error:
            with pytest.raises(error):
                database.write(write)
        else:
            after, ours = database.write(write)
            assert ours == answer and plain(after) == json.loads(json.dumps(expected))
            states.append((after, expected))
        assert plain(database) == json.loads(json.dumps(tables))
        one, other = rng.choice(states), rng.choice(states)
        assert one[0].equals(other[0]) == (one[1] == other[1])


def test_reading_copies_nothing_and_records_that_are_not_written_are_shared():
    database = Database(TABLES)
    assert database.read(lambda t: sum(o.get("sum", 0) for o in t["orders"].values())) == (True, 3.0)
    assert database.read(lambda t: t["users"]["a"].copy() | {"x": 1})[1] == {"orders": ["1"], "x": 1}
    after, _ = database.write(append)
    assert after["users"] is database["users"] and after["orders"]["2"] is database["orders"]["2"]
    assert after["orders"]["1"] is not database["orders"]["1"]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, 2], [2, 1], False),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 0.0}, {"a": -0.0}, False),
        ({"a": None}, {}, False),
        ({"a": []}, {"a": {}}, False),
        ({"a": float("nan")}, {"a": float("nan")}, True),
    ],
)
def test_values_are_equal_if_their_texts_are(one, other, equal):
    assert Database({"t": one}).equals(Database({"t": other})) == equal


def test_an_exception_passes_and_nothing_has_changed():
    def fail(t):
        t["next"] = 0
        raise ValueError("no")

    database = Database(TABLES)
    with pytest.raises(ValueError):
        database.write(fail)
    assert plain(database) == TABLES


def test_a_handler_of_exceptions_does_not_hide_a_write():
    def hide(t):
        try:
            t["next"] = 5
        except Exception:
            return "hidden"
        return t["next"]

    assert Database(TABLES).read(hide) == (False, None)
    assert Database(TABLES).write(hide)[1] == 5
