"""transformers in process, with PEFT adapters: the reference the other backends are held against."""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from eexp.errors import EexpError
from eexp.models.base import Engine, PlaySettings
from eexp.models.chat_tokens import AddedToken, Tokenizer
from eexp.models.local import DEFAULT_CONTEXT, LocalModel
from eexp.models.tree import Decoder
from eexp.prompts import Messages
from eexp.weights import base_of_adapter, fingerprint_of_directory, read_run, resolve_base, split_adapter


def load_model(
    base: str,
    adapter: str | None = None,
    *,
    trainable: bool = False,
    dtype: Any = "auto",
    four_bit: bool = False,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """(model, tokenizer) of a directory or hub id, with its adapter if there is one.

    four_bit: the base's weights as bitsandbytes' NF4, on this process's GPU, ready to have an adapter trained on them.
    trust_remote_code: run the Python code that comes with the model; without it, such a model is refused.

    Raises EexpError where one is missing, or where the adapter was made for another base.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = _found(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, trust_remote_code=trust_remote_code, **(_in_four_bits(dtype) if four_bit else {})
        )
    except Exception as e:  # a damaged file fails in a dozen libraries' own ways
        raise EexpError(f"{source}: cannot be loaded: {_reason(e)}") from None
    if not tokenizer.chat_template:
        raise EexpError(f"{source}: has no chat template; eexp prompts are chats, take an instruction-tuned model")
    if model.dtype == torch.float16 and not torch.cuda.is_available():
        model = model.float()  # half precision is slow and inexact on a CPU
    if four_bit:
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if adapter:
        model = _with_adapter(model, source, adapter, trainable)
    return model, tokenizer


def load_config(base: str, trust_remote_code: bool = False) -> Any:
    """The configuration of a directory or hub id, without its weights. Raises EexpError where there is none."""
    from transformers import AutoConfig

    source = _found(base)
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as e:
        raise EexpError(f"{source}: cannot be loaded: {_reason(e)}") from None


def _found(base: str) -> str:
    source = resolve_base(base)
    if (source.startswith((".", "/")) or source.count("/") > 1) and not os.path.isdir(source):
        raise EexpError(f"model directory not found: {source}")
    return source


def _in_four_bits(dtype: Any) -> dict[str, Any]:
    """As in QLoRA (arXiv 2305.14314): NF4, its scales quantised again, arithmetic in `dtype`."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}


def _with_adapter(model: Any, base: str, adapter: str, trainable: bool) -> Any:
    from peft import PeftModel

    if not (Path(adapter) / "adapter_config.json").is_file():
        raise EexpError(f"{adapter}: not a PEFT adapter (no adapter_config.json)")
    wanted = read_run(adapter).get("base_fingerprint")
    found = fingerprint_of_directory(base) if os.path.isdir(base) else None
    if wanted and found and wanted != found:
        raise EexpError(f"{adapter}: made for another base model ({wanted}) than {base} ({found})")
    try:
        return PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except Exception as e:
        raise EexpError(f"{adapter}: does not fit {base}: {_reason(e)}") from None


def _reason(error: Exception) -> str:
    """The line of an error that tells most."""
    if "trust_remote_code" in str(error):
        return "it wants to run Python code of its own; read that code, and give --trust-remote-code if you trust it"
    said = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in said if "mismatch for" in line), said[0])


_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


def base_model(model: Any) -> Any:
    """The model of transformers below an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def unknown_layers(model: Any) -> str | None:
    """Layers that are not plain attention, in words; what goes through them cannot be cut and shared token by token."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - {"full_attention", *_WINDOWS}
    if kinds:
        return f"layers of {', '.join(sorted(kinds))}"
    return "layers with a state" if getattr(model, "_is_stateful", False) else None


