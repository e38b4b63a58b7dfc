"""What a larger run would take, from what smaller ones took (`--costs FILE`).

The time of a stage is that of one start for each part of the records, and so much for each trajectory. Where runs with
several K were measured, the latter has a part for each trajectory and one for each alternative; else all of it grows
with K, which is more than it will be. How long a stage takes on several nodes, and what a lost node costs, is found by
playing it through: parts of random sizes, as hashes make them, are given to the cores in order.
"""

from __future__ import annotations

import heapq
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from eexp.errors import InputError, UsageError
from eexp.evidence.settings import MOST_CORES, PlanSettings
from eexp.records.record import seed_of
from eexp.records.types import explain

#: Parts of the records for each core, by default: a lost node, or a slow one, leaves little to wait for.
PARTS_A_CORE = 4
_K = re.compile(r"(?:^| )k=([1-9][0-9]{0,8})(?: |$)")

_Count = Annotated[int, Meta(ge=0, le=1 << 46)]  # times MOST_CORES, it still is an integer of 64 bits
_Seconds = Annotated[float, Meta(ge=0, le=1e12)]


class CostLine(msgspec.Struct, kw_only=True):
    """One line of `--costs`, which is a dict: this class only describes it."""

    type: Literal["cost"]
    stage: str
    entry: str
    reads: list[str]
    server: bool
    read: _Count = msgspec.field(name="in")
    done_before: _Count
    out: _Count
    bytes: _Count
    alternatives: _Count
    seconds: _Seconds
    start_seconds: _Seconds
    cpu_seconds: _Seconds
    start_cpu_seconds: _Seconds
    memory: _Count
    worker_memory: _Count
    cores: Annotated[int, Meta(ge=1, le=MOST_CORES)]


def check_cost(cost: Any) -> dict:
    """Return a line of `--costs` as it is.

    Raises:
        InputError: It is none; the message names the JSON path of the first field that is wrong.
    """
    if not isinstance(cost, dict) or cost.get("type") != "cost":
        raise InputError("not a line that --costs wrote", "$")
    try:
        msgspec.convert(cost, CostLine)
    except msgspec.ValidationError as e:
        error = explain(str(e))
        raise InputError(f"not a line that --costs wrote: {error.message}", error.where) from None
    return cost


@dataclass
class StageCost:
    """What one stage took, over all its measured runs.

    Attributes:
        stage: Its name.
        trajectories: How many it processed.
        start: Seconds up to the first of them, in each run.
        seconds: Seconds of one core for each trajectory and, in addition, for each alternative.
        alternatives: Alternatives in a trajectory that it wrote.
        bytes: Bytes of what it wrote for one trajectory and, in addition, for each alternative.
        memory: Bytes that one part of the records takes: its process and one worker.
        server: Whether a server did a part of the work, so that its time counts and not that of the processor.
    """

    stage: str
    trajectories: int
    start: float
    seconds: tuple[float, float]
    alternatives: float
    bytes: tuple[float, float]
    memory: int
    server: bool


def stage_costs(costs: Iterable[dict]) -> tuple[list[StageCost], float | None, list[str]]:
    """Return what each stage took, in the order of the stages.

    Args:
        costs: The lines that `--costs` wrote.

    Returns:
        The stages; the K with which alternatives were added (None where none were, or with several); and the stages
        that are left out, because they do not process trajectories.

    Raises:
        InputError: There is nothing to go by.
    """
    runs: dict[str, list[dict]] = {}
    left_out: dict[str, None] = {}
    ks = set()
    for cost in costs:
        if k := _K.search(check_cost(cost)["entry"]):
            ks.add(int(k[1]))
        if cost["reads"] not in ([], ["trajectory"]):
            left_out[cost["stage"]] = None
        elif _trajectories(cost) > 0:
            runs.setdefault(cost["stage"], []).append(cost)
    if not runs:
        raise InputError("no run of a stage that processes trajectories; give the file of --costs")
    return [_stage(name, of_stage) for name, of_stage in runs.items()], ks.pop() if len(ks) == 1 else None, [*left_out]


def _trajectories(cost: dict) -> int:
    """Return how many trajectories a run processed; those that an earlier run had done are not among them."""
    return cost["in"] - cost["done_before"] if cost["in"] else cost["out"]


