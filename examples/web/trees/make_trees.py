"""Make two databases in a directory: the trees of two cities, invented, with a search over species. The same each time.

python make_trees.py DIRECTORY

`trees.db` and `park.db` have the same kind of contents, in other words.
"""

from __future__ import annotations

import random
import sqlite3
import sys
from pathlib import Path

SPECIES = [  # English name, Latin name, family, evergreen
    ("English oak", "Quercus robur", "Fagaceae", 0),
    ("Holm oak", "Quercus ilex", "Fagaceae", 1),
    ("European beech", "Fagus sylvatica", "Fagaceae", 0),
    ("Silver birch", "Betula pendula", "Betulaceae", 0),
    ("Hornbeam", "Carpinus betulus", "Betulaceae", 0),
    ("Small-leaved lime", "Tilia cordata", "Malvaceae", 0),
    ("Field maple", "Acer campestre", "Sapindaceae", 0),
    ("Norway maple", "Acer platanoides", "Sapindaceae", 0),
    ("Horse chestnut", "Aesculus hippocastanum", "Sapindaceae", 0),
    ("London plane", "Platanus x hispanica", "Platanaceae", 0),
    ("Scots pine", "Pinus sylvestris", "Pinaceae", 1),
    ("Norway spruce", "Picea abies", "Pinaceae", 1),
    ("Yew", "Taxus baccata", "Taxaceae", 1),
    ("Ginkgo", "Ginkgo biloba", "Ginkgoaceae", 0),
]
DISTRICTS = ["Harbour", "Old Town", "Mill Lane", "North Gate", "Riverside", "Castle Hill"]
HEALTH = ["good", "good", "good", "fair", "fair", "poor"]
TREES = 360


#: The same kind of contents in other words: file, tables, columns of species and of trees, and words for health.
TREES_DB = ("trees.db", "districts", "species", "trees", "latin", "species", "district", "height", "planted", "health")
PARK_DB = ("park.db", "quarters", "kinds", "plants", "botanical", "kind", "quarter", "metres", "year", "state")
PARK_HEALTH = {"good": "sound", "fair": "tired", "poor": "ill"}


def make(directory: Path, names: tuple[str, ...] = TREES_DB, health: dict[str, str] | None = None) -> Path:
    """Make a database and return its file."""
    name, districts, species, trees, latin, of_species, of_district, height, planted, state = names
    file = directory / name
    file.unlink(missing_ok=True)
    rng = random.Random(trees)
    database = sqlite3.connect(file)
    with database:
        database.executescript(
            f"""
            create table {districts} (id integer primary key, name text);
            create table {species} (id integer primary key, name text, {latin} text, family text, evergreen integer);
            create table {trees} (
              id integer primary key,
              {of_species} integer references {species}(id),
              {of_district} integer references {districts}(id),
              {height} real,
              {planted} integer,
              {state} text
            );
            create virtual table {species}_fts
            using fts5(name, {latin}, family, content="{species}", content_rowid="id");
            """
        )
        database.executemany(f"insert into {districts} values (?, ?)", enumerate(DISTRICTS, 1))
        database.executemany(
            f"insert into {species} values (?, ?, ?, ?, ?)", [(n, *one) for n, one in enumerate(SPECIES, 1)]
        )
        for number in range(1, TREES + 1):
            year = rng.randint(1890, 2020)
            metres = round(min(38.0, 2.5 + (2024 - year) * rng.uniform(0.12, 0.3)), 1)
            tree = (number, rng.randint(1, len(SPECIES)), rng.randint(1, len(DISTRICTS)), metres, year)
            condition = rng.choice(HEALTH)
            row = (*tree, (health or {}).get(condition, condition))
            database.execute(f"insert into {trees} values (?, ?, ?, ?, ?, ?)", row)
        database.execute(f"insert into {species}_fts({species}_fts) values ('rebuild')")
    database.close()
    return file


if __name__ == "__main__":
    make(Path(sys.argv[1]))
    make(Path(sys.argv[1]), PARK_DB, PARK_HEALTH)
