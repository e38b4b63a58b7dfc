"""The rows of a comparison as text, in percentages and points, for a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eexp.system.terminal import align

_MOST, _SOME = 0.9, 0.1  # shares of all actions from which a remark is made


def comparison_table(rows: Sequence[dict], *, by_kind: bool = False, refused: bool = False) -> str:
    """Return the rows of `compare` as text: one line a method, explanations of the numbers, and further tables.

    Args:
        rows: From `comparison.compare`.
        by_kind: Add a table of success by kind of task.
        refused: Add a table of the share of refused actions.
    """
    confidence = rows[0]["confidence"]
    compared = [row for row in rows if "against" in row]
    columns: list[tuple[str, Callable[[dict], str]]] = [("", lambda r: r["name"])]
    if any(row["runs"] > 1 for row in rows):
        columns.append(("runs", lambda r: str(r["runs"])))
    columns += [
        ("episodes", lambda r: str(r["episodes"])),
        ("success", lambda r: f"{r['rate']:.1%}"),
        (f"{percentage(confidence)} interval", lambda r: f"{r['low']:.1%} to {r['high']:.1%}"),
        ("steps", lambda r: f"{r['mean_steps']:.1f}"),
        ("invalid", lambda r: f"{r['invalid_actions']:.1%}"),
    ]
    if compared:
        columns += [("difference", lambda r: _points(r.get("difference"))), ("interval", _interval)]
        if any("won" in row for row in compared):
            columns.append(("won/lost", lambda r: f"{r['won']}/{r['lost']}" if "won" in r else ""))
        columns.append(("p", lambda r: shown_p(r.get("p"), r.get("p_exact_least"))))
        if len(compared) > 1:
            columns.append(("Holm", lambda r: shown_p(r.get("p_holm"), r.get("p_holm_bound"))))
        columns += [("exact p", lambda r: shown_p(r.get("p_exact"))), ("finds", _finds)]
    lines = align([[title for title, _ in columns], *([cell(row) for _, cell in columns] for row in rows)])
    lines += _explanations(rows, compared)
    lines += _remarks(rows)
    for key, title in (("pass_at", "pass@k, at least one of k episodes"), ("pass_all", "pass^k, all of k episodes")):
        subset = [row for row in rows if key in row]
        if subset:
            ks = sorted({int(k) for row in subset for k in row[key]})
            cells = [
                [row["name"], *(f"{row[key][str(k)]:.1%}" if str(k) in row[key] else "" for k in ks)] for row in subset
            ]
            lines += ["", *align([[title, *(f"k={k}" for k in ks)], *cells])]
    if by_kind:
        lines += ["", *(_kinds(rows) or ["no kinds: the episodes say none, or only one"])]
    if refused:
        lines += ["", *_refused(rows)]
    return "\n".join(lines)


def percentage(share: float) -> str:
    """Return a level of confidence in percent, with all of its digits, such as "99.9%"."""
    return f"{100 * share:g}%"


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}"


def _interval(row: dict) -> str:
    if "difference" not in row:
        return ""
    if row["difference_low"] is None:
        return "none"
    return f"{_points(row['difference_low'])} to {_points(row['difference_high'])}"


def _finds(row: dict) -> str:
    if "against" not in row:
        return ""
    return "none" if row["detectable"] is None else f"{100 * row['detectable']:.1f}"


def shown_p(value: float | None, least: float | None = None) -> str:
    """Return a p value as text, empty for None.

    Args:
        value: The p value.
        least: The smallest p value that the numbers of runs can support. A smaller `value` is shown as "<" and this.
    """
    if value is None:
        return ""
    if least is not None and value < least:
        return f"<{rounded_p(least)}"
    return rounded_p(value) if value >= 1e-4 else "<0.0001"


def rounded_p(value: float) -> str:
    """Return a p value with two digits, or with as many as show on which side of 0.05 it is."""
    return next(text for digits in range(2, 18) if (float(text := f"{value:.{digits}g}") < 0.05) == (value < 0.05))


def _explanations(rows: Sequence[dict], compared: Sequence[dict]) -> list[str]:
    """Return lines that explain the numbers, and what they cannot show."""
    if not compared:
        return []
    runs = {row["name"]: row["runs"] for row in rows}
    base = compared[0]["against"]
    single = sorted({name for name, n in runs.items() if n == 1})
    scope = (
        "over tasks and training runs"
        if not single
        else (
            "over tasks, for these models alone: one run a method"
            if len(single) == len(runs)
            else f"over tasks and training runs; {', '.join(single)}: one run, which stands for itself alone"
        )
    )
    lines = [
        f"difference: to {base}, in points, paired by task; interval and p {scope}",
        "exact p: McNemar (one run each) or permuted labels of runs; finds: smallest difference found with "
        "probability 80 %",
    ]
    least = {row["p_exact_least"]: row for row in compared if (row.get("p_exact_least") or 0) > 0.05}
    for p, row in least.items():
        lines.append(f"exact p: with {runs[base]} and {row['runs']} runs it cannot be below {p:.2g}")
    low = {row["p_exact_least"]: row for row in compared if (row["p"] or 1) < (row["p_exact_least"] or 0)}
    for p, row in low.items():
        corrected = "; Holm: that, corrected" if len(compared) > 1 else ""
        lines.append(f"p: with {runs[base]} and {row['runs']} runs no p below {rounded_p(p)} is shown{corrected}")
    if any(row.get("looks") for row in compared):
        lines.append(f"intervals of differences, p and exact p allow for {compared[0]['looks']} looks")
    return lines


def _remarks(rows: Sequence[dict]) -> list[str]:
    """Return lines about methods whose episodes should be read before their numbers are."""
    lines = []
    for row in rows:
        if row["invalid_actions"] >= _MOST:
            lines.append(f"{row['name']}: {row['invalid_actions']:.0%} of the actions were refused: read `eexp show`")
        if row["cut_off"] >= _SOME:
            share = f"{row['cut_off']:.0%}"
            lines.append(f"{row['name']}: {share} of the answers were cut off: too little training, or --max-tokens?")
    return lines


def _kinds(rows: Sequence[dict]) -> list[str]:
    """Return the table of success by kind of task, as lines; none where the rows have no kinds."""
    kinds = sorted({kind for row in rows for kind in row.get("kinds", {})})
    if not kinds:
        return []
    head = ["kind of task", "tasks"]
    for row in rows:
        head += [row["name"], "interval"] if "against" not in row else [row["name"], "difference", "interval"]
    cells = []
    for kind in kinds:
        first = rows[0]["kinds"][kind]
        line = [kind, str(first["tasks"])]
        for row in rows:
            result = row["kinds"][kind]
            line.append(f"{result['rate']:.1%}")
            if "against" in row:
                line += [_points(result["difference"]), _interval(result)]
            else:
                line.append(f"{result['low']:.1%} to {result['high']:.1%}")
        cells.append(line)
    return align([head, *cells])


def _refused(rows: Sequence[dict]) -> list[str]:
    """Return the table of the share of refused actions, as lines."""
    cells = []
    for row in rows:
        result = row["refused"]
        cells.append([row["name"], f"{result['mean']:.1%}"])
        if "difference" in result:
            cells[-1] += [_points(result["difference"]), _interval(result), shown_p(result["p"], row["p_exact_least"])]
    head = ["refused actions, mean over tasks", "share", "difference", "interval", "p"]
    width = max(map(len, cells))
    return align([line + [""] * (width - len(line)) for line in (head[:width], *cells)])


def power_table(rows: Sequence[dict]) -> str:
    """Return the rows of `plans` as text: tasks downwards, runs across."""
    first = rows[0]
    runs = sorted({row["runs"] for row in rows})
    differences = {(row["tasks"], row["runs"]): row["smallest"] for row in rows}
    head = ["tasks", *(f"{n} run{'s' * (n > 1)} each" for n in runs)]
    cells = []
    for tasks in sorted({row["tasks"] for row in rows}):
        smallest = [differences.get((tasks, n)) for n in runs]
        cells.append([str(tasks), *("none" if value is None else f"{100 * value:.1f}" for value in smallest)])
    lines = align([head, *cells])
    lines.append(
        f"smallest improvement, in points, that a {percentage(first['confidence'])} interval tells from zero "
        f"with probability {first['power']:.0%}"
    )
    lines.append(
        f"baseline {first['rate']:.1%}; sd between runs {100 * first['run_sd']:.1f} points "
        f"({first['run_sd_from']}); correlation on a task {first['alike']:.2f} "
        f"({first['alike_from']})"
    )
    if 1 in runs:
        lines.append("1 run each: a difference between two models, not between two methods")
    return "\n".join(lines)
