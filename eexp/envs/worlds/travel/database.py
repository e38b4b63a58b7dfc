"""TravelPlanner's database, as SQLite: flights, restaurants, attractions, accommodations, distances and cities."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from eexp.envs.worlds.travel.texts import split_name
from eexp.errors import EexpError

#: The files of the database, in the order of the tables below.
FILES = {
    "flights": "flights/clean_Flights_2022.csv",
    "restaurants": "restaurants/clean_restaurant_2022.csv",
    "attractions": "attractions/attractions.csv",
    "accommodations": "accommodations/clean_accommodations_2022.csv",
    "distances": "googleDistanceMatrix/distance.csv",
    "cities": "background/citySet_with_states.txt",
}
#: table -> its columns in the files
_COLUMNS = {
    "flights": ("Flight Number", "Price", "DepTime", "ArrTime", "FlightDate", "OriginCityName", "DestCityName"),
    "restaurants": ("Name", "Average Cost", "Cuisines", "City"),
    "attractions": ("Name", "City"),
    "accommodations": ("NAME", "price", "room type", "house_rules", "minimum nights", "maximum occupancy", "city"),
    "distances": ("origin", "destination", "duration", "distance"),
}
_SCHEMA = """
CREATE TABLE flights (number, price REAL, departure, arrival, date, origin, destination);
CREATE TABLE restaurants (name, cost REAL, cuisines, city);
CREATE TABLE attractions (name, city);
CREATE TABLE accommodations (name, price REAL, room_type, rules, nights REAL, occupancy REAL, city);
CREATE TABLE distances (origin, destination, duration, distance);
CREATE TABLE cities (city PRIMARY KEY, state);
"""
_INDEXES = """
CREATE INDEX flight_numbers ON flights (number);
CREATE INDEX flight_routes ON flights (origin, destination, date);
CREATE INDEX restaurant_cities ON restaurants (city);
CREATE INDEX attraction_cities ON attractions (city);
CREATE INDEX accommodation_cities ON accommodations (city);
CREATE INDEX distance_routes ON distances (origin, destination);
"""
#: Fields that pandas, with which the benchmark reads the files, takes for missing values.
_MISSING = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"]
) | frozenset(["NULL", "NaN", "None", "n/a", "nan", "null"])
_PER_KM = {"Self-driving": 0.05, "Taxi": 1.0}  # dollars


class Flight(NamedTuple):
    """A flight on one day."""

    number: str
    price: float
    departure: str
    arrival: str
    date: str
    origin: str
    destination: str


class Restaurant(NamedTuple):
    """A restaurant; `cost` is for one person."""

    name: str
    cost: float
    cuisines: str
    city: str


class Accommodation(NamedTuple):
    """An accommodation; `price` is for one night in one room, which has place for `occupancy` people."""

    name: str
    price: float
    room_type: str
    rules: str
    nights: float
    occupancy: float
    city: str


class Drive(NamedTuple):
    """A way by car; `cost` is for one car."""

    duration: str
    distance: str
    cost: int


# -- the database ----------------------------------------------------------------------------------------------------


def make_database(database: sqlite3.Connection, directory: Path) -> None:
    """Fill an SQLite database from the benchmark's files. Raises EexpError where one does not have its columns."""
    database.executescript(_SCHEMA)
    for table, columns in _COLUMNS.items():
        places = ", ".join("?" * len(columns))
        database.executemany(f"INSERT INTO {table} VALUES ({places})", _rows(directory / FILES[table], table, columns))
    lines = (directory / FILES["cities"]).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if line]
    database.executemany("INSERT OR REPLACE INTO cities VALUES (?, ?)", [pair for pair in pairs if len(pair) == 2])
    database.executescript(_INDEXES)


def _rows(file: Path, table: str, columns: tuple[str, ...]) -> Iterator[list[str | None]]:
    """Yield the columns of every row. Rows with a missing field are left out, as there, but for those of distances."""
    with open(file, encoding="utf-8", newline="") as source:
        reader = csv.reader(source)
        header = next(reader, [])
        try:
            places = [header.index(column) for column in columns]
        except ValueError as e:
            raise EexpError(f"{file}: a column is missing: {e}") from None
        for row in reader:
            row += [""] * (len(header) - len(row))
            if table == "distances":
                yield [None if row[i] in _MISSING else row[i] for i in places]
            elif not any(field in _MISSING for field in row):
                yield [row[i] for i in places]


class TravelData:
    """The tables of the database. All lists are in the order of the files."""

    def __init__(self, database: sqlite3.Connection):
        self._database = database

    def _select(self, query: str, *values: str) -> list[tuple]:
        return self._database.execute(f"{query} ORDER BY rowid", values).fetchall()

    def flights(self, origin: str, destination: str, date: str) -> list[Flight]:
        """Return the flights of a day."""
        query = "SELECT * FROM flights WHERE origin = ? AND destination = ? AND date = ?"
        return [Flight(*row) for row in self._select(query, origin, destination, date)]

    def flights_numbered(self, number: str) -> list[Flight]:
        """Return the flights with a number."""
        return [Flight(*row) for row in self._select("SELECT * FROM flights WHERE number = ?", number)]

    def restaurants(self, city: str) -> list[Restaurant]:
        """Return the restaurants of a city."""
        return [Restaurant(*row) for row in self._select("SELECT * FROM restaurants WHERE city = ?", city)]

    def attractions(self, city: str) -> list[str]:
        """Return the names of the attractions of a city."""
        return [name for (name,) in self._select("SELECT name FROM attractions WHERE city = ?", city)]

    def accommodations(self, city: str) -> list[Accommodation]:
        """Return the accommodations of a city."""
        return [Accommodation(*row) for row in self._select("SELECT * FROM accommodations WHERE city = ?", city)]

    def drive(self, origin: str, destination: str, vehicle: str) -> Drive | None:
        """Return the way between two cities with a `Self-driving` car or a `Taxi`; None where there is none."""
        query = "SELECT duration, distance FROM distances WHERE origin = ? AND destination = ?"
        rows = self._select(query, origin, destination)
        if not rows or rows[0][0] is None or rows[0][1] is None or "day" in rows[0][0]:
            return None
        try:
            kilometres = float(rows[0][1].replace("km", "").replace(",", ""))
        except ValueError:  # less than a kilometre
            return None
        return Drive(rows[0][0], rows[0][1], int(kilometres * _PER_KM[vehicle]))

    def state_of(self, city: str) -> str | None:
        """Return the state of a city; None if the benchmark does not have the city."""
        row = self._database.execute("SELECT state FROM cities WHERE city = ?", (city,)).fetchone()
        return row[0] if row else None

    def restaurants_named(self, text: str) -> list[Restaurant]:
        """Return the restaurants that `Name, City` in a plan may be."""
        name, city = split_name(text)
        return [restaurant for restaurant in self.restaurants(city) if name in restaurant.name]

    def accommodations_named(self, text: str) -> list[Accommodation]:
        """Return the accommodations that `Name, City` in a plan may be."""
        name, city = split_name(text)
        return [accommodation for accommodation in self.accommodations(city) if name in accommodation.name]
