"""Tokenizers without their models, for what only counts tokens or shows them."""

from __future__ import annotations

from typing import Any

from eexp.errors import EexpError, UsageError


def load_tokenizer(spec: str) -> Any:
    """Return the tokenizer of a model that `eexp finetune` could train: tiny, or a directory or hub id.

    Args:
        spec: As in -m; `hf:` before a directory or id may be left out, and an adapter after it makes no difference.

    Raises:
        UsageError: for a server or a GGUF file, whose tokens only their own program knows.
        EexpError: there is none, or it has no chat template.
    """
    from transformers import AutoTokenizer

    from eexp.weights import resolve_base

    base = spec.removeprefix("hf:").partition("+")[0]
    if base.endswith(".gguf") or "://" in base or base in ("random", "expert"):
        raise UsageError(f"{spec}: has no tokenizer of transformers; give tiny, or a model's directory or hub id")
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_base(base), trust_remote_code=False)
    except (OSError, ValueError) as e:
        raise EexpError(f"{spec}: no tokenizer: {str(e).splitlines()[0]}") from None
    if not tokenizer.chat_template:
        raise EexpError(f"{spec}: its tokenizer has no chat template")
    return tokenizer
