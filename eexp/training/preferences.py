"""Direct preference optimisation (DPO, Rafailov et al. 2023, arXiv 2305.18290), through the same trees as imitation.

A preference becomes two rows, its answers, whose whole prompt is shared; the preferences of a trajectory share its
history. The rows of a run stand in pairs: the chosen answer at an even index, the rejected one after it. The loss of a
pair is

    -log sigmoid(beta * ((log p(chosen) - log q(chosen)) - (log p(rejected) - log q(rejected))))

with the sums over all tokens of an answer, p the model and q the reference: the same model before the first update.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from eexp.errors import InputError, UsageError
from eexp.records import answers_of
from eexp.stream import OnError
from eexp.training.data import Row, tokenize
from eexp.training.exact import evaluation_mode
from eexp.training.packing import PACKINGS, Packing, Part, target_losses
from eexp.training.updates import Updates, distribute

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from eexp.training.job import Job, Settings


@dataclass
class AnswerRow(Row):
    """One answer of a preference as a row.

    Attributes:
        pair: The number of the preference in the run.
        is_chosen: Whether it is the better answer.
        reference: Its log-probability under the reference, once that is known.
    """

    pair: int = 0
    is_chosen: bool = False
    reference: float = 0.0


def check_settings(settings: Settings) -> None:
    """Raise UsageError for settings that mean nothing for preferences."""
    given = {
        "--share": settings.share,
        "--action-weight": settings.action_weight != 1,
        "--budget-like": settings.budget_like,
    }
    for name, is_given in given.items():
        if is_given:
            raise UsageError(f"{name} is for examples, not for --objective {settings.objective}")


def tokenize_pairs(
    preferences: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_length: int, on_error: OnError
) -> Iterator[AnswerRow]:
    """Yield the two rows of each preference, the chosen one first.

    Args:
        preferences: Records of type preference.
        tokenizer: A tokenizer with a chat template.
        max_length: Most tokens of a prompt with an answer.
        on_error: Called with a preference whose answers cannot be rows (`data.tokenize`), or are the same.
    """
    number = 0
    for preference in preferences:
        try:
            chosen, rejected = tokenize(answers_of(preference), tokenizer, max_length)
            if chosen.ids == rejected.ids:
                raise InputError("is the same as $.chosen in tokens", "$.rejected")
        except InputError as error:
            on_error(preference, error)
            continue
        if chosen.weight:
            for row in (chosen, rejected):
                yield AnswerRow(**vars(row), pair=number, is_chosen=row is chosen)
            number += 1


def updates_of_pairs(updates: Updates) -> Updates:
    """Return updates over rows, for updates over pairs."""
    return [[row for pair in update for row in (2 * pair, 2 * pair + 1)] for update in updates]


def paired(packing: Packing) -> Packing:
    """Return a packing that keeps both rows of a pair in one pass, where their difference is computed."""
    return replace(packing, cut=lambda rows, budget: _cut(packing, rows, budget))


def _cut(packing: Packing, rows: Sequence[Row], budget: int) -> Iterator[list[Row]]:
    """Yield rows in parts of at most `budget` tokens each (or one pair, where that alone is larger)."""
    pairs: dict[int, list[Row]] = {}
    for row in rows:
        assert isinstance(row, AnswerRow)
        pairs.setdefault(row.pair, []).append(row)
    part: list[Row] = []
    for pair in sorted(pairs.values(), key=lambda pair: pair[0].ids):
        if part and packing.size([*part, *pair]) > budget:
            yield part
            part = []
        part += pair
    if part:
        yield part


def row_logprobs(part: Part, losses: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of the targets of each row of a part, [rows], from the losses of its targets [N]."""
    lengths = [len(indices) for indices in part.row_targets]
    indices = torch.tensor([i for row in part.row_targets for i in row], device=losses.device)
    rows = torch.repeat_interleave(torch.tensor(lengths, device=losses.device))
    return torch.zeros(len(lengths), device=losses.device).index_add(0, rows, -losses[indices])


