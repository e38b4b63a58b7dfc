"""How much an update on one example would lower the loss on others: the cosine of their gradients.

After LESS (Xia et al. 2024, arXiv 2402.04333): the gradients of an adapter, projected at random to fewer numbers, and
each of length one, since short examples have long gradients. Unlike there, the gradients are not scaled as by Adam.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch

from eexp.errors import InputError
from eexp.training.data import row_function
from eexp.training.model import open_model
from eexp.training.packing import PACKINGS, target_losses
from eexp.training.settings import Settings

#: Numbers that are kept of a gradient. The cosine of two projections is off by about 1 / sqrt(DIMENSION) = 0.01.
DIMENSION = 8192


def influence_on(
    validation: Iterable[dict], base: str, init: str | None = None, seed: int = 0
) -> Callable[[dict], float]:
    """Return a function that returns the influence of an example on the `validation` examples.

    That is the cosine of its gradient and the mean gradient of the examples of a kind, for the kind for which it is
    largest.

    Args:
        validation: The examples whose loss should fall.
        base: A directory of transformers, or a hub id.
        init: An adapter of it; without one the gradients are those of a new adapter.
        seed: Decides the projection, and the weights of a new adapter.

    Raises:
        InputError: There is no validation example, or one has nothing to learn from; so does the function.
        UsageError, EexpError: The model cannot be opened.
    """
    torch.manual_seed(seed % 2**32)
    gradients = _Gradients(Settings(base, init=init, seed=seed))
    by_kind: dict[str, list[torch.Tensor]] = defaultdict(list)
    for example in validation:
        by_kind[example["kind"]].append(gradients.of(example))
    if not by_kind:
        raise InputError("--like: no examples in the file")
    means = torch.nn.functional.normalize(torch.stack([torch.stack(those).mean(0) for those in by_kind.values()]))
    return lambda example: float((means @ gradients.of(example)).max())


class _Gradients:
    """Projected gradients of a model's trained weights.

    Each weight is added to one of DIMENSION numbers with a random sign (count sketch; Charikar et al. 2002).
    """

    def __init__(self, settings: Settings):
        self._model, tokenizer, _ = open_model(settings)
        self._model.eval()
        self._row_of = row_function(tokenizer, settings.max_length or sys.maxsize)
        self._weights = [weight for _, weight in sorted(self._model.named_parameters()) if weight.requires_grad]
        number = sum(weight.numel() for weight in self._weights)
        draw = torch.Generator().manual_seed(settings.seed % 2**32)
        self._places = torch.randint(DIMENSION, (number,), generator=draw)
        self._signs = torch.randint(2, (number,), generator=draw, dtype=torch.float32) * 2 - 1

    def of(self, example: dict) -> torch.Tensor:
        """Return the gradient of the mean loss of an example's targets, projected, of length one: [DIMENSION]."""
        row = self._row_of(example)
        if not row.n_targets or not row.weight:
            raise InputError("nothing in it is learned")
        part = PACKINGS["none"].part([row], self._model.device)
        loss = (part.weights * target_losses(self._model, part)).sum() / row.loss_weight
        gradients = torch.autograd.grad(loss, self._weights, allow_unused=True)
        flat = torch.cat(
            [
                (torch.zeros_like(weight) if gradient is None else gradient).flatten().float().cpu()
                for weight, gradient in zip(self._weights, gradients)
            ]
        )
        projected = torch.zeros(DIMENSION).index_add_(0, self._places, self._signs * flat)
        return torch.nn.functional.normalize(projected, dim=0)
