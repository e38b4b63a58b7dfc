"""The focal loss (Lin et al. 2017, arXiv 1708.02002): -(1 - p)^gamma log p."""

import torch

from eexp.training.objectives.base import UpdateLoss
from eexp.training.objectives.likelihood import Likelihood


class Focal(Likelihood):
    """Completions, with less loss on tokens that are probable already."""

    def update_loss(self, rows, update_weight, processes):
        """Return the loss of an update."""
        return FocalLoss(self.settings.own.gamma, processes / update_weight)


class FocalLoss(UpdateLoss):
    """The weighted sum of the focal losses of the targets of an update."""

    def __init__(self, gamma, scale):
        self.gamma, self.scale = gamma, scale

    def __call__(self, rows, part, losses):
        """Return the share that a pass has in the loss."""
        factors = (1 - torch.exp(-losses)).clamp(min=1e-6) ** self.gamma
        return (part.weights * factors * losses).sum() * self.scale
