"""Language models, the policies over them, and how samples are drawn.

`base.py` is the contract, `registry.py` lists the kinds of models, and `opening.py` opens one by its spec.

What comes in are a model's spec, and groups of requests: chats to answer, completions to score or, for a policy, states
to act in. What goes out are samples or proposed actions with their log-probabilities, or the reason why a request has
none. What must hold: an answer depends on its own group, the model, its settings and the seed, never on another group,
and only the chat template writes special tokens.
"""

from typing import TYPE_CHECKING

from eexp.system.late import late_names

if TYPE_CHECKING:
    from eexp.models.base import Engine, Model, Sample
    from eexp.models.opening import open_model
    from eexp.models.registry import DEFAULT_MODEL
    from eexp.models.text_model import TextModel
else:
    __getattr__ = late_names(
        __name__,
        {
            "DEFAULT_MODEL": "registry",
            "Engine": "base",
            "Model": "base",
            "Sample": "base",
            "TextModel": "text_model",
            "open_model": "opening",
        },
    )

__all__ = ["DEFAULT_MODEL", "Engine", "Model", "Sample", "TextModel", "open_model"]
