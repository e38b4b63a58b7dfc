"""Write the data card of files of records: README.md beside them, as Hugging Face's hub and `datasets` read it.

The head, in YAML, names each file as a configuration of its own, with the types of its columns. So
`load_dataset(DIRECTORY, "rollout")` loads rollout.jsonl. The text says what the files hold. Both are counted from the
records, of which one is in memory at a time.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eexp.errors import InputError, UsageError
from eexp.formats.features import Feature, yaml_lines
from eexp.formats.settings import CardSettings
from eexp.records.imagination import imagined_by
from eexp.records.jsonl import STDIN, read
from eexp.records.outcomes import OUTCOMES, marks_of
from eexp.records.record import seed_of, succeeded
from eexp.records.shards import without_mark
from eexp.records.types import TYPES
from eexp.system.terminal import one_line

#: The hub's classes of sizes: the number of records below which a data set is of the class.
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_LARGEST = "10M<n<100M"
_TAGS = ("agent", "early-experience", "eexp")
_MOST_LINEAGES = 20  # that are listed
_IMAGINED = (
    "A world model wrote observations of these records, and nothing shows them to be true. Such trajectories and "
    "episodes have no success: they count as none of those that succeeded."
)

Row = tuple[str, ...]  # what a line of a table is about


@dataclass
class DataFile:
    """One file of records."""

    path: str  # as the card names it, from the card's directory
    config: str  # the name of its configuration
    size: int  # in bytes
    sha256: str
    types: Counter[str]
    features: Feature


@dataclass
class Contents:
    """What the records hold. A row of a table is a tuple, with its counts."""

    trajectories: dict[Row, Counter[str]] = field(default_factory=dict)
    alternatives: dict[Row, Counter[str]] = field(default_factory=dict)
    examples: dict[Row, Counter[str]] = field(default_factory=dict)
    preferences: dict[Row, Counter[str]] = field(default_factory=dict)
    episodes: dict[Row, Counter[str]] = field(default_factory=dict)
    panel: dict[Row, Counter[str]] = field(default_factory=dict)
    thoughts: Counter[Row] = field(default_factory=Counter)
    lineages: Counter[Row] = field(default_factory=Counter)
    imagined: Counter[Row] = field(default_factory=Counter)
    _tasks: dict[tuple, set[int]] = field(default_factory=dict)  # hashes of the tasks that a row was counted for

    def add(self, record: dict) -> None:
        """Count one record."""
        self.lineages[tuple(without_mark(record).get("lineage") or ())] += 1
        if (world_model := imagined_by(record)) is not None:
            self.imagined[record["type"], world_model] += 1
        getattr(self, f"_add_{record['type']}")(record)

    def _add_trajectory(self, record: dict) -> None:
        counts = self._row(self.trajectories, record["env"], record["task"].get("split"))
        self._count_task(counts, record, "trajectory")
        counts.update(records=1, steps=len(record["steps"]), succeeded=succeeded(record.get("outcome")))
        is_real = imagined_by(record) is None
        # What `eexp export-log --alternatives` wrote may have come back with outcomes, and nothing says which.
        executed = (
            is_real
            and "eexp" not in (record.get("source") or ())
            and any(entry.split(" ")[0] == "rollout" for entry in record.get("lineage") or ())
        )
        for step, marks in zip(record["steps"], marks_of(record), strict=True):
            if step.get("thought"):
                self.thoughts["steps of trajectories", _recorder(record)] += 1
            for alternative, mark in zip(step.get("alternatives") or (), marks, strict=True):
                row = self._row(self.alternatives, alternative.get("source"), alternative.get("pool"))
                row.update(["alternatives", mark])
                row["verified"] += executed and mark not in ("missing", "untrusted")

    def _add_example(self, record: dict) -> None:
        counts = self._row(self.examples, record["kind"], record.get("transition"))
        counts.update(records=1)
        if any(span["name"] == "thought" for span in record.get("spans") or ()):
            author = record.get("reflection_by") or "not recorded"
            self.thoughts[f"examples of kind {record['kind']}", author] += 1

    def _add_preference(self, record: dict) -> None:
        self._row(self.preferences, record.get("worse")).update(records=1)

    def _add_episode(self, record: dict) -> None:
        counts = self._row(self.episodes, record["env"], record.get("split"), record.get("model"))
        self._count_task(counts, record, "episode", record.get("model"))
        counts.update(records=1, actions=record["steps"], succeeded=succeeded(record), refused=record.get("invalid", 0))
        if thoughts := record.get("thoughts"):
            self.thoughts["turns of episodes", record.get("model") or "not recorded"] += thoughts

    def _add_task(self, record: dict) -> None:
        self._row(self.panel, record["env"], record.get("split")).update(records=1)

    def _row(self, table: dict[Row, Counter[str]], *names: str | None) -> Counter[str]:
        return table.setdefault(tuple(name or "" for name in names), Counter())

    def _count_task(self, counts: Counter[str], record: dict, *row: str | None) -> None:
        """Count a record's task where its row has not met it."""
        task = record["task"]
        met = self._tasks.setdefault((*row, record["env"], task.get("split")), set())
        key = seed_of(task.get("id") or sorted(task.items()))
        counts["tasks"] += key not in met
        met.add(key)


