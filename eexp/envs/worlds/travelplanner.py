"""`travelplanner`: trips that are planned in one action, from all information that is needed (Xie et al. 2024).

This is the benchmark's sole-planning mode. The instruction is the query, the only observation its reference
information, and the action the whole plan, as JSON on one line, which is judged by the rules in
eexp/envs/worlds/travel. docs/environments/travelplanner.md has the data, the keys of a plan, the options, and what the
admissible actions are.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import re
import sys
import warnings
from collections.abc import Iterator
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import option_error
from eexp.envs.worlds.checksums import refuse_changed
from eexp.envs.worlds.databases import open_database
from eexp.envs.worlds.travel.database import FILES, TravelData, make_database
from eexp.envs.worlds.travel.rules import Day, PlanJudge
from eexp.envs.worlds.travel.texts import (
    MEALS,
    SLOTS,
    attractions_of,
    dollars,
    route,
    split_name,
    vehicle_of,
    without_state,
)
from eexp.errors import EexpError, InputError, UsageError, short
from eexp.records.jsonl import loads

DATABASE = "travelplanner-1"  # part of the name of the database; changed whenever it is made in another way
DOWNLOAD = (
    "the README of https://github.com/OSU-NLP-Group/TravelPlanner links database.zip, and train.csv is in the dataset "
    "https://huggingface.co/datasets/osunlp/TravelPlanner"
)
HOW = (
    "Plan the trip that is asked for, with names and numbers from the reference information. The action is the whole "
    "plan as JSON on one line: a list with an object for each day, with the keys days (the number of the day), "
    "current_city, transportation, breakfast, attraction, lunch, dinner and accommodation. On a day of travel the "
    "current city is 'from A to B'. Restaurants, accommodations and attractions are written 'Name, City', each "
    "attraction with ';' after it. Transportation is written 'Flight Number: F0123456, from A to B, Departure Time: "
    "05:38, Arrival Time: 07:46', or 'Self-driving, from A to B', or 'Taxi, from A to B'. What is not needed is '-'."
)


@dataclass(frozen=True)
class TravelQuery:
    """One record of the dataset."""

    fields: dict[str, Any]  # what the rules need to know of it: `org`, `dest`, `days`, `people_number` and so on
    text: str  # the query in words
    dates: tuple[str, ...]  # of every day, as far as the record has them
    reference: str  # the reference information
    plan: list[Day] | None  # the annotated plan; None where the record has none
    level: str  # easy, medium or hard
    missing: tuple[str, ...]  # the fields without which a plan cannot be judged
    checksum: str


class TravelPlanner(Environment):
    """TravelPlanner, sole planning: needs its data. docs/environments/travelplanner.md lists the options."""

    spec = "travelplanner"
    light = True
    max_steps = 1
    record_options = frozenset({"alternatives"})

    def __init__(self, database: str = "", queries: str = "", alternatives: str = "3", cache: str = ""):
        if not re.fullmatch("[0-9]{1,3}", alternatives):
            raise option_error("travelplanner", "alternatives", alternatives, "expected a number from 0 to 999")
        self._n_alternatives = int(alternatives)
        directory, files = _database_directory(database), _query_files(queries)
        self._queries = _read_queries(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
        sources, make = [directory / name for name in FILES.values()], partial(make_database, directory=directory)
        connection, self._content = open_database(DATABASE, sources, make, cache)
        self._data = TravelData(connection)
        self._query: TravelQuery | None = None
        self._end: Observation | None = None

    # -- tasks ---------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        """Return the names of the files, `train` first."""
        return sorted(self._queries, key=lambda split: split != "train")

    def tasks(self, split: str) -> Iterator[dict]:
        """Yield the first task of every level and length, then the second of each, and so on."""
        self.check_split(split)
        groups: dict[tuple[str, int], list[int]] = {}
        for number, query in enumerate(self._queries[split], 1):
            groups.setdefault((query.level, query.fields.get("days", 0)), []).append(number)
        for number in filter(None, chain.from_iterable(zip_longest(*groups.values()))):
            query = self._queries[split][number - 1]
            yield {"id": f"{split}/{number}", "split": split, "checksum": self._checksum(query)}

    def kind_of(self, task: dict) -> str | None:
        """Return the level of the query: easy, medium or hard."""
        return self._find(task).level or None

    def _find(self, task: dict) -> TravelQuery:
        split, _, number = str(task.get("id", "")).partition("/")
        queries = self._queries.get(split, [])
        if not re.fullmatch("[1-9][0-9]{0,8}", number) or int(number) > len(queries):
            raise InputError(f"travelplanner has no task {task.get('id')!r} in its queries", "$.task.id")
        return queries[int(number) - 1]

    def _checksum(self, query: TravelQuery) -> str:
        return hashlib.sha256(f"{self._content} {query.checksum}".encode()).hexdigest()[:16]

    def reset(self, task: dict) -> Observation:
        """Start a task. Raises InputError if its data is not that of the record, or says too little to judge a plan."""
        query = self._find(task)
        refuse_changed(task, self._checksum(query), "the query or the database has")
        if query.missing:
            raise InputError(
                f"{task['id']} has no {' and no '.join(query.missing)}, so plans cannot be judged here; those of the "
                "test set are judged by the benchmark's leaderboard",
                "$.task.id",
            )
        self._query, self._end = query, None
        return Observation(query.reference, score=0.0)

    def _asked(self) -> TravelQuery:
        assert self._query is not None, "reset comes first"
        return self._query

    def instruction(self) -> str:
        return f"{HOW}\nQuery: {self._asked().text}"

    # -- acting --------------------------------------------------------------------------------------------------

    def step(self, action: str) -> Observation:
        if self._end is not None:
            return Observation("The plan is made.", True, self._end.score, valid=False, success=self._end.success)
        try:
            plan = parse_plan(action)
        except ValueError as e:
            return Observation(f"That is no plan: {e}", score=0.0, valid=False)
        self._end = self._judged(plan)
        return self._end

    def _judged(self, plan: list[Day]) -> Observation:
        judge = PlanJudge(self._data, self._asked().fields, plan)
        verdicts = judge.verdicts()
        n_met = sum(verdict.met is True for verdict in verdicts)
        lines = [f"The plan costs {dollars(judge.cost())} and meets {n_met} of {len(verdicts)} constraints."]
        lines += [f"{v.constraint}: {v.reason}." for v in verdicts if v.met is False]
        unjudged = [v.constraint for v in verdicts if v.met is None]
        lines += [f"Not judged for that reason: {', '.join(unjudged)}."] if unjudged else []
        score = round(n_met / len(verdicts), 4)
        return Observation("\n".join(lines), True, score, success=n_met == len(verdicts))

    def expert(self) -> str | None:
        """Return the annotated plan; None where the record has none, or the episode is over."""
        plan = self._asked().plan
        return None if plan is None or self._end is not None else _action(plan)

    def admissible(self) -> list[str] | None:
        """Return the annotated plan and its changes in one slot; None where the record has no plan."""
        query = self._asked()
        if query.plan is None or self._end is not None:
            return None if query.plan is None else []
        plans = chain([query.plan], self._changed_plans(query, query.plan))
        return list(dict.fromkeys(_action(plan) for plan in plans))

    def fork(self) -> TravelPlanner:
        return copy(self)

    # -- alternatives --------------------------------------------------------------------------------------------

    def _changed_plans(self, query: TravelQuery, plan: list[Day]) -> Iterator[list[Day]]:
        """Yield plans that differ from the given one in a slot: day by day, slot by slot, the empty slot last."""
        for place, day in enumerate(plan):
            for slot in SLOTS:
                value = day.get(slot, "-")
                if value in ("", "-") or (slot == "accommodation" and _stays_on(plan, place)):
                    continue
                nights = _nights(plan, place) if slot == "accommodation" else 1
                others = [other for other in self._others(query, place, slot, value) if other != value]
                for other in [*_spread(others, self._n_alternatives), "-"]:
                    changed = deepcopy(plan)
                    for number in range(place, place + nights):
                        changed[number][slot] = other
                    yield changed

    def _others(self, query: TravelQuery, place: int, slot: str, value: str) -> list[str]:
        """Return other values for a slot of a day, from the reference information, the cheapest first."""
        if slot == "transportation":
            return self._other_ways(query, place, value)
        rest = ""
        if slot == "attraction":
            first, *more = attractions_of(value) or [value]
            value, rest = first, ";" + "".join(f"{attraction};" for attraction in more)
        _, city = split_name(value)
        label = value.rpartition(",")[2].strip()  # the city as the plan writes it
        if slot in MEALS:
            names = [r.name for r in sorted(self._data.restaurants(city), key=lambda r: r.cost)]
        elif slot == "accommodation":
            names = [a.name for a in sorted(self._data.accommodations(city), key=lambda a: a.price)]
        else:
            names = self._data.attractions(city)
        return [f"{name}, {label}{rest}" for name in names if name in query.reference]

    def _other_ways(self, query: TravelQuery, place: int, value: str) -> list[str]:
        """Return other ways between the two cities of a day, as the annotated plans write them."""
        pair = route(value)
        if pair is None:
            return []
        origin, destination = (without_state(city) for city in pair)
        way = f"from {pair[0]} to {pair[1].rstrip()}"
        ways: list[tuple[float, str]] = []
        for vehicle in ("Self-driving", "Taxi"):
            drive = self._data.drive(origin, destination, vehicle)
            if drive is not None and vehicle != vehicle_of(value):
                facts = f"duration: {drive.duration}, distance: {drive.distance}, cost: {drive.cost}"
                ways.append((drive.cost, f"{vehicle}, {way}, {facts}"))
        date = query.dates[place] if place < len(query.dates) else ""
        for flight in self._data.flights(origin, destination, date):
            times = f"Departure Time: {flight.departure}, Arrival Time: {flight.arrival}"
            if flight.number in query.reference and flight.number not in value:
                ways.append((flight.price, f"Flight Number: {flight.number}, {way}, {times}"))
        return [text for _, text in sorted(ways)]


def parse_plan(text: str) -> list[Day]:
    """Parse a plan, written as JSON or as a Python literal.

    Raises:
        ValueError: It is no list of days whose slots are texts; the message says what is wrong.
    """
    value = _literal(text)
    if isinstance(value, dict) and "plan" in value:
        value = value["plan"]
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of days as JSON, on one line.")
    for number, day in enumerate(value, 1):
        if not isinstance(day, dict):
            raise ValueError(f"day {number}: expected an object, got {short(day)}.")
        for slot in ("current_city", *SLOTS):
            if slot in day and not isinstance(day[slot], str):
                raise ValueError(f"day {number}: {slot}: expected a text, got {short(day[slot])}.")
    return value


def _literal(text: str) -> Any:
    """Return the value of JSON or of a Python literal; None for any other text."""
    text = text.strip()
    if not text.startswith(("[", "{")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def _action(plan: list[Day]) -> str:
    return json.dumps(plan, ensure_ascii=False)


def _stays_on(plan: list[Day], place: int) -> bool:
    """Return whether the accommodation of a day is that of the night before."""
    return place > 0 and plan[place - 1].get("accommodation") == plan[place].get("accommodation")


def _nights(plan: list[Day], place: int) -> int:
    """Return how many nights in a row the accommodation of a day is kept."""
    end = place + 1
    while end < len(plan) and _stays_on(plan, end):
        end += 1
    return end - place


def _spread(values: list[str], n: int) -> list[str]:
    """Return n of the values, evenly spaced from the first to the last; the middle one for 1."""
    if len(values) <= n:
        return values
    if n < 2:
        return [values[len(values) // 2]] * n
    return [values[round(i * (len(values) - 1) / (n - 1))] for i in range(n)]


# -- files -----------------------------------------------------------------------------------------------------------


def _database_directory(database: str) -> Path:
    """Return the directory of the database. Raises UsageError, with the place to get it, if a file is missing."""
    if not database:
        raise UsageError(f"travelplanner: name your data: travelplanner?database=DIR&queries=FILE; {DOWNLOAD}")
    directory = Path(database)
    directory = directory / "database" if (directory / "database").is_dir() else directory
    for name in FILES.values():
        if not (directory / name).is_file():
            raise option_error("travelplanner", "database", database, f"no {name} in it; {DOWNLOAD}")
    return directory


def _query_files(queries: str) -> list[Path]:
    if not queries:
        raise UsageError(f"travelplanner: name the queries, too: travelplanner?database=DIR&queries=FILE; {DOWNLOAD}")
    path = Path(queries)
    # The dataset's repository has other files as JSON Lines beside the queries as CSV.
    files = (sorted(path.glob("*.csv")) or sorted(path.glob("*.jsonl"))) if path.is_dir() else [path]
    if not files or not path.exists():
        what = "no *.csv or *.jsonl in it" if path.exists() else "no such file"
        raise option_error("travelplanner", "queries", queries, f"{what}; {DOWNLOAD}")
    return files


@lru_cache(maxsize=4)
def _read_queries(files: tuple[tuple[Path, int, int], ...]) -> dict[str, list[TravelQuery]]:
    """Return the queries of some files by split; sizes and times of the files are there for the cache of answers."""
    splits: dict[str, list[TravelQuery]] = {}
    for file, _, _ in files:
        split = file.name.partition(".")[0]
        if split in splits:
            raise EexpError(f"{file}: there is another file for the split {split}")
        splits[split] = [_travel_query(record, place) for place, record in _records(file)]
        if not splits[split]:
            raise EexpError(f"{file}: no queries in it")
    return splits


def _records(file: Path) -> Iterator[tuple[str, dict]]:
    """Yield the place and the fields of every record. Empty fields are left out."""
    try:
        with open(file, encoding="utf-8", newline="" if file.suffix == ".csv" else None) as source:
            if file.suffix == ".csv":
                csv.field_size_limit(sys.maxsize)  # the reference information is longer than Python expects
                for number, row in enumerate(csv.DictReader(source), 1):
                    yield f"{file}, record {number}", {key: value for key, value in row.items() if value}
                return
            for number, line in enumerate(source, 1):
                record = loads(line.encode()) if line.strip() else None
                if isinstance(record, dict):
                    yield f"{file}:{number}", {key: value for key, value in record.items() if value not in (None, "")}
                elif line.strip():
                    raise InputError("expected an object", f"{file}:{number}")
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise EexpError(f"{file}: {getattr(e, 'strerror', None) or e}") from None
    except InputError as e:
        raise e.at(f"{file}:{number}") from None


def _value(record: dict, key: str, place: str) -> Any:
    """Return a field that is a value, or the text of one as Python writes it; None if the record does not have it."""
    value = record.get(key)
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise InputError(f"{key}: expected a value as Python writes it, got {short(value)}", place) from None


def _travel_query(record: dict, place: str) -> TravelQuery:
    fields: dict[str, Any] = {key: record[key] for key in ("org", "dest") if key in record}
    for key in ("days", "visiting_city_number", "people_number", "budget"):
        if key in record:
            try:
                fields[key] = float(record[key]) if key == "budget" else int(record[key])
            except (TypeError, ValueError):
                raise InputError(f"{key}: expected a number, got {short(record[key])}", place) from None
    wishes = _value(record, "local_constraint", place)
    if isinstance(wishes, dict):
        fields["local_constraint"] = wishes
    needed = ("org", "dest", "days", "visiting_city_number", "people_number", "budget", "local_constraint")
    dates = _value(record, "date", place)
    if "query" not in record:
        raise InputError("query: missing", place)
    checksum = hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return TravelQuery(
        fields,
        " ".join(str(record["query"]).split()),
        tuple(map(str, dates)) if isinstance(dates, list) else (),
        _reference(record.get("reference_information"), place),
        _annotated(_value(record, "annotated_plan", place), place),
        str(record.get("level", "")),
        tuple(key for key in needed if key not in fields),
        checksum,
    )


def _reference(value: Any, place: str) -> str:
    """Return the reference information as one text: every table or answer under its description."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return value
    if not isinstance(value, list):
        raise InputError("reference_information: missing", place)
    try:
        return "\n\n".join(f"{part['Description']}:\n{part['Content']}" for part in value)
    except (TypeError, KeyError):
        raise InputError("reference_information: expected parts with Description and Content", place) from None


def _annotated(value: Any, place: str) -> list[Day] | None:
    """Return the days of an annotated plan, which stand after the query in the record; empty days are left out."""
    if value is None:
        return None
    days = value[1] if isinstance(value, list) and len(value) == 2 and isinstance(value[1], list) else value
    try:
        return parse_plan(json.dumps([day for day in days if day]))
    except (TypeError, ValueError) as e:
        raise InputError(f"annotated_plan: {e}", place) from None
