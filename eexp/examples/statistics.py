"""Count records: lengths, valid shares, duplicates and leaks, before anything is trained on them."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from eexp.envs.task_names import key_of
from eexp.examples.duplicates import HeldOut, digest
from eexp.prompts.tool_calls import text_of_message
from eexp.records.equality import action_form
from eexp.records.imagination import imagined_by
from eexp.records.outcomes import Shares
from eexp.records.record import answers_of, is_judged, succeeded
from eexp.system.terminal import align

#: The lengths that are measured, in this order; records of a type have some of them.
LENGTHS = ("steps", "prompt", "target")

#: A function that returns the length of an example's prompt and that of its completion, or of its targets.
Measure = Callable[[dict], tuple[int, int]]


def characters(example: dict) -> tuple[int, int]:
    """Return how many characters the messages of an example's prompt and completion have, with calls as actions.

    The functions that a prompt shows are not counted, since only a chat template says how.
    """
    prompt, completion = (sum(len(text_of_message(m)) for m in example[part]) for part in ("prompt", "completion"))
    return prompt, completion


def tokens_of(model: str) -> Measure:
    """Return the function that measures an example in the tokens of a model: tiny, a directory or a hub id."""
    from eexp.models.tokenizers import load_tokenizer
    from eexp.training.data import row_maker

    row_of = row_maker(load_tokenizer(model))

    def tokens(example: dict) -> tuple[int, int]:
        row = row_of(example)
        return row.n_prompt, row.n_completion

    return tokens


def stats(records: Iterable[dict], measure: Measure = characters, apart: HeldOut | None = None) -> Statistics:
    """Count records of any type but tasks; the arguments are those of `Statistics`."""
    statistics = Statistics(measure, apart)
    for record in records:
        statistics.add(record)
    return statistics


@dataclass
class Group:
    """The counts of the records of one type and kind."""

    counts: Counter[str] = field(default_factory=Counter)
    tasks: set[str] = field(default_factory=set)
    contents: set[object] = field(default_factory=set)
    lengths: dict[str, array] = field(default_factory=dict)
    alternatives: Shares = field(default_factory=Shares)

    def add_lengths(self, **lengths: int) -> None:
        """Add the lengths of a record."""
        for name, length in lengths.items():
            self.lengths.setdefault(name, array("q")).append(length)

    def add_share(self, name: str, n: int, total: int) -> None:
        """Add `n` of `total` to a share."""
        self.counts[name] += n
        self.counts[f"of {name}"] += total


class Statistics:
    """Counts over records, by type and, for examples, by kind.

    Args:
        measure: Measures an example.
        apart: What the records may not be made from; a record that is counts as a leak. None counts no leaks.
    """

    def __init__(self, measure: Measure = characters, apart: HeldOut | None = None) -> None:
        self.groups: dict[str, Group] = {}
        self._measure, self._apart = measure, apart

    def add(self, record: dict) -> None:
        """Count one record."""
        kind = record["type"]
        name = f"{kind}, {record['kind']}" if kind == "example" else kind
        group = self.groups.setdefault(name, Group())
        add = {
            "example": self._add_example,
            "preference": self._add_preference,
            "trajectory": self._add_trajectory,
            "episode": self._add_episode,
        }
        content = add[kind](record, group)
        group.counts["duplicates"] += content in group.contents
        group.contents.add(content)
        if self._apart is not None:
            group.counts["leaks"] += record in self._apart
        group.counts["imagined"] += imagined_by(record) is not None
        group.counts["records"] += 1

    def _add_example(self, record: dict, group: Group) -> object:
        """Count an example; return its content, which is equal for duplicates."""
        prompt, target = self._measure(record)
        group.add_lengths(prompt=prompt, target=target)
        group.tasks.add(record.get("group") or record["id"])
        if record.get("transition"):
            group.add_share("valid", record["transition"] != "invalid", 1)
        return digest(record)

    def _add_preference(self, record: dict, group: Group) -> object:
        answers = answers_of(record)
        lengths = [self._measure(answer) for answer in answers]
        group.add_lengths(prompt=lengths[0][0], target=sum(target for _, target in lengths))
        group.tasks.add(record.get("group") or record["id"])
        return tuple(map(digest, answers))

    def _add_trajectory(self, record: dict, group: Group) -> object:
        group.add_lengths(steps=len(record["steps"]))
        group.tasks.add("/".join(key_of(record)))
        group.alternatives.add(record)
        if record.get("outcome") and is_judged(record["outcome"]) and imagined_by(record) is None:
            group.add_share("success", succeeded(record["outcome"]), 1)
        return key_of(record), tuple(map(action_form(record), (step["action"] for step in record["steps"])))

    def _add_episode(self, record: dict, group: Group) -> object:
        group.add_lengths(steps=record["steps"])
        group.tasks.add("/".join(key_of(record)))
        group.add_share("valid", record["steps"] - record.get("invalid", 0), record["steps"])
        if record["success"] is not None:
            group.add_share("success", record["success"], 1)
        turns = record.get("transcript") or [{"action": record["id"]}]
        return key_of(record), tuple(map(action_form(record), (turn["action"] for turn in turns)))

    def rows(self) -> list[dict]:
        """Return one dict a type and kind: counts, shares from 0 to 1 (null where there are none), and lengths."""
        return [_row(name, group, self._apart is not None) for name, group in sorted(self.groups.items())]


def _row(name: str, group: Group, leaks: bool) -> dict:
    counts = group.counts
    for executed in group.alternatives.counts.values():
        counts["valid"] += executed["valid"]
        counts["of valid"] += executed["executed"]
    shares = {
        share: counts[share] / counts[f"of {share}"] if counts[f"of {share}"] else None
        for share in ("valid", "success")
    }
    lengths = {
        length: {"median": median(values), "largest": max(values), "all": sum(values)}
        for length, values in group.lengths.items()
    }
    return {
        "records": name,
        "count": counts["records"],
        "tasks": len(group.tasks),
        **lengths,
        **shares,
        "imagined": counts["imagined"],
        "duplicates": counts["duplicates"],
        "leaks": counts["leaks"] if leaks else None,
    }


def table(rows: Sequence[dict], unit: str = "characters") -> str:
    """Return the rows as text; `unit` is that of the lengths of prompts and targets."""
    lengths = [name for name in LENGTHS if any(name in row for row in rows)]
    columns: list[tuple[str, Callable[[dict], str]]] = [
        ("", lambda row: row["records"]),
        ("count", lambda row: f"{row['count']:,}"),
        ("tasks", lambda row: f"{row['tasks']:,}"),
    ]
    columns += [(name, partial(_length, name)) for name in lengths]
    columns += [
        (name, partial(_share, name)) for name in ("valid", "success") if any(row[name] is not None for row in rows)
    ]
    if any(row["imagined"] for row in rows):
        columns.append(("imagined", lambda row: f"{row['imagined']:,}"))
    columns.append(("duplicates", lambda row: f"{row['duplicates']:,}"))
    if any(row["leaks"] is not None for row in rows):
        columns.append(("leaks", lambda row: f"{row['leaks']:,}"))
    lines = align([[title for title, _ in columns], *([cell(row) for _, cell in columns] for row in rows)])
    legend = f"{', '.join(lengths)}: median and largest" + (f", in {unit}" if "prompt" in lengths else "")
    return "\n".join([*lines, legend])


def _length(name: str, row: dict) -> str:
    length = row.get(name)
    return "" if length is None else f"{length['median']:,.0f} {length['largest']:,}"


def _share(name: str, row: dict) -> str:
    return "" if row[name] is None else f"{row[name]:.1%}"


def plot(groups: dict[str, Group], unit: str, file: str) -> None:
    """Draw, for each length, the share of the records that are no longer; the file's ending is the format."""
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