def _recorder(record: dict) -> str:
    """Return who acted in a trajectory: the model that is recorded, else the stage that made it."""
    model = (record.get("source") or {}).get("model")
    lineage = record.get("lineage") or ["not recorded"]
    return model or lineage[0].split(" ")[0]


def data_card(files: Sequence[str], settings: CardSettings | None = None, directory: str = ".") -> str:
    """Return the data card of files of records.

    Args:
        directory: Where the card will be; files are named from there.

    Raises:
        InputError: A record is wrong, or a file holds none.
        UsageError: A file is standard input, or the same as another one.
    """
    settings, contents = settings or CardSettings(), Contents()
    data_files = list(_read(files, contents, directory))
    title = settings.title or Path(os.path.abspath(directory)).name
    return "\n".join([*_head(data_files, settings), "", *_text(data_files, contents, title)]) + "\n"


def _read(files: Sequence[str], contents: Contents, directory: str) -> Iterator[DataFile]:
    """Read the files, and count their records in `contents`."""
    met: dict[str, str] = {}
    configs: Counter[str] = Counter()
    for file in files:
        real = os.path.realpath(file)
        if file == STDIN or real in met:
            raise UsageError("a card needs the names of files" if file == STDIN else f"{file} is given twice")
        met[real] = file
        features, types = Feature(), Counter[str]()
        for record in read([file], *TYPES):
            types[record["type"]] += 1
            features.add(record)
            contents.add(record)
        if not types:
            raise InputError(f"{file}: no records in it")
        stem = re.sub(r"[^A-Za-z0-9_-]", "-", Path(file).name.split(".")[0]) or "records"
        configs[stem] += 1
        name = stem if configs[stem] == 1 else f"{stem}-{configs[stem]}"
        path = os.path.relpath(file, directory).replace(os.sep, "/")
        yield DataFile(path, name, os.path.getsize(file), _sha256(file), types, features)


def _sha256(file: str) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as source:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# -- the head ----------------------------------------------------------------------------------------------------------


def _head(files: list[DataFile], settings: CardSettings) -> Iterator[str]:
    """Yield the lines of the head, in YAML."""
    number = sum(file.types.total() for file in files)
    size = next((name for limit, name in _SIZES if number < limit), _LARGEST)
    given = {key: values if len(values) > 1 else values[0] for key, values in (settings.field or {}).items()}
    head = {
        "license": settings.license,
        "language": [*settings.language],
        "pretty_name": settings.title,
        "tags": sorted({*_TAGS, *settings.tag}),
        **given,
        "size_categories": [size],
        "configs": [
            {
                "config_name": file.config,
                **({"default": True} if file is files[0] else {}),
                "data_files": [{"split": "train", "path": file.path}],
            }
            for file in files
        ],
        "dataset_info": [{"config_name": file.config, "features": file.features.fields()} for file in files],
    }
    yield "---"
    yield from yaml_lines({key: value for key, value in head.items() if value})
    yield "---"


# -- the text ----------------------------------------------------------------------------------------------------------