def attention_window(config: Any) -> int | None:
    """How many tokens attention looks back where it looks back least; None where it always sees all."""
    layers = set(getattr(config, "layer_types", None) or ())
    names = [name for layer, name in _WINDOWS.items() if layer in layers or not layers]
    return min((size for name in names if (size := getattr(config, name, None))), default=None)


def _check_forks(model: Any, source: str, context: int) -> None:
    """Raises EexpError for a model whose memory cannot be cut and shared token by token."""
    kind = model.config.model_type
    if not model.is_backend_compatible() or unknown_layers(model):
        raise EexpError(
            f"{source}: a {kind} model, which cannot hold several texts in one memory here; serve it and "
            f"give -m http://HOST:PORT/v1"
        )
    window = attention_window(model.config.get_text_config())
    if window and context > window:
        raise EexpError(
            f"{source}: a {kind} model, whose attention reaches back {window} tokens: give --context "
            f"{window} or less, or a GGUF file of it"
        )


class HfTokenizer(Tokenizer):
    """A tokenizer of transformers."""

    def __init__(self, tokenizer: Any):
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
        """The text of a token that no other text has: what follows it is not the beginning."""
        return f"<|{secrets.token_hex(16)}|>"

    @cached_property
    def _as_text(self) -> Any:
        """A copy that looks for no special tokens; None where the tokenizer is not one of the tokenizers library."""
        from tokenizers import AddedToken

        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        as_text = copy.deepcopy(backend)
        as_text.add_tokens([AddedToken(self._guard, normalized=False)])
        as_text.encode_special_tokens = True
        as_text.no_truncation()
        as_text.no_padding()
        return as_text

    def render(self, messages: Messages, to_answer: bool) -> str:
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=to_answer, tokenize=False)


class HfModel(LocalModel):
    """A model of transformers, on the GPU where there is one."""

    def __init__(self, spec: str, *, engine: Engine | None = None):
        import torch

        super().__init__()
        self.spec = spec
        base, adapter = split_adapter(spec.removeprefix("hf:"))
        if adapter is None and (Path(base) / "adapter_config.json").is_file():
            base, adapter = base_of_adapter(base), base
        self._model, self._tokenizer = load_model(
            base, adapter, trust_remote_code=bool(engine and engine.trust_remote_code)
        )
        if adapter:
            if self._model.active_peft_config.is_prompt_learning:
                raise EexpError(
                    f"{adapter}: puts tokens of its own before the prompt; give an adapter of weights (LoRA)"
                )
            self._model = base_model(self._model)  # with the adapter's layers in it
        known = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        self._n_ctx = (engine and engine.context) or min(known or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        _check_forks(self._model, spec, self._n_ctx)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model.to(device).eval()
        self.settings = (
            f"transformers: context {self._n_ctx}, {str(self._model.dtype).removeprefix('torch.')}, "
            f"{'GPU' if device == 'cuda' else 'CPU'}"
        )
        ends = self._model.generation_config.eos_token_id
        self._ends = {self._tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        dirs = [d for d in (resolve_base(base), adapter) if d and os.path.isdir(d)]
        self.fingerprint = "+".join(filter(None, map(fingerprint_of_directory, dirs))) or base
        self.play_settings = PlaySettings.of_run(read_run(adapter or resolve_base(base)))

    def _open_tokenizer(self) -> HfTokenizer:
        return HfTokenizer(self._tokenizer)

    def is_end(self, token: int) -> bool:
        return token in self._ends

    def text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def spell(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)  # as in training

    def _eos(self) -> int | None:
        return self._tokenizer.eos_token_id

    def _usual_end(self) -> int:
        if not self._ends:
            raise EexpError(f"{self.spec}: has no token that ends a text")
        return self._tokenizer.eos_token_id if self._tokenizer.eos_token_id is not None else min(self._ends)

    def _decoder(self) -> Decoder:
        from eexp.models.cells import CellsDecoder

        return CellsDecoder(self._model, self._n_ctx)

    def close(self) -> None:
        super().close()
        self._model = None
