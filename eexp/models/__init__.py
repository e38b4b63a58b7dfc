"""Language models, the policies over them, and how samples are drawn.

`base.py` is the contract, `registry.py` lists the kinds of models and opens one by its spec.
"""

from eexp.models.base import Engine, Model, Sample
from eexp.models.registry import DEFAULT_MODEL, open_model

__all__ = ["DEFAULT_MODEL", "Engine", "Model", "Sample", "open_model"]