def _stage(name: str, runs: list[dict]) -> StageCost:
    server = any(run["server"] for run in runs)
    kind = "" if server else "cpu_"
    points = []
    for run in runs:
        n = _trajectories(run)
        # The first one is a part of the start; of a single one nothing more is known.
        seconds = (run[f"{kind}seconds"] - run[f"start_{kind}seconds"]) / (n - 1) if n > 1 else run[f"{kind}seconds"]
        points.append((n, run["alternatives"] / n, seconds, run["bytes"] / n))
    total = sum(n for n, *_ in points)
    return StageCost(
        stage=name,
        trajectories=total,
        start=sum(run[f"start_{kind}seconds"] for run in runs) / len(runs),
        seconds=_line([(n, x, seconds) for n, x, seconds, _ in points]),
        alternatives=sum(n * x for n, x, *_ in points) / total,
        bytes=_line([(n, x, size) for n, x, _, size in points]),
        memory=max(run["memory"] + run["worker_memory"] for run in runs),
        server=server,
    )


def _line(points: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    """Return constant and slope of the line through points (weight, x, y), neither of them below 0.

    Where all have about the same x the line goes through 0.
    """
    total = sum(n for n, *_ in points)
    x_mean, y_mean = (sum(point[0] * point[i] for point in points) / total for i in (1, 2))
    spread = sum(n * (x - x_mean) ** 2 for n, x, _ in points) / total
    if spread < 0.01 * x_mean**2 or not spread:
        return (0.0, y_mean / x_mean) if x_mean else (y_mean, 0.0)
    slope = sum(n * (x - x_mean) * (y - y_mean) for n, x, y in points) / total / spread
    slope = max(0.0, min(slope, y_mean / x_mean))
    return y_mean - slope * x_mean, slope


def plan(costs: Iterable[dict], settings: PlanSettings) -> list[dict]:
    """Return what a run of `settings.trajectories` would take: a row for each stage, and one for all of them.

    Args:
        costs: The lines that `--costs` wrote.
        settings: The size of the run and the machines.

    Returns:
        Rows with `stage`, `start` (seconds of each part), `record_seconds` (of one core), `record_bytes`,
        `core_hours`, `hours` (on all nodes), `lost_hours` (the same, where one node is lost half way), `bytes`,
        `memory` (bytes on one node), `server` and `share` of the core hours. The last one has `stage` "all", `parts`,
        `cores`, `slowest`, and `notes` for a person; its `lost_hours` are the most that a lost node adds to a stage.

    Raises:
        InputError: The costs are no lines of `--costs`, or none is of a stage that processes trajectories.
        UsageError: There are more cores than can be played through.
    """
    costs = list(costs)
    stages, measured_k, left_out = stage_costs(costs)
    cores = settings.cores or max(cost["cores"] for cost in costs)
    slots = settings.nodes * cores
    if slots > MOST_CORES:
        raise UsageError(f"--nodes {settings.nodes:,} of {cores:,} cores: at most {MOST_CORES:,} cores are simulated")
    parts = min(settings.parts or PARTS_A_CORE * slots, settings.trajectories)
    notes = []
    growth = 1.0
    if settings.k is not None:
        if measured_k is None:
            raise InputError("-k: needs runs that all have the same number of alternatives (-k)", "$.entry")
        growth = settings.k / measured_k
    rows = []
    for stage in stages:
        x = stage.alternatives * growth
        record_seconds, record_bytes = (constant + slope * x for constant, slope in (stage.seconds, stage.bytes))
        sizes = _part_sizes(settings.trajectories, parts, stage.stage)
        work = [size * record_seconds for size in sizes]
        hours = _play(work, stage.start, settings.nodes, cores) / 3600
        rows.append(
            {
                "stage": stage.stage,
                "measured": stage.trajectories,
                "start": stage.start,
                "record_seconds": record_seconds,
                "record_bytes": record_bytes,
                "core_hours": (sum(work) + parts * stage.start) / 3600,
                "hours": hours,
                "lost_hours": _play(work, stage.start, settings.nodes, cores, lost_at=hours * 1800) / 3600,
                "bytes": record_bytes * settings.trajectories,
                "memory": stage.memory * cores,
                "server": stage.server,
            }
        )
    core_hours = sum(row["core_hours"] for row in rows)
    for row in rows:
        row["share"] = row["core_hours"] / core_hours if core_hours else 0.0
    if growth > 1 and any(stage.seconds[0] == 0 and stage.alternatives for stage in stages):
        notes.append(
            f"measured with K = {measured_k:g}: time and bytes are taken to grow with K, which is the most they do; "
            f"runs with another K in the same file say more"
        )
    if left_out:
        notes.append(f"left out, as they process no trajectories: {', '.join(left_out)}")
    slowest = max(rows, key=lambda row: row["core_hours"])
    total = {
        "stage": "all",
        "core_hours": core_hours,
        "hours": sum(row["hours"] for row in rows),
        "lost_hours": max(row["lost_hours"] - row["hours"] for row in rows),
        "bytes": sum(row["bytes"] for row in rows),
        "memory": max(row["memory"] for row in rows),
        "parts": parts,
        "cores": cores,
        "slowest": slowest["stage"],
        "notes": notes,
    }
    return [*rows, total]


def _part_sizes(trajectories: int, parts: int, stage: str) -> list[int]:
    """Return sizes as a hash of ids would make them: about Poisson, around the mean."""
    mean = trajectories / parts
    draw = random.Random(seed_of("plan", stage, trajectories, parts))
    return [max(0, round(draw.gauss(mean, math.sqrt(mean)))) for _ in range(parts)] if parts > 1 else [trajectories]


def _play(work: Sequence[float], start: float, nodes: int, cores: int, lost_at: float | None = None) -> float:
    """Return the seconds until all parts are done, each on one core, in order.

    Args:
        work: Seconds of each part.
        start: Seconds that a part takes before it does anything, also when it goes on elsewhere.
        nodes, cores: The machines.
        lost_at: When the first node is lost. Its parts go on from what they have written, on the cores that are left
            or, where it was the only one, on the same node.
    """
    waiting = [(0.0, seconds) for seconds in reversed(work)]  # not before, seconds
    free = [(0.0, core) for core in range(nodes * cores)]  # those of the first node are 0 to cores - 1
    heapq.heapify(free)
    end = 0.0
    while waiting:
        now, core = heapq.heappop(free)
        on_lost = lost_at is not None and core < cores and nodes > 1
        if on_lost and lost_at is not None and now >= lost_at:
            continue  # this core is gone
        not_before, seconds = waiting.pop()
        began = max(now, not_before)
        ended = began + start + seconds
        if lost_at is not None and core < cores and began < lost_at < ended:
            left = seconds - max(0.0, lost_at - began - start)
            waiting.append((lost_at, left))
            if nodes == 1:
                heapq.heappush(free, (lost_at, core))
            continue
        heapq.heappush(free, (ended, core))
        end = max(end, ended)
    return end


def plan_table(rows: Sequence[dict], settings: PlanSettings) -> str:
    """Return the rows of `plan` as text for a person."""
    from eexp.system.terminal import align

    *stages, total = rows
    cells = [["", "s a record", "core-hours", "share", "time", "one node lost", "kB a record", "GB", "GB of memory"]]
    for row in stages:
        cells.append(
            [
                row["stage"] + "*" * row["server"],
                f"{row['record_seconds']:.4g}",
                f"{row['core_hours']:.3g}",
                f"{row['share']:.0%}",
                _time(row["hours"]),
                f"+{_time(row['lost_hours'] - row['hours'])}",
                f"{row['record_bytes'] / 1e3:.3g}",
                f"{row['bytes'] / 1e9:.3g}",
                f"{row['memory'] / 1e9:.2g}",
            ]
        )
    cells.append(
        [
            "all",
            "",
            f"{total['core_hours']:.3g}",
            "",
            _time(total["hours"]),
            f"+{_time(total['lost_hours'])}",
            "",
            f"{total['bytes'] / 1e9:.3g}",
            f"{total['memory'] / 1e9:.2g}",
        ]
    )
    nodes = f"{settings.nodes} node{'s'[: settings.nodes > 1]} of {total['cores']} core{'s'[: total['cores'] > 1]}"
    mean = settings.trajectories / total["parts"]
    lines = align(cells)
    lines.append(
        f"{settings.trajectories:,} trajectories on {nodes}, in {total['parts']:,} parts of about {mean:,.0f}, each on "
        f"one core; one stage after the other"
    )
    lines.append(
        f"slowest stage: {total['slowest']}; times by a simulation, in which the node is lost half way through a stage"
    )
    if any(row["server"] for row in stages):
        lines.append("*: a server works for it: its time is counted, not that of the processor")
    return "\n".join([*lines, *total["notes"]])


def _time(hours: float) -> str:
    """Return a time in a unit that suits it."""
    seconds = hours * 3600
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if hours < 2 else f"{hours:.3g} h"
