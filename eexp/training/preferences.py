"""Direct preference optimisation (DPO, Rafailov et al. 2023, arXiv 2305.18290), through the same trees as imitation.

A preference becomes two rows, its answers, whose whole prompt is shared; the preferences of a trajectory share its
history. The rows of a run stand in pairs: the chosen answer at an even index, the rejected one after it. The loss of a
pair is

    -log sigmoid(beta * ((log p(chosen) - log q(chosen)) - (log p(rejected) - log q(rejected))))

with the sums over all tokens of an answer, p the model and q the reference: the same model before the first update.
Examples may stand among the preferences of a run. Their loss per target token is added: preferences alone say what is
worse in a state, and may lower what is right in another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from eexp.callbacks import OnError
from eexp.errors import InputError, UsageError
from eexp.records import answers_of
from eexp.training.data import Row, row_function
from eexp.training.packing import PACKINGS, Packing, Part, plain_loss
from eexp.training.references import target_logprobs

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
        "--clip": settings.clip,
    }
    for name, is_given in given.items():
        if is_given:
            raise UsageError(f"{name} is for examples, not for --objective {settings.objective}")


def tokenize_pairs(
    records: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_length: int, on_error: OnError
) -> Iterator[Row]:
    """Yield the two rows of each preference, the chosen one first, and the row of each example.

    Args:
        records: Records of type preference, and of type example.
        tokenizer: A tokenizer with a chat template.
        max_length: Most tokens of a prompt with an answer.
        on_error: Called with a record that cannot be rows (`data.tokenize`), or whose answers are the same.
    """
    row_of = row_function(tokenizer, max_length)
    number = 0
    for record in records:
        try:
            if record["type"] == "example":
                yield row_of(record)
                continue
            chosen, rejected = map(row_of, answers_of(record))
            if chosen.ids == rejected.ids:
                raise InputError("is the same as $.chosen in tokens", "$.rejected")
        except InputError as error:
            on_error(record, error)
            continue
        if chosen.weight:
            for row in (chosen, rejected):
                yield AnswerRow(**vars(row), pair=number, is_chosen=row is chosen)
            number += 1


def units_of(rows: Sequence[Row]) -> list[list[int]]:
    """Return the indices of the rows that stay together: those of each pair, and each example by itself."""
    units: list[list[int]] = []
    for i, row in enumerate(rows):
        if isinstance(row, AnswerRow) and not row.is_chosen:
            units[-1].append(i)
        else:
            units.append([i])
    return units


def paired(packing: Packing) -> Packing:
    """Return a packing that keeps both rows of a pair in one pass, where their difference is computed."""
    return replace(packing, cut=lambda rows, budget: _cut(packing, rows, budget))


def _cut(packing: Packing, rows: Sequence[Row], budget: int) -> Iterator[list[Row]]:
    """Yield rows in parts of at most `budget` tokens each (or one pair, where that alone is larger)."""
    units: dict[object, list[Row]] = {}
    for i, row in enumerate(rows):
        units.setdefault(("pair", row.pair) if isinstance(row, AnswerRow) else i, []).append(row)
    part: list[Row] = []
    for unit in sorted(units.values(), key=lambda unit: unit[0].ids):
        if part and packing.size([*part, *unit]) > budget:
            yield part
            part = []
        part += unit
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
        rows: The rows of the pass.
        logprobs: Their log-probabilities, [rows].

    Returns:
        By how much the log-ratio to the reference of the chosen answer exceeds that of the rejected one; the
        log-probabilities of the chosen answers; and the weights of the pairs.
    """
    chosen: list[int] = []
    rejected: dict[int, int] = {}
    for i, row in enumerate(rows):
        if isinstance(row, AnswerRow) and row.is_chosen:
            chosen.append(i)
        elif isinstance(row, AnswerRow):
            rejected[row.pair] = i
    others = [rejected[rows[i].pair] for i in chosen]  # pyright: ignore[reportAttributeAccessIssue]
    references = [row.reference if isinstance(row, AnswerRow) else 0.0 for row in rows]
    ratios = logprobs - torch.tensor(references, device=logprobs.device)
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


class PreferenceLoss:
    """The loss of one update: the mean over its pairs, and `sft_weight` times the mean over its examples' targets.

    Args:
        rows: All rows of the update.
        settings: The settings of the run.
        with_examples: Whether the run has examples; without, `sft_weight` is for the chosen answers.
        processes: The number of processes, over which losses are averaged.

    Attributes:
        sums: Those of `PairLoss`, over the passes so far.
    """

    def __init__(self, rows: Sequence[Row], settings: Settings, with_examples: bool, processes: int):
        pairs = sum(row.weight for row in rows if isinstance(row, AnswerRow) and row.is_chosen)
        targets = sum(row.loss_weight for row in rows if not isinstance(row, AnswerRow))
        self._beta = settings.beta
        self._chosen_weight = 0.0 if with_examples else settings.sft_weight or 0.0
        self._pair_scale = processes / pairs if pairs else 0.0
        self._example_scale = sft_weight_of(settings, with_examples) * processes / targets if targets else 0.0
        self.sums: torch.Tensor | float = 0.0

    def __call__(self, rows: Sequence[Row], part: Part, losses: torch.Tensor) -> torch.Tensor:
        """Return the share that a pass has in the loss."""
        of_pairs = pair_loss(rows, part, losses, self._beta, self._chosen_weight)
        self.sums = self.sums + of_pairs.sums
        return of_pairs.loss * self._pair_scale + plain_loss(rows, part, losses) * self._example_scale

    def measures(self, sums: torch.Tensor) -> dict[str, float]:
        """Return numbers for the line of an update, from the sums over all processes."""
        accurate, margin, weight = sums.tolist()
        return {"accuracy": accurate / weight, "margin": margin / weight} if weight else {}


def sft_weight_of(settings: Settings, with_examples: bool) -> float:
    """Return the weight of imitation beside the loss of preferences."""
    return float(with_examples) if settings.sft_weight is None else settings.sft_weight


def shares_of_loss(settings: Settings, shares: dict[str, float]) -> dict[str, float]:
    """Return the shares that preferences and the kinds of examples have in the weights of the loss.

    Args:
        settings: The settings of the run.
        shares: The shares of the kinds of examples among each other; empty where there are none.
    """
    weight = sft_weight_of(settings, True) if shares else 0.0
    of_kinds = {kind: round(weight / (1 + weight) * share, 6) for kind, share in shares.items()}
    return {"preference": round(1 / (1 + weight), 6), **of_kinds}


def set_references(job: Job, device: torch.device, rank: int = 0, processes: int = 1) -> None:
    """Compute the log-probabilities of all answers, with arguments as for `target_logprobs`."""
    rows = [row for row in job.rows if isinstance(row, AnswerRow)]
    packing = paired(PACKINGS[job.settings.packing])
    for row, logprobs in zip(rows, target_logprobs(job, rows, packing, device, rank, processes)):
        row.reference = math.fsum(logprobs)
