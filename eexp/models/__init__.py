"""Language models, the policies over them, and how samples are drawn.

`base.py` is the contract, `registry.py` lists the kinds of models, and
`opening.py` opens one by its spec.
"""

from typing import TYPE_CHECKING

from eexp.late import late_names

if TYPE_CHECKING:
    from eexp.models.base import Engine, Model, Sample
    from eexp.models.opening import open_model
    from eexp.models.registry import DEFAULT_MODEL
else:
    __getattr__ = late_names(
        __name__,
        {"Engine": "base", "Model": "base", "Sample": "base", "open_model": "opening", "DEFAULT_MODEL": "registry"},
    )

__all__ = ["DEFAULT_MODEL", "Engine", "Model", "Sample", "open_model"]
