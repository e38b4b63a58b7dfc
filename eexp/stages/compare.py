"""`eexp compare`: what the episodes say, with the uncertainty they have.

Intervals and tests are SciPy's: Wilson for a success rate, the exact binomial (McNemar) test for paired successes, and
Student's interval over the paired differences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from eexp import options
from eexp.errors import UsageError

Key = tuple[str, str, int]  # environment, task, trial


def compare(groups: dict[str, Iterable[dict]], *, baseline: str | None = None, confidence: float = 0.95) -> list[dict]:
    """One row a group of episodes: success rate with its Wilson interval, and the paired difference to the baseline.

    groups: episodes by label; the first label is the baseline unless another is named. Episodes are paired by
    environment, task and trial; `difference` is the mean over the pairs, with a Student interval over tasks (trials of
    a task are averaged first) and the p value of the exact McNemar test over the pairs.
    Raises UsageError for an empty group, a task that occurs twice in one, or a baseline that is not there.
    """
    successes = {label: _successes(label, episodes) for label, episodes in groups.items()}
    first = baseline or next(iter(successes))
    if first not in successes:
        raise UsageError(f"no group is called {first!r}; there are: {', '.join(successes)}")
    rows = []
    for label, found in successes.items():
        row = {"name": label, **_rate([e["success"] for e in found.values()], confidence),
               "mean_steps": sum(e["steps"] for e in found.values()) / len(found),
               "invalid_actions": sum(e["invalid"] for e in found.values()) / max(1, sum(
                   e["steps"] for e in found.values()))}  # fmt: skip
        if label != first:
            row.update(_paired(successes[first], found, confidence), against=first)
        rows.append(row)
    return rows


def _successes(label: str, episodes: Iterable[dict]) -> dict[Key, dict]:
    found: dict[Key, dict] = {}
    for e in episodes:
        key = (e["env"], str(e["task"].get("id")), e.get("seed", 0))
        if key in found:
            raise UsageError(f"{label}: task {key[1]}, trial {key[2]} occurs twice; are these two runs in one file?")
        found[key] = {"success": bool(e["success"]), "steps": e["steps"], "invalid": e.get("invalid", 0)}
    if not found:
        raise UsageError(f"{label}: no episodes")
    return found


def _rate(successes: Sequence[bool], confidence: float) -> dict[str, Any]:
    from scipy.stats import binomtest

    test = binomtest(sum(successes), len(successes))
    interval = test.proportion_ci(confidence, method="wilson")
    return {"episodes": len(successes), "successes": sum(successes), "rate": sum(successes) / len(successes),
            "low": float(interval.low), "high": float(interval.high)}  # fmt: skip


def _paired(base: dict[Key, dict], other: dict[Key, dict], confidence: float) -> dict[str, Any]:
    from scipy.stats import binomtest, ttest_1samp

    pairs = [(key, base[key]["success"], other[key]["success"]) for key in base if key in other]
    if not pairs:
        return {"pairs": 0}
    won, lost = sum(b and not a for _, a, b in pairs), sum(a and not b for _, a, b in pairs)
    by_task: dict[tuple, list[int]] = {}
    for (env, task, _), a, b in pairs:
        by_task.setdefault((env, task), []).append(int(b) - int(a))
    differences = [sum(d) / len(d) for d in by_task.values()]
    mean = sum(differences) / len(differences)
    low = high = None
    if len(differences) > 1:
        if len(set(differences)) == 1:  # no spread to estimate an interval from
            low = high = None
        else:
            interval = ttest_1samp(differences, 0).confidence_interval(confidence)
            low, high = float(interval.low), float(interval.high)
    p = binomtest(won, won + lost).pvalue if won + lost else 1.0
    return {"pairs": len(pairs), "difference": mean, "difference_low": low, "difference_high": high, "won": won,
            "lost": lost, "p": float(p)}  # fmt: skip


def table(rows: list[dict], confidence: float) -> str:
    """The rows as text, percentages for a person."""
    head = ["", "episodes", "success", f"{confidence:.0%} interval", "steps", "invalid", "difference", "interval",
            "won/lost", "p"]  # fmt: skip
    lines = [head]
    for r in rows:
        cells = [r["name"], str(r["episodes"]), f"{r['rate']:.1%}", f"{r['low']:.1%} to {r['high']:.1%}",
                 f"{r['mean_steps']:.1f}", f"{r['invalid_actions']:.1%}"]  # fmt: skip
        if r.get("pairs"):
            spread = "none" if r["difference_low"] is None else \
                f"{100 * r['difference_low']:+.1f} to {100 * r['difference_high']:+.1f}"  # fmt: skip
            cells += [f"{100 * r['difference']:+.1f}", spread, f"{r['won']}/{r['lost']}", f"{r['p']:.3g}"]
        elif "against" in r:
            cells += ["no task in common", "", "", ""]
        else:
            cells += ["", "", "", ""]
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    shown = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip()
             for line in lines]  # fmt: skip
    base = next((r["against"] for r in rows if "against" in r), None)
    if base:
        shown.append(f"difference: in points, paired with {base} by task; p: exact McNemar test")
    return "\n".join(shown)


@click.command("compare")
@click.argument("files", nargs=-1, required=True, type=options.PATH, metavar="[NAME=]FILE...")
@click.option("--baseline", metavar="NAME", help="The row to compare the others with.  [default: the first file]")
@click.option("--confidence", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True, metavar="LEVEL",
              help="Confidence of the intervals.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSONL, one line a row, instead of a table.")
def command(files, baseline, confidence, as_json) -> None:
    """Compare files of episodes: success, intervals, paired differences.

    Every FILE is one row, named NAME or after the file. Pairs are episodes on the same task. Rates have Wilson
    intervals, differences Student intervals over tasks and the p value of the exact McNemar test.

    \b
    Example:
      eexp eval house -m random -n 30 > random.jsonl
      eexp eval house -m expert -n 30 > expert.jsonl
      eexp compare random.jsonl expert.jsonl
    """
    from eexp.jsonl import dumps, read

    groups = {}
    for text in files:
        name, sep, file = text.rpartition("=")
        label = name if sep else Path(file).stem
        if label in groups:
            raise click.UsageError(f"two groups are called {label!r}; name them: NAME=FILE")
        groups[label] = read([file], "episode")
    rows = compare(groups, baseline=baseline, confidence=confidence)
    if as_json:
        for row in rows:
            click.echo(dumps(row), nl=False)
    else:
        click.echo(table(rows, confidence))
