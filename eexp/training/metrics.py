"""The losses of a training run, as it wrote them to metrics.jsonl."""

from __future__ import annotations

import json
import math
from pathlib import Path


def read_curves(metrics: Path) -> tuple[list[tuple[int, float]], list[tuple[int, dict]]]:
    """Return the losses and the validation losses, each with its update.

    The run may be under way, or may have been killed while it wrote a line. Losses that are not finite are left out.
    """
    losses, validations = [], []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            if "validation" in row:
                step, loss = int(row["step"]), float(row["validation"]["loss"])
                if math.isfinite(loss):
                    validations.append((step, {**row["validation"], "loss": loss}))
            else:
                step, loss = int(row["step"]), float(row["loss"])
                if math.isfinite(loss):
                    losses.append((step, loss))
        except (ValueError, KeyError, TypeError, OverflowError):  # half a line; or one without a loss
            continue
    return losses, validations