def pair_margins(rows: Sequence[Row], logprobs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what the loss of the pairs of a pass is made of, each [pairs].

    Args:
        rows: The rows of the pass, all of them AnswerRows.
        logprobs: Their log-probabilities, [rows].

    Returns:
        By how much the log-ratio to the reference of the chosen answer exceeds that of the rejected one; the
        log-probabilities of the chosen answers; and the weights of the pairs.
    """
    chosen: list[int] = []
    rejected: dict[int, int] = {}
    for i, row in enumerate(rows):
        assert isinstance(row, AnswerRow)
        if row.is_chosen:
            chosen.append(i)
        else:
            rejected[row.pair] = i
    others = [rejected[rows[i].pair] for i in chosen]  # pyright: ignore[reportAttributeAccessIssue]
    ratios = logprobs - torch.tensor([row.reference for row in rows], device=logprobs.device)  # pyright: ignore
    weights = torch.tensor([rows[i].weight for i in chosen], device=logprobs.device)
    return ratios[chosen] - ratios[others], logprobs[chosen], weights


@dataclass
class PairLoss:
    """The loss of the pairs of a pass, and sums over them that tell how well they are told apart; numbers on a device.

    Attributes:
        loss: The sum of the losses of the pairs, times their weights.
        sums: [3] the sums of the weights: of the pairs whose chosen answer has gained more on the reference than the
            rejected one; times `beta` times by how much it has; and of all pairs.
    """

    loss: torch.Tensor
    sums: torch.Tensor


def pair_loss(rows: Sequence[Row], part: Part, losses: torch.Tensor, beta: float, sft_weight: float) -> PairLoss:
    """Return the loss of the pairs of a pass.

    Args:
        rows: The rows of the pass.
        part: Its tensors.
        losses: -log p of its targets, [N].
        beta: How much a log-ratio counts.
        sft_weight: The weight of -log p(chosen) a token beside the loss above; 0 leaves it out.
    """
    margins, chosen, weights = pair_margins(rows, row_logprobs(part, losses))
    pair_losses = -torch.nn.functional.logsigmoid(beta * margins)
    if sft_weight:
        lengths = [row.n_targets for row in rows if isinstance(row, AnswerRow) and row.is_chosen]
        pair_losses = pair_losses - sft_weight * chosen / torch.tensor(lengths, device=chosen.device)
    sums = torch.stack([weights[margins > 0].sum(), (weights * beta * margins).sum(), weights.sum()])
    return PairLoss((weights * pair_losses).sum(), sums.detach())


def weight_of_pairs(rows: Iterable[Row]) -> float:
    """Return the sum of the weights of the pairs of some rows, which an update's losses are divided by."""
    return sum(row.weight for row in rows if isinstance(row, AnswerRow) and row.is_chosen)


def set_references(job: Job, device: torch.device, rank: int = 0, processes: int = 1) -> None:
    """Compute the log-probabilities of all answers under the model as it is, before the first update.

    Every process computes its share of the passes, and all learn the results. A run that is resumed computes them
    again, from the same weights.

    Args:
        job: The run; its rows are AnswerRows.
        device: Where to compute.
        rank, processes: The number of this process, and of all of them.
    """
    from accelerate.utils import gather_object

    settings = job.settings
    packing = paired(PACKINGS[settings.packing])
    logprobs: dict[tuple[int, bool], float] = {}
    with evaluation_mode(job.model, job.dtype):
        for rows in distribute(job.rows, packing, settings.tokens_per_batch, processes)[rank]:
            part = packing.part(rows, device)
            for row, logprob in zip(rows, row_logprobs(part, target_losses(job.model, part)).tolist()):
                assert isinstance(row, AnswerRow)
                logprobs[row.pair, row.is_chosen] = logprob
    for results in gather_object([logprobs]):
        logprobs |= results
    for row in job.rows:
        assert isinstance(row, AnswerRow)
        row.reference = logprobs[row.pair, row.is_chosen]
