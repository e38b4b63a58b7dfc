"""The log-probabilities of targets under the model as it is before the first update."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eexp.training.exact import evaluation_mode
from eexp.training.packing import target_losses
from eexp.training.updates import distribute

if TYPE_CHECKING:
    import torch

    from eexp.training.data import Row
    from eexp.training.job import Job


def target_logprobs(
    job: Job, rows: Sequence[Row], device: torch.device, rank: int = 0, processes: int = 1
) -> list[array[float]]:
    """Return the log-probabilities of the targets of some rows of a run, one array for each row.

    Every process computes its share of the passes, and all learn the results. A run that is resumed computes them
    again, from the same weights.

    Args:
        job: The run; no checkpoint has been loaded into its model yet.
        rows: Some of the run's rows.
        rank, processes: The number of this process, and of all of them.
    """
    from accelerate.utils import gather_object

    numbers = {id(row): number for number, row in enumerate(rows)}  # `distribute` adds copies of weight 0
    logprobs: dict[int, array[float]] = {}
    with evaluation_mode(job.model, job.dtype):
        for members in distribute(rows, job.packing, job.settings.tokens_per_batch, processes)[rank]:
            part = job.packing.part(members, device)
            losses = target_losses(job.model, part).cpu()
            for row, targets in zip(members, part.row_targets):
                if id(row) in numbers:
                    logprobs[numbers[id(row)]] = array("f", (-losses[list(targets)]).tolist())
    for results in gather_object([logprobs]):
        logprobs |= results
    return [logprobs[number] for number in range(len(rows))]
