"""Tokenizers of transformers, without their models: for commands that only count or show tokens, and for training."""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from eexp.errors import EexpError, UsageError
from eexp.models.chat_tokens import AddedToken, Tokenizer
from eexp.models.registry import MODEL_FREE
from eexp.prompts import Messages
from eexp.records.runs import downloads_allowed, refuse_missing, resolve_base

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(spec: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model that `eexp finetune` can train: tiny, or a directory or hub id.

    Args:
        spec: As in -m; `hf:` before a directory or id may be left out, and an adapter after it makes no difference.

    Raises:
        UsageError: The model is a server or a GGUF file, whose tokens only their own programs know.
        EexpError: There is none, or it has no chat template.
    """
    base = spec.removeprefix("hf:").partition("+")[0]
    if base.endswith(".gguf") or "://" in base or base in MODEL_FREE:
        raise UsageError(f"{spec}: has no tokenizer of transformers; give tiny, or a model's directory or hub id")
    refuse_missing(base)  # transformers takes seconds to load
    from transformers import AutoTokenizer

    source = resolve_base(base)
    try:
        with downloads_allowed(None if os.path.isdir(source) else source):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as e:
        raise EexpError(f"{spec}: no tokenizer: {str(e).splitlines()[0]}") from None
    if not tokenizer.chat_template:
        raise EexpError(f"{spec}: its tokenizer has no chat template")
    return tokenizer


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], **options: bool) -> str:
    """Return the text of tokens; `options` are those of the tokenizer's own `decode`."""
    text = tokenizer.decode(list(ids), **options)
    assert isinstance(text, str)  # a list comes for several texts only
    return text


def stop_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the token by which a tokenizer ends texts; None without one."""
    number = tokenizer.eos_token_id
    assert number is None or isinstance(number, int)  # a list comes for several tokens only
    return number


class HfTokenizer(Tokenizer):
    """A tokenizer of transformers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer

    def added_tokens(self) -> list[AddedToken]:
        named = set(self._tokenizer.all_special_tokens)
        return [
            AddedToken(number, token.content, special, token.lstrip, token.rstrip, token.single_word)
            for number, token in self._tokenizer.added_tokens_decoder.items()
            if (special := token.special or token.content in named) or not token.normalized
        ]

    def encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode_as_text(self, text: str, first: bool) -> list[int]:
        if self._as_text is None:
            return self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids = self._as_text.encode(text if first else self._guard + text, add_special_tokens=False).ids
        return ids if first else ids[1:]

    @cached_property
    def _guard(self) -> str:
        """The text of a token that occurs in no text; a text after it is not at the beginning."""
        return f"<|{secrets.token_hex(16)}|>"

    @cached_property
    def _as_text(self) -> tokenizers.Tokenizer | None:
        """A copy that finds no special tokens; None where the tokenizer is not one of the tokenizers library."""
        import tokenizers

        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        as_text = copy.deepcopy(backend)
        as_text.add_tokens([tokenizers.AddedToken(self._guard, normalized=False)])
        as_text.encode_special_tokens = True
        as_text.no_truncation()
        as_text.no_padding()
        return as_text

    @property
    def name(self) -> str:
        return self._tokenizer.name_or_path or super().name

    def render(self, messages: Messages, to_answer: bool, tools: Sequence[dict] = ()) -> str:
        text = self._tokenizer.apply_chat_template(
            messages, tools=list(tools) or None, add_generation_prompt=to_answer, tokenize=False
        )
        assert isinstance(text, str)  # since nothing is tokenized, and this is one chat
        return text
