"""Render the report of a study, one page of HTML that loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from markupsafe import Markup, escape

from eexp.evidence.comparison import compare
from eexp.evidence.results import kind_for_comparison
from eexp.evidence.settings import CompareSettings
from eexp.evidence.table import rounded_p
from eexp.pages import html
from eexp.report import charts
from eexp.report.excerpts import excerpts
from eexp.report.settings import ReportSettings
from eexp.report.study import Arm

NARROW = "\N{NARROW NO-BREAK SPACE}"


def report(arms: Sequence[Arm], settings: ReportSettings | None = None, *, source: Sequence[str] = ()) -> str:
    """Compare the arms of a study, choose the episodes to show, and render the page, as HTML.

    Args:
        arms: From `study.find_arms`; the others are compared with the first one.
        settings: The title, what is compared, and how many episodes the page has.
        source: The directories that the page names as its source.

    Raises:
        InputError: A file of episodes holds no episodes, one twice, or a line that is none.
        UsageError: Runs are on different tasks.
    """
    settings = settings or ReportSettings()
    rows = compare(
        {arm.label: [run.episodes() for run in arm.runs] for arm in arms},
        CompareSettings(confidence=settings.confidence, common=settings.common),
        files={arm.label: [str(run.file) for run in arm.runs] for arm in arms},
    )
    most_bytes = int(settings.megabytes * 1e6)
    shown = excerpts(arms, kind_for_comparison, tasks=settings.tasks, most_bytes=most_bytes, seed=settings.seed)
    too_large = len(shown["tasks"]) < min(settings.tasks, shown["of"])
    limit = f"--megabytes {settings.megabytes:g}" if too_large else f"--tasks {settings.tasks}"
    title = settings.title or ", ".join(Path(directory).resolve().name for directory in source)
    return page(arms, rows, shown, title=title, confidence=settings.confidence, source=source, limit=limit)


def page(
    arms: Sequence[Arm],
    rows: Sequence[dict],
    shown: dict,
    *,
    title: str,
    confidence: float,
    source: Sequence[str],
    limit: str = "",
) -> str:
    """Render the page.

    Args:
        arms: In the order of `rows`.
        rows: The rows that `eexp compare --json` prints for these arms.
        shown: The episodes to show, from `excerpts.excerpts`.
        title: Of the page.
        confidence: Of the intervals in `rows`.
        source: The directories, as they were given.
        limit: The option that kept the other tasks' episodes out, such as "--tasks 100".
    """
    baseline = next((row["against"] for row in rows if row.get("against")), None)
    best = max(range(len(rows)), key=lambda i: (i > 0, rows[i]["rate"]))  # beside the baseline
    names = [{"label": arm.label, "runs": [run.name for run in arm.runs]} for arm in arms]
    episodes = {"arms": names, "start": ["0/0", f"{best}/0"], **shown}
    return html.render(
        "eexp.report",
        title,
        {"rows": list(rows), "episodes-data": episodes},
        filters={"value": value, "percent": percent, "points": points, "p": p_value, "count": count},
        loads="img-src data:",
        functions={"glyph": charts.glyph, "colour": charts.colour},
        kind="report",
        confidence=f"{100 * confidence:g}{NARROW}%",
        baseline=baseline,
        findings=findings(rows, confidence),
        facts=_facts(rows, arms),
        table=_table(rows),
        kinds=_kinds(rows),
        training=_training(arms),
        charts=_charts(arms),
        arms=arms,
        source=source,
        limit=limit,
        excerpts=shown,
    )


# -- numbers -----------------------------------------------------------------------------------------------------------


def value(number: float | None, shown: str | None = None) -> Markup:
    """Render a number as `shown`, with the exact one beside it for programs; a dash for None."""
    if number is None:
        return Markup('<span class="none">\N{EN DASH}</span>')
    return Markup('<data value="{}">{}</data>').format(orjson.dumps(number).decode(), shown or f"{number:g}")


def percent(number: float | None, digits: int = 1) -> Markup:
    """Render a share as a percentage, without the percent sign."""
    return value(number, None if number is None else f"{100 * number:.{digits}f}")


def points(number: float | None) -> Markup:
    """Render a difference of shares in percentage points, with its sign."""
    return value(number, None if number is None else charts.signed(100 * number, 1))


def p_value(number: float | None, least: float | None = None) -> Markup:
    """Render a p value; as "<" and `least`, the smallest that the numbers of runs can support, where it is lower."""
    if number is not None and least is not None and number < least:
        return value(number, f"< {rounded_p(least)}")
    return value(number, None if number is None else "< 0.001" if number < 0.001 else rounded_p(number))


def count(number: float | None) -> Markup:
    """Render a whole number, with narrow spaces between thousands."""
    return value(number, None if number is None else f"{number:,}".replace(",", NARROW))


# -- results -----------------------------------------------------------------------------------------------------------


def findings(rows: Sequence[dict], confidence: float) -> list[Markup]:
    """Return the findings as sentences.

    They name the arms that differ from the baseline, those for which that is not settled, and the baseline itself.

    Args:
        rows: From `comparison.compare`.
        confidence: Of the intervals in them; a difference counts if its corrected p is below 1 - confidence.
    """
    interval = f"{100 * confidence:g}{NARROW}% interval"
    same = len({row["runs"] for row in rows}) == 1

    def rate(row: dict, first: bool) -> Markup:
        runs = f", on average over {row['runs']} training runs" if row["runs"] > 1 and (first or not same) else ""
        return Markup("{}{}% of the tasks{}").format(percent(row["rate"]), NARROW, runs)

    def ends(row: dict, low: str, high: str, show: Callable) -> Markup:
        if row[low] is None:
            return Markup("no interval from so few tasks")
        return Markup("{} {} to {}").format(interval, show(row[low]), show(row[high]))

    base = next((row for row in rows if not row.get("against")), None)
    others = sorted((row for row in rows if row.get("against")), key=lambda row: -row["difference"])
    if base is None or not others:
        sentence = Markup("<b>{}</b> solves {} ({}).")
        return [sentence.format(row["name"], rate(row, True), ends(row, "low", "high", percent)) for row in rows]
    settled = [row for row in others if row.get("p_holm") is not None and row["p_holm"] < 1 - confidence]
    unsettled = [row for row in others if row not in settled]
    sentences = []
    for i, row in enumerate(settled):
        size = f"{abs(100 * row['difference']):.1f} points {'more' if row['difference'] > 0 else 'fewer'}"
        interval_text = ends(row, "difference_low", "difference_high", points)
        sentence = Markup("<b>{}</b> solves {}, <b>{}</b> than {} ({}, <i>p</i>\N{NO-BREAK SPACE}{}){}.")
        sentences.append(
            sentence.format(
                row["name"],
                rate(row, i == 0),
                size,
                base["name"],
                interval_text,
                p_value(row["p_holm"], row["p_holm_bound"]),
                _exact_caveat(row, 1 - confidence),
            )
        )
    if unsettled:
        names = [
            Markup("<b>{}</b> ({}; {})").format(
                row["name"], points(row["difference"]), ends(row, "difference_low", "difference_high", points)
            )
            for row in unsettled
        ]
        smallest = [
            f"{100 * row['detectable']:.0f}"
            for row in sorted(unsettled, key=lambda row: row["detectable"] or 0)
            if row["detectable"] is not None
        ]
        span = " to ".join(dict.fromkeys([smallest[0], smallest[-1]])) if smallest else ""
        power = f" Such a comparison finds a difference of {span} points in four of five cases." if span else ""
        sentences.append(Markup("Not settled against {}: {}.{}").format(base["name"], Markup(", ").join(names), power))
    sentences.append(Markup("The baseline, <b>{}</b>, solves {}.").format(base["name"], rate(base, not settled)))
    if all(row["runs"] == 1 for row in rows):
        sentences.append(Markup("One run an arm: this holds for these models; training again may change it by more."))
    return sentences


def _exact_caveat(row: dict, alpha: float) -> Markup:
    """Return a caveat where the exact test does not confirm a difference with a small p; else nothing."""
    exact, least = row.get("p_exact"), row.get("p_exact_least")
    if exact is None or exact < alpha:
        return Markup("")
    if least is not None and least >= alpha:
        return Markup("; so few runs cannot give an exact <i>p</i> below {}, so more would have to confirm it").format(
            p_value(least)
        )
    return Markup("; but the exact <i>p</i> is {}: open, until there are more runs").format(p_value(exact))


def _facts(rows: Sequence[dict], arms: Sequence[Arm]) -> list[tuple[str, Markup]]:
    """Return facts about the whole study: tasks, runs, episodes, panel."""
    tasks, runs = sorted({row["tasks"] for row in rows}), sorted({row["runs"] for row in rows})
    facts = [
        ("tasks", _range(tasks)),
        ("training runs an arm", _range(runs)),
        ("episodes", count(sum(row["episodes"] for row in rows))),
    ]
    panels = sorted({row["panel"] for row in rows if row.get("panel")})
    if panels:
        code = Markup('<code title="{}">{}</code>')
        facts.append(("panel", Markup(" ").join(code.format(panel, panel[:19]) for panel in panels)))
    return facts


def _range(numbers: Sequence[float]) -> Markup:
    """Render one number, or the smallest and the largest."""
    if len(numbers) == 1:
        return count(numbers[0])
    return Markup("{} to {}").format(count(min(numbers)), count(max(numbers)))


def _table(rows: Sequence[dict]) -> dict:
    """Return the rows with their drawings, and the axes of these."""
    shares = [share for row in rows for share in (row["high"], row["rate"], *row["rates"]) if share is not None]
    success = charts.scale(100 * share for share in shares)
    success = charts.Scale(success.low, min(success.high, 100.0), tuple(t for t in success.ticks if t <= 100))
    base = next((row for row in rows if not row.get("against")), None)
    ends = [
        100 * row[key]
        for row in rows
        for key in ("difference", "difference_low", "difference_high")
        if row.get(key) is not None
    ]
    gain = charts.scale(ends) if ends else None
    lines = []
    for number, row in enumerate(rows):
        rates = ", ".join(f"{100 * rate:.1f}" for rate in row["rates"])
        label = f"{row['name']}: success {100 * row['rate']:.1f} percent, runs {rates}"
        drawing = charts.track(
            success,
            number,
            mean=100 * row["rate"],
            low=_hundred(row["low"]),
            high=_hundred(row["high"]),
            runs=[100 * rate for rate in row["rates"]] if len(row["rates"]) > 1 else [],
            reference=100 * base["rate"] if base else None,
            label=label,
        )
        difference = None
        if gain and row.get("difference") is not None:
            description = f"{row['name']}: difference {100 * row['difference']:+.1f} points"
            if row["difference_low"] is not None:
                description += f", interval {100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f}"
            low, high = _hundred(row["difference_low"]), _hundred(row["difference_high"])
            difference = charts.track(
                gain, number, mean=100 * row["difference"], low=low, high=high, reference=0, label=description, unit="±"
            )
        lines.append({"number": number, "row": row, "success": drawing, "difference": difference})
    trials = any(row.get("pass_at") and len(row["pass_at"]) > 1 for row in rows)
    return {
        "lines": lines,
        "success": charts.axis(success),
        "difference": charts.axis(gain, "±") if gain else None,
        "thoughts": any(row.get("thoughts") for row in rows),
        "cut_off": any(row.get("cut_off", 0) >= 0.0005 for row in rows),
        "trials": trials,
    }


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _kinds(rows: Sequence[dict]) -> list[dict]:
    """Return success by kind of task: one line a kind, one cell an arm."""
    names = sorted({kind for row in rows for kind in row.get("kinds") or {}})
    if len(names) < 2:
        return []
    lines = []
    for name in names:
        cells = [(row.get("kinds") or {}).get(name) for row in rows]
        lines.append({"name": name, "tasks": next(cell["tasks"] for cell in cells if cell), "cells": cells})
    return lines


# -- training ----------------------------------------------------------------------------------------------------------


def _charts(arms: Sequence[Arm]) -> list[dict]:
    """Return a chart of losses for every arm that was trained, all with the same axes, and the losses at their ends."""
    last = max((step for arm in arms for run in arm.runs for step, _ in run.losses), default=0)
    curves = {}
    for number, arm in enumerate(arms):
        of_runs = []
        for run in arm.runs:
            if run.losses or run.validations:
                held_out = [(float(step), losses["loss"]) for step, losses in run.validations]
                of_runs.append((run.name, charts.smooth(run.losses, last), held_out))
        if of_runs:
            curves[number] = of_runs
    axes = charts.frame(curve for of_runs in curves.values() for _, *pair in of_runs for curve in pair)
    if axes is None:
        return []
    figures = []
    for number, of_runs in curves.items():
        label = arms[number].label
        ends = [_loss(losses[-1][1]) for _, losses, _ in of_runs if losses]
        held_out = [_loss(losses[-1][1]) for *_, losses in of_runs if losses]
        description = f"{label}: loss at the end {', '.join(ends)}"
        description += f"; held-out {', '.join(held_out)}" if held_out else ""
        figures.append(
            {
                "number": number,
                "label": label,
                "chart": charts.curves_chart(axes, number, of_runs, description),
                "ends": ends,
                "held_out": held_out,
            }
        )
    return figures


def _loss(loss: float) -> str:
    return f"{loss:.3f}" if loss >= 0.01 else f"{loss:.2g}"


#: The columns of the table of training runs: a heading, and the keys of the value in eexp.json.
_SETTINGS = [
    ("base", ("settings", "base")),
    ("examples", ("data", "examples")),
    ("updates", ("total", "updates")),
    ("target tokens", ("total", "target_tokens")),
    ("learning rate", ("learning_rate",)),
    ("rank", ("settings", "rank")),
    ("seed", ("settings", "seed")),
]


def _training(arms: Sequence[Arm]) -> dict:
    """Return the table of how the arms were trained; a cell has all values of an arm's runs where they differ."""
    lines = []
    for number, arm in enumerate(arms):
        run_files = [run.settings for run in arm.runs if run.settings]
        if run_files:
            cells = [_values([_at(run_file, keys) for run_file in run_files]) for _, keys in _SETTINGS]
            lines.append({"number": number, "label": arm.label, "kinds": _kinds_of_examples(run_files), "cells": cells})
    return {"headings": [heading for heading, _ in _SETTINGS], "lines": lines}


