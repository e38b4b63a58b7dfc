"""`eexp finetune --objective focal --focal-gamma 1`: its settings; the loss is in loss.py, which imports torch."""

from dataclasses import dataclass

from eexp.settings import Checked, Finite, option
from eexp.training.settings import ObjectiveKind


@dataclass(frozen=True)
class FocalSettings(Checked):
    """Settings of the objective; its options begin with its name."""

    gamma: float = option(2.0, type=Finite(0)).help("Focal loss: a larger value lowers the loss of probable tokens.")


FOCAL = ObjectiveKind("eexp_stairs.loss:Focal", settings=FocalSettings)