def _text(files: list[DataFile], contents: Contents, title: str) -> Iterator[str]:
    """Yield the lines of the text, in Markdown."""
    example = files[0].config
    yield from (
        f"# {_escaped(title)}",
        "",
        "Records for training language agents, written by eexp. Each line of a file is one JSON object.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        "# DATASET is the directory of the card, or its name on the hub.",
        f'rows = load_dataset(DATASET, "{example}", split="train")',
        "```",
        "",
        "## Files",
        "",
    )
    rows = [[_code(f.config), _code(f.path), _listed(f.types), f"{f.size:,} bytes", _code(f.sha256)] for f in files]
    yield from _table(["configuration", "file", "records", "size", "sha256"], rows)
    for heading, names, table, columns in _tables(contents):
        if table:
            yield from ("", f"## {heading}", "")
            counted = [
                [*map(_code, row), *(f"{counts[c]:,}" for c in columns)] for row, counts in sorted(table.items())
            ]
            yield from _table([*names, *columns.values()], counted)
            if table is contents.alternatives:
                yield from ("", _verified(table))
    if contents.imagined:
        rows = [[_escaped(of_type), _code(by), f"{n:,}"] for (of_type, by), n in sorted(contents.imagined.items())]
        yield from ("", "## Imagined", "", _IMAGINED, "")
        yield from _table(["records of type", "world model", "number"], rows)
    yield from ("", "## Thoughts", "")
    if contents.thoughts:
        rows = [[_escaped(where), _code(author), f"{n:,}"] for (where, author), n in sorted(contents.thoughts.items())]
        yield from _table(["in", "written by", "number"], rows)
    else:
        yield "The records hold no thoughts."
    yield from ("", "## How the records were made", "")
    yield from _lineages(contents.lineages)


def _tables(contents: Contents) -> list[tuple[str, list[str], dict[Row, Counter[str]], dict[str, str]]]:
    """Return the tables: heading, names of what a row is about, rows, and the names of the counts by their keys."""
    counted = {"records": "records", "tasks": "tasks"}
    played = {**counted, "succeeded": "succeeded"}
    outcomes = {
        mark: words for mark, words in OUTCOMES.items() if any(mark in c for c in contents.alternatives.values())
    }
    return [
        ("Trajectories", ["environment", "split"], contents.trajectories, {**played, "steps": "steps"}),
        ("Alternatives", ["source", "pool"], contents.alternatives, {"alternatives": "alternatives", **outcomes}),
        ("Examples", ["kind", "transition"], contents.examples, {"records": "records"}),
        ("Preferences", ["the rejected action"], contents.preferences, {"records": "records"}),
        (
            "Episodes",
            ["environment", "split", "model"],
            contents.episodes,
            {**played, "actions": "actions", "refused": "refused actions"},
        ),
        ("Tasks of panels", ["environment", "split"], contents.panel, {"records": "tasks"}),
    ]


def _verified(table: dict[Row, Counter[str]]) -> str:
    """Return the sentence about the share of alternatives whose outcome was verified."""
    total, verified = (sum(counts[key] for counts in table.values()) for key in ("alternatives", "verified"))
    return (
        f"{verified:,} of {total:,} alternatives ({100 * verified / total:.1f} %) have a verified outcome: "
        "`eexp rollout` executed the action in its own state, after it had compared that state with the record."
    )


def _lineages(lineages: Counter[Row]) -> Iterator[str]:
    """Yield the lines about the stages that made the records, the most frequent first."""
    in_order = sorted(lineages.items(), key=lambda item: (-item[1], item[0]))
    for lineage, number in in_order[:_MOST_LINEAGES]:
        yield f"{number:,} records:" if lineage else f"{number:,} records without a lineage."
        yield ""
        yield from (f"{i}. {_code(entry)}" for i, entry in enumerate(lineage, 1))
        yield from [""] * bool(lineage)
    if len(in_order) > _MOST_LINEAGES:
        more = in_order[_MOST_LINEAGES:]
        yield f"{sum(n for _, n in more):,} more records have {len(more):,} other lineages."


def _table(names: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _listed(types: Counter[str]) -> str:
    """Return the numbers of records by type."""
    return ", ".join(f"{number:,} of type {name}" for name, number in sorted(types.items()))


def _code_text(text: str) -> str:
    return one_line(text).replace("`", "'")


def _code(text: str) -> str:
    """Return a text as code in a cell of a table; nothing for an empty one."""
    return f"`{_code_text(text)}`".replace("|", "\\|") if text else ""


def _escaped(text: str) -> str:
    """Return a text as one line of Markdown that has no markup."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|&!" else c for c in one_line(text))
