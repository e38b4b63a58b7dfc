"""Drawings of a report, as inline SVG that takes its colours from the page.

Tracks have no viewBox: their positions are percentages, so that they are as wide as their cell while marks and text
keep their size. Colour alone never identifies an arm: each has a shape of its own, and stands beside its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

SHAPES = [
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",  # circle
    "M-3.6,-3.6h7.2v7.2h-7.2z",  # square
    "M0,-5L5,0L0,5L-5,0z",  # diamond
    "M0,-4.8L4.6,3.6L-4.6,3.6z",  # triangle
    "M0,4.8L4.6,-3.6L-4.6,-3.6z",  # triangle, point down
    "M-1.6,-4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z",  # plus
]
COLOURS = 6  # --arm-0 to --arm-5 in page.css


def shape(number: int) -> str:
    """Return the path of the mark of an arm; the combinations of shape and colour begin again after 36 arms."""
    return SHAPES[(number + number // COLOURS) % len(SHAPES)]


def colour(number: int) -> str:
    """Return the colour of an arm, as CSS."""
    return f"var(--arm-{number % COLOURS})"


def glyph(number: int) -> Markup:
    """Draw the mark of an arm, to stand in a line of text."""
    path = Markup('<path d="{}" style="fill:{}"/>').format(shape(number), colour(number))
    return Markup('<svg class="glyph" viewBox="-6 -6 12 12" aria-hidden="true">{}</svg>').format(path)


@dataclass(frozen=True)
class Scale:
    """A range of numbers and its round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def percent(self, value: float) -> str:
        """Return the position of `value`, as a percentage of the width."""
        return f"{100 * min(1.0, max(0.0, self.share(value))):.2f}%"

    def share(self, value: float) -> float:
        """Return the position of `value`, 0 at the low end and 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


def scale(values: Iterable[float], most: int = 4) -> Scale:
    """Return a scale with at most about `most` round steps that holds 0 and all `values`."""
    all_values = [0.0, *values]
    low, high = min(all_values), max(all_values)
    if high - low < 1e-9:
        high = low + 1
    step = _round_step((high - low) / most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(first * step, last * step, tuple(round(i * step, 10) for i in range(first, last + 1)))


def _round_step(step: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is at least `step`."""
    size = 10 ** math.floor(math.log10(step))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= step * (1 - 1e-9))


def track(
    along: Scale,
    number: int,
    *,
    mean: float,
    low: float | None,
    high: float | None,
    runs: Sequence[float] = (),
    reference: float | None = None,
    label: str,
    unit: str = "",
) -> Markup:
    """Draw one row: the interval as a bar, the mean as the arm's mark, runs as open dots, a reference as a line.

    Args:
        along: The scale of all values.
        number: Of the arm.
        mean, low, high: The mean and the ends of its interval.
        runs: The values of single runs.
        reference: The baseline's value.
        label: The content of the drawing in words, for screen readers.
        unit: "±" for ticks with signs.
    """
    at = along.percent
    parts = [f'<line class="grid" x1="{at(tick)}" x2="{at(tick)}" y1="4" y2="40"/>' for tick in along.ticks]
    if reference is not None:
        parts.append(f'<line class="reference" x1="{at(reference)}" x2="{at(reference)}" y1="2" y2="42"/>')
    if low is not None and high is not None:
        parts.append(f'<line class="interval" x1="{at(low)}" x2="{at(high)}" y1="15" y2="15"/>')
        parts += [f'<line class="cap" x1="{at(end)}" x2="{at(end)}" y1="10" y2="20"/>' for end in (low, high)]
    parts.append(f'<svg x="{at(mean)}" y="15" class="at"><path class="mean" d="{shape(number)}"/></svg>')
    parts += [f'<circle class="run" cx="{at(run)}" cy="31" r="3.2"/>' for run in runs]
    parts += [_tick(along, tick, 54, unit) for tick in along.ticks]
    return Markup('<svg class="track" role="img" aria-label="{}" style="--c:{}">{}</svg>').format(
        label, colour(number), Markup("".join(parts))
    )


def axis(along: Scale, unit: str = "") -> Markup:
    """Draw the ticks that belong to the tracks above."""
    return Markup('<svg class="axis" aria-hidden="true">{}</svg>').format(
        Markup("".join(_tick(along, tick, 12, unit) for tick in along.ticks))
    )


def _tick(along: Scale, tick: float, y: int, unit: str) -> str:
    """Return the text of a tick, aligned so that it stays within the width."""
    share = along.share(tick)
    anchor = "start" if share < 0.02 else "end" if share > 0.98 else "middle"
    label = signed(tick) if unit == "±" else f"{tick:g}"
    return f'<text x="{along.percent(tick)}" y="{y}" text-anchor="{anchor}">{escape(label)}</text>'


