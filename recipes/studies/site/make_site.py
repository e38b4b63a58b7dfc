"""Make the databases of the web study, the same each time: `python make_site.py DIRECTORY`.

Each database is a collection of some kind, with tables whose rows have a name and two properties. All contents are
invented. `collections.toml` has the words.
"""

from __future__ import annotations

import itertools
import json
import random
import sqlite3
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COLUMNS = ("look", "place")
VALUES = 4  # of a property in one table


def contents(words: dict) -> dict[str, dict[str, list[tuple[str, str, str]]]]:
    """Return the rows of each table of each database: name, look and place."""
    found: dict[str, dict[str, list[tuple[str, str, str]]]] = {}
    for database, tables in words["databases"].items():
        found[database] = {}
        for table in tables:
            rng = random.Random(f"{database}/{table}")
            looks, places = rng.sample(words["looks"], VALUES), rng.sample(words["places"], VALUES)
            names = rng.sample(words["names"], len(words["names"]))
            rows = [
                pair
                for pair in itertools.product(looks, places)
                for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 4, 5, 6, 7]))
            ]
            rng.shuffle(rows)
            found[database][table] = [(name, *pair) for name, pair in zip(names, rows)]
    return found


def make(directory: Path) -> None:
    """Make a SQLite file for each database, and the metadata that says what Datasette shows of their tables."""
    with open(Path(__file__).with_name("collections.toml"), "rb") as file:
        found = contents(tomllib.load(file))
    for name, tables in found.items():
        file = directory / f"{name}.db"
        file.unlink(missing_ok=True)
        database = sqlite3.connect(file)
        with database:
            for table, rows in tables.items():
                database.execute(f"create table {table} (name text primary key, {COLUMNS[0]} text, {COLUMNS[1]} text)")
                database.executemany(f"insert into {table} values (?, ?, ?)", rows)
        database.close()
    shown = {"facets": list(COLUMNS)}
    metadata = {"databases": {name: {"tables": {table: shown for table in found[name]}} for name in found}}
    (directory / "metadata.json").write_text(json.dumps(metadata))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
