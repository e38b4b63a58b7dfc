"""Pictures with matplotlib: a comparison, and the losses of training runs."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eexp.errors import EexpError, UsageError
from eexp.evidence.table import percentage
from eexp.system.whole_file import write_whole
from eexp.training.metrics import read_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINT, _RUN, _ZERO = "#1f4e79", "#9dbbd6", "#888888"


@contextmanager
def picture(file: str, size: tuple[float, float]) -> Iterator[Figure]:
    """Yield a figure to draw in, and save it when the block ends, in the format of the file's ending.

    Args:
        size: Width and height in inches.

    Raises:
        EexpError: matplotlib is not installed, or the file cannot be written.
        UsageError: The file's name has no ending, or one of an unknown format.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise EexpError("--plot needs matplotlib: `pip install 'eexp[plot]'`") from None
    ending = os.path.splitext(file)[1]
    if not ending:
        raise UsageError(f"--plot {file}: the name's ending says the format; give {file}.svg or {file}.png")
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "eexp", "text.parse_math": False}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        drawing = io.BytesIO()
        try:
            metadata = {"Date": None} if ending.lower() == ".svg" else None
            figure.savefig(drawing, format=ending[1:].lower(), dpi=150, metadata=metadata)
        except ValueError as e:
            raise UsageError(f"--plot {file}: {str(e).splitlines()[0]}") from None
        write_whole(file, drawing.getvalue())


def plot(rows: Sequence[dict], file: str) -> list[str]:
    """Draw success rates with their intervals and runs, and differences to the baseline with theirs.

    Args:
        rows: From `comparison.compare`.

    Returns:
        Notes on characters that the picture cannot show.
    """
    compared = [row for row in rows if row.get("difference_low") is not None]
    with (
        warnings.catch_warnings(record=True) as warning_messages,
        picture(file, (9 if compared else 5.5, 1.3 + 0.42 * len(rows))) as figure,
    ):
        from matplotlib.ticker import FuncFormatter

        warnings.simplefilter("always")
        axes = figure.subplots(1, 2 if compared else 1, sharey=True, squeeze=False)[0]
        places = {row["name"]: -i for i, row in enumerate(rows)}
        for row in rows:
            y = places[row["name"]]
            axes[0].plot([100 * row["low"], 100 * row["high"]], [y, y], color=_POINT, linewidth=1.6, zorder=2)
            if row["runs"] > 1:
                axes[0].plot(
                    [100 * value for value in row["rates"]],
                    [y] * row["runs"],
                    "|",
                    color=_RUN,
                    markersize=11,
                    markeredgewidth=1.6,
                    zorder=1,
                )
            axes[0].plot(100 * row["rate"], y, "o", color=_POINT, markersize=5.5, zorder=3)
        confidence = percentage(rows[0]["confidence"])
        runs = "; strokes: runs" if any(row["runs"] > 1 for row in rows) else ""
        axes[0].set(
            xlabel=f"success in % ({confidence} interval{runs})",
            yticks=list(places.values()),
            ylim=(-len(rows) + 0.4, 0.6),
        )
        axes[0].set_yticklabels(
            [name + (f" ({row['runs']} runs)" if row["runs"] > 1 else "") for name, row in zip(places, rows)]
        )
        if compared:
            axes[1].axvline(0, color=_ZERO, linewidth=1)
            for row in compared:
                y = places[row["name"]]
                ends = [100 * row["difference_low"], 100 * row["difference_high"]]
                axes[1].plot(ends, [y, y], color=_POINT, linewidth=1.6)
                axes[1].plot(100 * row["difference"], y, "o", color=_POINT, markersize=5.5)
            base = compared[0]["against"]
            axes[1].plot(0, places[base], "o", color="white", markeredgecolor=_ZERO, markersize=5.5)
            axes[1].set_xlabel(f"difference to {base} in points ({confidence} interval)")
            axes[1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: "0" if x == 0 else f"{x:+g}"))
        for panel in axes:
            panel.tick_params(axis="y", length=0)
            panel.spines[["top", "right", "left"]].set_visible(False)
            panel.grid(axis="x", color="#e6e6e6", linewidth=0.8)
            panel.set_axisbelow(True)
    if any("missing from font" in str(warning.message) for warning in warning_messages) and not file.lower().endswith(
        ".svg"
    ):
        return [f"--plot {file}: the font lacks some of the characters in the names; an SVG file shows them"]
    return []


def plot_losses(directories: list[Path], file: str) -> None:
    """Draw the loss curves of training runs in one picture, dashed for validation examples.

    Raises:
        UsageError: A directory holds no training run.
    """
    with picture(file, (7, 4)) as figure:
        axes = figure.subplots()
        for directory in directories:
            metrics = directory / "metrics.jsonl"
            if not metrics.is_file():
                raise UsageError(f"{directory}: holds no training run (no metrics.jsonl)")
            losses, validations = read_curves(metrics)
            (line,) = axes.plot(*_points(losses), linewidth=1, label=directory.name)
            if validations:
                curve = _points([(step, validation["loss"]) for step, validation in validations])
                axes.plot(*curve, "--", color=line.get_color(), linewidth=1, label=f"{directory.name}, validation")
        axes.set(xlabel="update", ylabel="loss (nats per target token)")
        axes.legend(frameon=False)


def _points(curve: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [loss for _, loss in curve]
