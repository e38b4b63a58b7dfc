"""`eexp stats`: what files of records hold, in numbers, before anything is trained on them."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import click

from eexp import options
from eexp.errors import UsageError
from eexp.evidence.panels import key_of
from eexp.evidence.table import align
from eexp.mixing.duplicates import HeldOut, digest
from eexp.outcomes import Shares
from eexp.records import canonical, succeeded
from eexp.terminal import show, tell

#: What is measured of a record, in this order: records of a type have some of them.
LENGTHS = ("steps", "prompt", "target")

#: (length of the prompt, length of the completion) of an example, or of its targets.
Measure = Callable[[dict], tuple[int, int]]


def characters(example: dict) -> tuple[int, int]:
    """Return how many characters the messages of an example's prompt and completion have."""
    return sum(len(m["content"]) for m in example["prompt"]), sum(len(m["content"]) for m in example["completion"])


@dataclass
class Group:
    """What is counted of the records of one type and kind."""

    counts: Counter[str] = field(default_factory=Counter)
    tasks: set[str] = field(default_factory=set)
    texts: set[object] = field(default_factory=set)
    lengths: dict[str, array] = field(default_factory=dict)
    alternatives: Shares = field(default_factory=Shares)

    def measured(self, **lengths: int) -> None:
        """Add the lengths of a record."""
        for name, length in lengths.items():
            self.lengths.setdefault(name, array("q")).append(length)

    def counted(self, what: str, n: int, of: int) -> None:
        """Add to a share: `n` of `of`."""
        self.counts[what] += n
        self.counts[f"of {what}"] += of


class Statistics:
    """Counts over records, by type and, for examples, by kind.

    measure: the lengths of an example. apart: what the records may not be made from; one that is leaks. None where
    nothing is to be kept apart.
    """

    def __init__(self, measure: Measure = characters, apart: HeldOut | None = None) -> None:
        self.groups: dict[str, Group] = {}
        self._measure, self._apart = measure, apart

    def add(self, record: dict) -> None:
        """Count one record."""
        kind = record["type"]
        name = f"{kind}, {record['kind']}" if kind == "example" else kind
        group = self.groups.setdefault(name, Group())
        words = {"example": self._example, "trajectory": self._trajectory, "episode": self._episode}[kind](
            record, group
        )
        group.counts["duplicates"] += words in group.texts
        group.texts.add(words)
        if self._apart is not None:
            group.counts["leaks"] += record in self._apart
        group.counts["records"] += 1

    def _example(self, record: dict, group: Group) -> object:
        prompt, target = self._measure(record)
        group.measured(prompt=prompt, target=target)
        group.tasks.add(record.get("group") or record["id"])
        if record.get("transition"):
            group.counted("valid", record["transition"] != "invalid", 1)
        return digest(record)

    def _trajectory(self, record: dict, group: Group) -> object:
        group.measured(steps=len(record["steps"]))
        group.tasks.add("/".join(key_of(record)))
        group.alternatives.add(record)
        if record.get("outcome"):
            group.counted("success", succeeded(record["outcome"]), 1)
        return key_of(record), tuple(canonical(step["action"]) for step in record["steps"])

    def _episode(self, record: dict, group: Group) -> object:
        group.measured(steps=record["steps"])
        group.tasks.add("/".join(key_of(record)))
        group.counted("valid", record["steps"] - record.get("invalid", 0), record["steps"])
        group.counted("success", succeeded(record), 1)
        turns = record.get("transcript") or [{"action": record["id"]}]
        return key_of(record), tuple(canonical(turn["action"]) for turn in turns)

    def rows(self) -> list[dict]:
        """Return one dict a type and kind: counts, shares from 0 to 1 (null where there are none), and lengths."""
        return [_row(name, group, self._apart is not None) for name, group in sorted(self.groups.items())]


def _row(name: str, group: Group, leaks: bool) -> dict:
    counts = group.counts
    for executed in group.alternatives.counts.values():
        counts["valid"] += executed["valid"]
        counts["of valid"] += executed["executed"]
    shares = {
        what: counts[what] / counts[f"of {what}"] if counts[f"of {what}"] else None for what in ("valid", "success")
    }
    lengths = {
        what: {"median": median(values), "largest": max(values), "all": sum(values)}
        for what, values in group.lengths.items()
    }
    return {
        "records": name,
        "count": counts["records"],
        "tasks": len(group.tasks),
        **lengths,
        **shares,
        "duplicates": counts["duplicates"],
        "leaks": counts["leaks"] if leaks else None,
    }


