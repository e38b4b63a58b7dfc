"""Direct preference optimisation (DPO, Rafailov et al. 2023, arXiv 2305.18290), through the same trees as imitation.

A preference becomes two rows, its answers, whose whole prompt is shared; the preferences of a trajectory share its
history. The rejected answer of a pair stands right after the chosen one. The loss of a pair is

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

from eexp.errors import InputError, UsageError
from eexp.records.callbacks import OnError
from eexp.records.record import answers_of
from eexp.records.runs import read_run
from eexp.training.data import Row, row_function
from eexp.training.objectives.base import LogprobsOf, Objective, UpdateLoss
from eexp.training.objectives.likelihood import plain_loss
from eexp.training.packing import Packing, Part
from eexp.training.settings import DPOSettings, Settings
from eexp.training.updates import Updates, loss_shares

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class AnswerRow(Row):
    """One answer of a preference as a row."""

    pair: int = 0  # the number of the preference in the run
    is_chosen: bool = False  # whether it is the better answer
    reference: float = 0.0  # its log-probability under the reference, once that is known


class Preferences(Objective):
    """The objective of `--objective dpo`: preferences, and examples beside them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._with_examples = False  # until `prepare` has seen the rows of the run

    def check_settings(self) -> None:
        """Raise UsageError for settings that mean nothing for preferences."""
        given = {
            "--share": self.settings.share,
            "--action-weight": self.settings.action_weight != 1,
            "--budget-like": self.settings.budget_like,
        }
        for name, is_given in given.items():
            if is_given:
                raise UsageError(f"{name} is for examples, not for --objective {self.settings.objective}")

    def rows(
        self, records: Iterable[dict], tokenizer: PreTrainedTokenizerBase, max_length: int, on_error: OnError
    ) -> Iterator[Row]:
        """Yield the two rows of each preference, the chosen one first, and the row of each example.

        `on_error` also gets a preference whose answers are the same in tokens.
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

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Raise InputError if there are only examples."""
        if not any(isinstance(row, AnswerRow) for row in rows):
            raise InputError("no preferences to train on: --objective dpo needs some")

    def units(self, rows: Sequence[Row]) -> list[list[int]]:
        """Return the indices of the rows that stay together: those of each pair, and each example by itself."""
        units: list[list[int]] = []
        for i, row in enumerate(rows):
            if isinstance(row, AnswerRow) and not row.is_chosen:
                units[-1].append(i)
            else:
                units.append([i])
        return units

    def packing(self, packing: Packing) -> Packing:
        """Return a packing that keeps both rows of a pair in one pass."""
        return paired(packing)

    def loss_shares(self, rows: Sequence[Row], updates: Updates, update_weight: float | None) -> dict[str, float]:
        """Return the shares that preferences and the kinds of examples have in the weights of the loss."""
        examples = [row for row in rows if not isinstance(row, AnswerRow)]
        shares = loss_shares(examples, [list(range(len(examples)))], None) if examples else {}
        weight = _sft_weight(self.settings.own, True) if examples else 0.0
        of_kinds = {kind: round(weight / (1 + weight) * share, 6) for kind, share in shares.items()}
        return {"preference": round(1 / (1 + weight), 6), **of_kinds}

    def think(self, rows: Sequence[Row]) -> str | None:
        """Return what the adapter to continue says, where there is one: preferences do not say it."""
        return read_run(self.settings.init).get("think") if self.settings.init else super().think(rows)

    def prepare(self, rows: Sequence[Row], logprobs_of: LogprobsOf) -> None:
        """Compute the log-probabilities of all answers under the reference."""
        answers = [row for row in rows if isinstance(row, AnswerRow)]
        self._with_examples = len(answers) < len(rows)
        for row, logprobs in zip(answers, logprobs_of(answers)):
            row.reference = math.fsum(logprobs)

    def update_loss(self, rows: Sequence[Row], update_weight: float, processes: int) -> UpdateLoss:
        """Return the loss of an update, which is divided by the weights of its pairs and of its examples."""
        return PreferenceLoss(rows, self.settings.own, self._with_examples, processes)


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
    """The loss of the pairs of a pass, and sums that tell how well the answers are told apart; numbers on a device."""

    loss: torch.Tensor  # the sum of the losses of the pairs, times their weights
    #: [3] the sums of the weights: of the pairs whose chosen answer has gained more on the reference than the rejected
    #: one; times `beta` times by how much it has; and of all pairs.
    sums: torch.Tensor


def pair_loss(rows: Sequence[Row], part: Part, losses: torch.Tensor, beta: float, sft_weight: float) -> PairLoss:
    """Return the loss of the pairs of a pass.

    Args:
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


class PreferenceLoss(UpdateLoss):
    """The loss of one update: the mean over its pairs, and `sft_weight` times the mean over its examples' targets.

    Args:
        with_examples: Whether the run has examples; without, `sft_weight` is for the chosen answers.
        processes: The number of processes, over which losses are averaged.

    Attributes:
        sums: Those of `PairLoss`, over the passes so far.
    """

    def __init__(self, rows: Sequence[Row], settings: DPOSettings, with_examples: bool, processes: int) -> None:
        pairs = sum(row.weight for row in rows if isinstance(row, AnswerRow) and row.is_chosen)
        targets = sum(row.loss_weight for row in rows if not isinstance(row, AnswerRow))
        self._beta = settings.beta
        self._chosen_weight = 0.0 if with_examples else settings.sft_weight or 0.0
        self._pair_scale = processes / pairs if pairs else 0.0
        self._example_scale = _sft_weight(settings, with_examples) * processes / targets if targets else 0.0

    def __call__(self, rows: Sequence[Row], part: Part, losses: torch.Tensor) -> torch.Tensor:
        """Return the share that a pass has in the loss."""
        of_pairs = pair_loss(rows, part, losses, self._beta, self._chosen_weight)
        self.add(of_pairs.sums)
        return of_pairs.loss * self._pair_scale + plain_loss(rows, part, losses) * self._example_scale

    def measures(self, sums: torch.Tensor) -> dict[str, float]:
        """Return numbers for the line of an update, from the sums over all processes."""
        accurate, margin, weight = sums.tolist()
        return {"accuracy": accurate / weight, "margin": margin / weight} if weight else {}


def _sft_weight(settings: DPOSettings, with_examples: bool) -> float:
    """Return the weight of imitation beside the loss of preferences."""
    return float(with_examples) if settings.sft_weight is None else settings.sft_weight