def _kinds_of_examples(run_files: Sequence[dict]) -> str:
    """Return the kinds of examples that an arm was trained on, by its first run, and whether any are imagined."""
    kinds = _at(run_files[0], ("data", "kinds"))
    words = [str(kind).replace("_", " ") for kind in sorted(kinds)] if isinstance(kinds, dict) else []
    return ", ".join([*words, *["some or all imagined"] * any(_at(run, ("data", "imagined")) for run in run_files)])


def _at(run_file: Any, keys: Sequence[str]) -> Any:
    """Return the value at nested keys; None where there is none."""
    if keys == ("settings", "rank") and _at(run_file, ("settings", "full")):
        return "all weights"
    for key in keys:
        run_file = run_file.get(key) if isinstance(run_file, dict) else None
    return run_file


def _values(values: Sequence[Any]) -> Markup:
    """Render the distinct values of an arm's runs: a range of more than two whole numbers, or all of them."""
    scalars = list(dict.fromkeys(one for one in values if isinstance(one, (int, float, str))))
    if not scalars:
        return value(None)
    numbers = [one for one in scalars if isinstance(one, int)]
    if len(numbers) == len(scalars) > 2:
        return _range(numbers)
    texts = (count(one) if isinstance(one, int) else f"{one:g}" if isinstance(one, float) else one for one in scalars)
    return Markup(", ").join(map(escape, texts))