def signed(number: float, digits: int | None = None) -> str:
    """Return a number with its sign, a true minus."""
    text = f"{number:g}" if digits is None else f"{number:.{digits}f}"
    if not float(text):
        return text.lstrip("-")
    return ("+" if number > 0 else "\N{MINUS SIGN}") + text.lstrip("-")


# -- curves ------------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 280, 184
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 34
POINTS = 80  # of a curve; losses of more updates are averaged

Curve = list[tuple[float, float]]


def smooth(losses: Sequence[tuple[int, float]], last: int) -> Curve:
    """Return the losses averaged over POINTS equal stretches of the updates up to `last`."""
    bins: dict[int, list[tuple[int, float]]] = {}
    for step, loss in losses:
        if math.isfinite(loss):
            bins.setdefault((step - 1) * POINTS // max(last, 1), []).append((step, loss))
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in bins.values()]


@dataclass(frozen=True)
class Frame:
    """The axes that all charts of curves share: updates from 0, losses on a logarithmic scale."""

    updates: Scale
    low: float
    high: float

    @property
    def ticks(self) -> list[float]:
        """The losses with a grid line: 1, 2 and 5 times every power of ten, or fewer where these are many."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            losses = (factor * 10.0**power for power in powers for factor in factors)
            ticks = [loss for loss in losses if self.low <= loss <= self.high]
            if len(ticks) <= 7:
                break
        return ticks

    def point(self, update: float, loss: float) -> str:
        """Return the position of a loss after an update, as "x,y" in SVG units."""
        return f"{self.x(update):.1f},{self.y(loss):.1f}"

    def x(self, update: float) -> float:
        """Return the horizontal position of an update, in SVG units."""
        return LEFT + (WIDTH - LEFT - RIGHT) * self.updates.share(update)

    def y(self, loss: float) -> float:
        """Return the vertical position of a loss, in SVG units."""
        share = math.log(max(loss, self.low) / self.low) / math.log(self.high / self.low)
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share


def frame(curves: Iterable[Curve]) -> Frame | None:
    """Return axes that hold all `curves`; None where there is no point."""
    points = [(x, y) for curve in curves for x, y in curve if y > 0]
    if not points:
        return None
    low, high = min(y for _, y in points), max(y for _, y in points)
    if high / low < 2:
        low, high = low / 1.5, high * 1.5
    return Frame(scale(x for x, _ in points), low / 1.05, high * 1.05)


def curves_chart(axes: Frame, number: int, runs: Sequence[tuple[str, Curve, Curve]], label: str) -> Markup:
    """Draw the loss of every run of an arm as a line, and its held-out loss, if there is one, as dashes with dots.

    Args:
        axes: From `frame`, for the curves of all arms.
        number: Of the arm.
        runs: Name, losses and held-out losses.
        label: The content of the chart in words, for screen readers.
    """
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick in axes.ticks:
        y = f"{axes.y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y}" dy="0.34em" text-anchor="end">{tick:g}</text>')
    for tick in axes.updates.ticks:
        x = f"{axes.x(tick):.1f}"
        anchor = "end" if tick == axes.updates.high else "middle"
        parts.append(f'<text x="{x}" y="{bottom + 14}" text-anchor="{anchor}">{tick:g}</text>')
        parts.append(f'<line class="axis-line" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 3}"/>')
    parts.append(f'<line class="axis-line" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text class="unit" x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">update</text>')
    turned = f"translate(9,{(TOP + bottom) / 2:.0f}) rotate(-90)"
    parts.append(f'<text class="unit" transform="{turned}" text-anchor="middle">nats a token</text>')
    for name, losses, validations in runs:
        title = f"<title>{escape(name)}</title>" if name else ""
        if losses:
            points = " ".join(axes.point(x, y) for x, y in losses if y > 0)
            parts.append(f'<polyline class="loss" points="{points}">{title}</polyline>')
        if validations:
            points = [axes.point(x, y) for x, y in validations if y > 0]
            parts.append(f'<polyline class="held-out" points="{" ".join(points)}">{title}</polyline>')
            places = (point.split(",") for point in points)
            parts += [f'<circle class="held-out" cx="{x}" cy="{y}" r="2.6"/>' for x, y in places]
    return Markup('<svg class="curves" viewBox="0 0 {} {}" role="img" aria-label="{}" style="--c:{}">{}</svg>').format(
        WIDTH, HEIGHT, label, colour(number), Markup("".join(parts))
    )
