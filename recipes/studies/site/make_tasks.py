"""Write the file of tasks of the web study: `python make_tasks.py > tasks.toml`, beside a copy of this directory.

Four kinds of tasks on a Datasette that serves the databases of make_site.py: show the rows of a table that have one
property or two, and say how many there are, or not. The tasks of `train` are in six databases and those of `test` in
the other two, so that no table of a demonstration occurs in a test. `collections.toml` names the databases in that
order.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from make_site import COLUMNS, contents, tomllib

TRAIN_DATABASES, TRAIN, TEST = 6, 60, 120
KINDS = ("count-one", "count-two", "show-one", "show-two")
SITE = """\
[site]
command = [
  "datasette", "serve", "{dir}", "--host", "127.0.0.1", "--port", "{port}",
  "--setting", "num_sql_threads", "1", "--setting", "default_page_size", "2", "--setting", "default_allow_sql", "off",
  "--setting", "suggest_facets", "off", "--setting", "allow_csv_stream", "off",
  "--setting", "facet_time_limit_ms", "60000", "--setting", "sql_time_limit_ms", "60000",
]
files = "site"
prepare = ["python", "make_site.py", "{dir}"]
state = "none"
ready = "/-/versions.json"
# Pages are as short as Datasette can make them, for models of two million weights.
hide = ["footer.ft", "nav", "form.filters", ".export-links", ".dropdown-menu-icon", "#export", ".wrapped-sql"]
"""


def task(name: str, split: str, kind: str, database: str, table: str, rows: list, chosen: dict[str, str]) -> str:
    """Return a task as TOML.

    chosen: the wanted value of one column or two, in the order in which the demonstration clicks them.
    """
    number = sum(all(row[1 + COLUMNS.index(column)] == value for column, value in chosen.items()) for row in rows)
    wanted = " and ".join(f'"{value}"' for value in chosen.values())
    # Whatever stands beside them in the address, in whatever order, each of the wanted values and no others.
    both = "".join(f"(?=.*[?&]{column}(__exact)?={re.escape(value)}(&|$))" for column, value in chosen.items())
    only = "".join(f"(?!.*[?&]{column}(__exact)?=)" for column in COLUMNS if column not in chosen)
    judge = [f"{{url = '/{database}/{table}{both}{only}.*'}}"]
    if kind.startswith("count"):
        instruction, answer = f'How many "{table}" are {wanted}? Show them.', str(number)
        judge.append(f'{{answer = "{number}"}}')
    else:
        instruction, answer = f'Show the "{table}" that are {wanted}.', ""
    expert = [f'click link "{text}"' for text in (table, *chosen.values())] + [f"stop [{answer}]"]
    return (
        f"[[task]]\nid = {json.dumps(name)}\nsplit = {json.dumps(split)}\nkind = {json.dumps(kind)}\n"
        f"start = {json.dumps('/' + database)}\ninstruction = '{instruction}'\njudge = [{', '.join(judge)}]\n"
        f"expert = {json.dumps(expert)}\n"
    )


def main() -> None:
    with open(Path(__file__).with_name("collections.toml"), "rb") as file:
        found = contents(tomllib.load(file))
    print(SITE)
    databases = list(found)
    for split, among, number in (
        ("train", databases[:TRAIN_DATABASES], TRAIN),
        ("test", databases[TRAIN_DATABASES:], TEST),
    ):
        rng, seen = random.Random(split), set()
        while len(seen) < number:
            kind = KINDS[len(seen) % len(KINDS)]
            database = rng.choice(among)
            table = rng.choice(list(found[database]))
            rows = found[database][table]
            row = dict(zip(COLUMNS, rng.choice(rows)[1:]))
            columns = rng.sample(COLUMNS, 1 + kind.endswith("two"))
            key = kind, table, *(row[column] for column in sorted(columns))
            if key not in seen:
                seen.add(key)
                name = f"{split}-{len(seen)}"
                print(task(name, split, kind, database, table, rows, {column: row[column] for column in columns}))


if __name__ == "__main__":
    main()
