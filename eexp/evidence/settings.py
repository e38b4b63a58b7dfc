"""Settings of a comparison, and of its plan."""

from __future__ import annotations

from dataclasses import dataclass

from eexp.settings import COMMON, CONFIDENCE, REQUIRED, Checked, Finite, Whole, option


@dataclass(frozen=True)
class CompareSettings(Checked):
    """Settings of `compare`."""

    baseline: str | None = option(None, metavar="NAME").help(
        "The method to compare the others with.  [default: the first]"
    )
    confidence: float = CONFIDENCE.field()
    looks: int = option(1, type=Whole(1, 100)).help(
        "Sequential testing: how many times in all you look at this comparison while runs or tasks are added. "
        "Intervals and p values are corrected for it (Pocock)."
    )
    common: bool = COMMON.field()


@dataclass(frozen=True)
class PowerSettings(Checked):
    """Settings of `plans`: what a comparison will have, and what is known of the baseline."""

    rate: float | None = option(None, type=Finite(0, 1, min_open=True, max_open=True), metavar="RATE").help(
        "Success of the baseline, 0.2 for 20 %.  [default: that of the files]"
    )
    tasks: tuple[int, ...] = option((), type=Whole(2), multiple=True).help(
        "Tasks in the panel. May be repeated.  [default: 50, 100, 200, 500 and 1000]"
    )
    runs: tuple[int, ...] = option((), type=Whole(1), multiple=True).help(
        "Training runs of each method. May be repeated.  [default: 1, 3 and 5]"
    )
    run_sd: float | None = option(None, type=Finite(0, 0.5), metavar="SD").help(
        "Standard deviation of success between training runs.  [default: that of the files, else 0.03]"
    )
    alike: float | None = option(None, type=Finite(0, 1, max_open=True), metavar="R").help(
        "Correlation between the successes of two models on the same tasks.  [default: that of the files' runs, else "
        "0.3]"
    )
    confidence: float = CONFIDENCE.field()


#: Most cores of all machines: their work is simulated part by part, which takes four seconds a stage for so many.
MOST_CORES = 100_000


@dataclass(frozen=True)
class PlanSettings(Checked):
    """Settings of `plan`: the size of a run, and the machines."""

    trajectories: int = option(REQUIRED, type=Whole(1, 10**12)).help("Trajectories of the run.")
    k: int | None = option(None, "-k", type=Whole(1, 10**6), metavar="K").help(
        "Alternatives at every state.  [default: as measured]"
    )
    nodes: int = option(1, type=Whole(1, MOST_CORES)).help("Machines.")
    cores: int | None = option(None, type=Whole(1, MOST_CORES)).help(
        "Cores of a machine.  [default: those of the machine that was measured]"
    )
    parts: int | None = option(None, type=Whole(1, 10**6)).help(
        "Parts that the records are divided into, as by --shard.  [default: 4 for each core of all machines]"
    )
