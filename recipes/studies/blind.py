"""Draw reflections of several sources to be read blind, and tabulate what the reader noted.

    python blind.py draw 31 STYLE rollout.jsonl rule=sr-here.jsonl exchanged=sr-here-permuted.jsonl ... > sheet.tsv
    python blind.py table sheet.tsv reading-reactions.tsv

The sheet has the drawn reflections in random order, each with its state and what was executed there, whatever its
writer was told. The source stands in the last column alone, which the reader cuts off (`cut -f1-6`). The reader notes
the number of each reflection and

- claims: true, or false if any claim about an action of this state is;
- reason: goal, if an outcome is named that is what the task asks for; against, if all other outcomes that are named are
  ash, or nothing; none, if what is named does not speak for the choice;
- leads: whether it ends in the action;
- leak: whether it has words of the training set-up;
- a remark.
"""

from __future__ import annotations

import random
import sys
from collections import Counter, defaultdict

from eexp.prompts import get_style
from eexp.records.jsonl import read
from eexp.records.record import expert_outcome

COLUMNS = ("number", "task", "state", "executed", "thought", "action", "source")


def sheet(number: int, style_name: str, rollout: str, sources: dict[str, str]) -> list[list[str]]:
    """Return the rows of a sheet: `number` reflections of each source, or all it has, in random order."""
    style, rng = get_style(style_name), random.Random(0)
    trajectories = {trajectory["id"]: trajectory for trajectory in read([rollout], "trajectory")}
    rows = []
    for source, file in sources.items():
        examples = list(read([file], "example"))
        for example in rng.sample(examples, min(number, len(examples))):
            trajectory = trajectories[example["group"]]
            i = int(example["id"].removeprefix(f"{trajectory['id']}/").split("/")[0])
            answer = style.parse(example["completion"][-1]["content"])
            rows.append(
                [trajectory["instruction"], *_state(trajectory, i), answer.thought or "", answer.action or "", source]
            )
    rng.shuffle(rows)
    return [[str(n), *row] for n, row in enumerate(rows, 1)]


def _state(trajectory: dict, i: int) -> tuple[str, str]:
    """Return the observations up to a step, and what was executed in it, as texts."""
    steps = trajectory["steps"][: i + 1]
    executed = {a["action"]: a["outcome"] for a in steps[-1].get("alternatives") or [] if a.get("outcome")}
    executed[steps[-1]["action"]] = expert_outcome(trajectory, i)
    path = " > ".join(step["observation"] for step in steps)
    return path, "; ".join(
        f"{action}: {outcome['observation']}" for action, outcome in sorted(executed.items()) if outcome
    )


def table(sheet_file: str, read_file: str) -> None:
    """Print how often each finding was noted, by source."""
    with open(sheet_file, encoding="utf-8") as rows:
        sources = {row.split("\t")[0]: row.rstrip("\n").split("\t")[-1] for row in rows}
    found: dict[str, Counter] = defaultdict(Counter)
    with open(read_file, encoding="utf-8") as rows:
        header = next(rows).rstrip("\n").split("\t")
        for row in rows:
            cells = dict(zip(header, row.rstrip("\n").split("\t")))
            found[sources[cells["number"]]].update(
                ["read", *(f"{k}: {cells[k]}" for k in ("claims", "reason", "leads", "leak"))]
            )
    names = sorted({name for counts in found.values() for name in counts})
    print("\t".join(["source", *names]))
    for source, counts in found.items():
        print("\t".join([source, *(str(counts[name]) for name in names)]))


def main() -> None:
    what, *args = sys.argv[1:]
    if what == "table":
        table(*args)
        return
    number, style, rollout, *sources = args
    print("\t".join(COLUMNS))
    for row in sheet(int(number), style, rollout, dict(source.split("=", 1) for source in sources)):
        print("\t".join(row))


if __name__ == "__main__":
    main()
