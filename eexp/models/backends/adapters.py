"""Adapters of PEFT around models, made without bitsandbytes where no model has needed that (eexp/system/late.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import peft
from peft import import_utils
from transformers import PreTrainedModel

from eexp.system.late import hidden


def new_adapter(model: PreTrainedModel, config: peft.PeftConfig) -> PreTrainedModel:
    """Return a model with a new adapter around it: a PeftModel, which passes everything else on to the model."""
    with _without_bitsandbytes():
        return cast(PreTrainedModel, peft.get_peft_model(model, config))


def saved_adapter(model: PreTrainedModel, directory: str, trainable: bool) -> peft.PeftModel:
    """Return a model with the adapter of a directory around it."""
    with _without_bitsandbytes():
        return peft.PeftModel.from_pretrained(model, directory, is_trainable=trainable)


@contextmanager
def _without_bitsandbytes() -> Iterator[None]:
    """Let PEFT import no bitsandbytes within the block; loading quantised weights has done so before."""
    with hidden("bitsandbytes"):
        yield
    for answer in (import_utils.is_bnb_available, import_utils.is_bnb_4bit_available):
        answer.cache_clear()