def table(rows: Sequence[dict], unit: str = "characters") -> str:
    """Return the rows as text. unit: of the lengths of prompts and targets."""
    lengths = [name for name in LENGTHS if any(name in row for row in rows)]
    columns: list[tuple[str, Callable[[dict], str]]] = [
        ("", lambda row: row["records"]),
        ("count", lambda row: f"{row['count']:,}"),
        ("tasks", lambda row: f"{row['tasks']:,}"),
    ]
    for name in lengths:
        columns.append((name, lambda row, name=name: _length(row.get(name))))
    for name in ("valid", "success"):
        if any(row[name] is not None for row in rows):
            columns.append((name, lambda row, name=name: "" if row[name] is None else f"{row[name]:.1%}"))
    columns.append(("duplicates", lambda row: f"{row['duplicates']:,}"))
    if any(row["leaks"] is not None for row in rows):
        columns.append(("leaks", lambda row: f"{row['leaks']:,}"))
    lines = align([[title for title, _ in columns], *([cell(row) for _, cell in columns] for row in rows)])
    words = f"{', '.join(lengths)}: median and largest" + (f", in {unit}" if "prompt" in lengths else "")
    return "\n".join([*lines, words])


def _length(found: dict | None) -> str:
    return "" if found is None else f"{found['median']:,.0f} {found['largest']:,}"


def plot(groups: dict[str, Group], unit: str, file: str) -> None:
    """Draw, for each length, the share of the records that are no longer; the file's ending says the format."""
    from eexp.evidence.plot import picture

    names = [name for name in LENGTHS if any(name in group.lengths for group in groups.values())]
    with picture(file, (4.2 * len(names), 3.4)) as figure:
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False, sharey=True)[0], names):
            for kind, group in sorted(groups.items()):
                if values := sorted(group.lengths.get(name, ())):
                    shares = [(i + 1) / len(values) for i in range(len(values))]
                    axes.step([values[0], *values], [0, *shares], where="post", linewidth=1.2, label=kind)
            axes.set(xlabel=name if name == "steps" else f"{name} ({unit})", xscale="symlog", ylim=(0, 1.02))
            axes.legend(frameon=False, fontsize="small")
            axes.spines[["top", "right"]].set_visible(False)
        figure.axes[0].set_ylabel("share of the records that are no longer")


@click.command("stats")
@click.option(
    "--apart-from",
    multiple=True,
    type=options.PATH,
    metavar="FILE",
    help="Count as leaks the records of tasks that occur in this file, a panel or any records, and examples "
    "with the words of one in it. May be repeated.",
)
@click.option(
    "--tokenizer",
    metavar="MODEL",
    help="Measure examples in the tokens of this model: tiny, or a model's directory or hub id.  "
    "[default: in characters]",
)
@click.option("--json", "as_json", is_flag=True, help="Write the rows of the table as JSONL, with the same numbers.")
@click.option(
    "--plot",
    "picture",
    type=options.PATH,
    metavar="PICTURE",
    help="Draw how the lengths are distributed, as PNG, SVG or PDF.",
)
@click.argument("files", nargs=-1, type=options.PATH, metavar="[FILE]...")
def command(apart_from, tokenizer, as_json, picture, files) -> None:
    """Count what is in files of records: lengths, valid share, duplicates, leaks.

    A row is a type of record and, for examples, a kind. Valid is the share of the actions that the environment took: of
    executed alternatives in trajectories, of examples with a transition, of the actions of episodes. Duplicates are
    examples with the same words, and trajectories and episodes with the same actions in the same task, the first not
    counted. `eexp mix` leaves them out, and near duplicates with them.

    \b
    Example:
      eexp expert house -n 9 | eexp imitation-data > il.jsonl
      eexp panel house -n 10 -o panel.jsonl
      eexp stats il.jsonl --apart-from panel.jsonl --tokenizer tiny
    """
    from eexp.jsonl import dumps, read, write_to_stdout

    statistics = Statistics(
        _tokens_of(tokenizer) if tokenizer else characters, HeldOut.of(apart_from) if apart_from else None
    )
    for record in read(files, "any"):
        statistics.add(record)
    rows, unit = statistics.rows(), "tokens" if tokenizer else "characters"
    if not rows:
        if picture:
            raise UsageError("--plot: no records in the input")
        tell("stats: no records in the input")
        return
    if as_json:
        write_to_stdout(b"".join(map(dumps, rows)))
    else:
        show(table(rows, unit))
    if picture:
        plot(statistics.groups, unit, picture)


def _tokens_of(spec: str) -> Measure:
    from eexp.models.tokenizers import load_tokenizer
    from eexp.training.data import row_maker

    row_of = row_maker(load_tokenizer(spec))

    def tokens(example: dict) -> tuple[int, int]:
        row = row_of(example)
        return row.n_prompt, row.n_completion

    return tokens
