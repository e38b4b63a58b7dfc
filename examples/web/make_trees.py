"""Make trees.db in a directory: a city's trees, invented, with a search over species. The same bytes of data each time.

python make_trees.py DIRECTORY
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


def make(directory: Path) -> Path:
    """Make the database and return its file."""
    file = directory / "trees.db"
    file.unlink(missing_ok=True)
    rng = random.Random("trees")
    database = sqlite3.connect(file)
    with database:
        database.executescript(
            """
            create table districts (id integer primary key, name text);
            create table species (id integer primary key, name text, latin text, family text, evergreen integer);
            create table trees (
              id integer primary key,
              species integer references species(id),
              district integer references districts(id),
              height real,
              planted integer,
              health text
            );
            create virtual table species_fts using fts5(name, latin, family, content="species", content_rowid="id");
            """
        )
        database.executemany("insert into districts values (?, ?)", enumerate(DISTRICTS, 1))
        database.executemany(
            "insert into species values (?, ?, ?, ?, ?)", [(n, *one) for n, one in enumerate(SPECIES, 1)]
        )
        for number in range(1, TREES + 1):
            planted = rng.randint(1890, 2020)
            height = round(min(38.0, 2.5 + (2024 - planted) * rng.uniform(0.12, 0.3)), 1)
            tree = (number, rng.randint(1, len(SPECIES)), rng.randint(1, len(DISTRICTS)), height, planted)
            database.execute("insert into trees values (?, ?, ?, ?, ?, ?)", (*tree, rng.choice(HEALTH)))
        database.execute("insert into species_fts(species_fts) values ('rebuild')")
    database.close()
    return file


if __name__ == "__main__":
    make(Path(sys.argv[1]))
