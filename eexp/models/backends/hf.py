"""Models of transformers in this process, with PEFT adapters: the reference for the other backends.

This module loads torch and transformers; import it where they are needed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from logging import ERROR, getLogger
from pathlib import Path
from typing import cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from eexp.errors import EexpError
from eexp.models.backends.kernels import crash_of
from eexp.models.base import Engine, PlaySettings
from eexp.models.devices import local_device
from eexp.models.engine.decoder import Decoder
from eexp.models.engine.local import DEFAULT_CONTEXT, LocalModel
from eexp.models.tokenizers import HfTokenizer, stop_token, text_of
from eexp.records.runs import (
    RUN_FILE,
    base_of_adapter,
    check_adapter,
    downloads_allowed,
    fingerprint_of_directory,
    is_adapter,
    read_run,
    refuse_path,
    refuse_unfinished,
    resolve_base,
    split_adapter,
)
from eexp.system.late import large_imports
from eexp.system.terminal import tell

# For quantised weights, transformers imports bitsandbytes, which looks for kernels for inference in a package that may
# be missing, and says so on standard error.
getLogger("bitsandbytes").setLevel(ERROR)


def load_model(
    base: str,
    adapter: str | None = None,
    *,
    trainable: bool = False,
    dtype: str | torch.dtype = "auto",
    four_bit: bool = False,
    trust_remote_code: bool = False,
    named: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model and the tokenizer of a directory or hub id, with an adapter if one is given.

    Args:
        adapter: Directory of a PEFT adapter. With it, the model is a PeftModel around the base.
        trainable: Whether the adapter is to be trained.
        dtype: Number format of the weights; "auto" keeps the stored one where the device computes in it, and takes
            float32 elsewhere.
        four_bit: Hold the weights of linear layers as bitsandbytes' NF4, to train an adapter on them; those of the
            output stay in `dtype`, as all others.
        trust_remote_code: Run the Python code that comes with the model; without it, such a model is refused.
        named: Whether the command line names the base, which may then be downloaded; else the adapter does.

    Raises:
        EexpError: A directory is missing or damaged, the model has no chat template, or the adapter was made for
            another base.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries warn about each other
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = _checked_source(base, named)
    if adapter:
        check_adapter(adapter)
    try:
        with downloads_allowed(source if named and not os.path.isdir(source) else None):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, trust_remote_code=trust_remote_code, **(_four_bits(dtype) if four_bit else {})
            )
    except EexpError:
        raise
    except Exception as e:  # a damaged file raises the errors of many libraries
        raise EexpError(f"{source}: cannot be loaded: {_reason(e)}") from None
    if not tokenizer.chat_template:
        raise EexpError(f"{source}: has no chat template; eexp prompts are chats, take an instruction-tuned model")
    if dtype == "auto":
        model = _fit_for_device(model, source)
    if four_bit:
        _keep_four_bits(model)
    if adapter:
        model = _with_adapter(model, source, adapter, trainable)
    return model, tokenizer


def load_config(base: str, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Load the configuration of a directory or hub id, without its weights.

    Raises:
        EexpError: There is none, or it cannot be read.
    """
    source = _checked_source(base)
    try:
        with downloads_allowed(None if os.path.isdir(source) else source):
            return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except EexpError:
        raise
    except Exception as e:
        raise EexpError(f"{source}: cannot be loaded: {_reason(e)}") from None


def _checked_source(base: str, named: bool = True) -> str:
    """Return the directory or hub id of a base model.

    Raises:
        EexpError: It is a directory that does not exist, or that holds an adapter, of which transformers would load
            the base that it names.
    """
    source = resolve_base(base)
    refuse_unfinished(source)
    if is_adapter(source):
        raise EexpError(f"{source}: an adapter, where a base model is needed; give the base that it was made for")
    refuse_path(source)
    if named and source == base and not os.path.isdir(source):
        tell(f"no directory {source} here: asking the Hugging Face hub for it")
    return source


def _four_bits(dtype: str | torch.dtype) -> dict[str, object]:
    """Return the settings of QLoRA (arXiv 2305.14314): NF4, its scales quantised again, arithmetic in `dtype`."""
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config, "device_map": {"": local_device(int(os.environ.get("LOCAL_RANK", "0")))}}


def _keep_four_bits(model: PreTrainedModel) -> None:
    """Let linear layers in 4 bits keep their weights as they are.

    On a CPU with bfloat16, such a layer otherwise changes the order of its weights, in place, when it first computes
    without a gradient. From then on it gives no gradient to what it reads, without a word.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _fit_for_device(model: PreTrainedModel, source: str) -> PreTrainedModel:
    """Return the model in float32 where the device does not compute in the type of its weights, or not well.

    Raises:
        EexpError: Its weights are in 4 bits, with which computing ends the process.
    """
    if model.dtype == torch.float16 and local_device().type == "cpu":
        return model.float()  # half precision is slow and inexact on a CPU
    four_bit = bool(getattr(model, "is_loaded_in_4bit", False))
    crash = crash_of(model.dtype, four_bit)
    if crash and four_bit:
        raise EexpError(f"{source}: {crash.reason}; take the model that it was made from")
    if crash:
        tell(f"{source}: {crash.reason}: going on in float32, which takes twice the memory")
        return model.float()
    return model


def _with_adapter(model: PreTrainedModel, base: str, adapter: str, trainable: bool) -> PreTrainedModel:
    """Return the model with an adapter around it."""
    with large_imports():
        from eexp.models.backends.adapters import saved_adapter

    trained_on = read_run(adapter).get("base_fingerprint")
    own = fingerprint_of_directory(base) if os.path.isdir(base) else None
    if trained_on and own and trained_on != own:
        raise EexpError(f"{adapter}: made for another base model ({trained_on}) than {base} ({own})")
    try:
        with downloads_allowed(None):
            wrapped = saved_adapter(model, adapter, trainable)
    except Exception as e:
        raise EexpError(f"{adapter}: does not fit {base}: {_reason(e)}") from None
    # PEFT asks the hub for the model of this name when it saves the adapter.
    wrapped.active_peft_config.base_model_name_or_path = base
    return cast(PreTrainedModel, wrapped)  # it passes everything else on to the model, which its class does not say


def _reason(error: Exception) -> str:
    """Return the most informative line of an error."""
    if "trust_remote_code" in str(error):
        return "it wants to run Python code of its own; read that code, and give --trust-remote-code if you trust it"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "mismatch for" in line), lines[0])


#: Layers without a state, as configurations name them.
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def base_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model of transformers below an adapter, or the model itself without one."""
    return getattr(model, "get_base_model", lambda: model)()


def unknown_layers(model: PreTrainedModel) -> str | None:
    """Return, in words, the layers that are not plain attention: their states cannot be cut and shared by tokens."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - _ATTENTION
    if kinds:
        return f"layers of {', '.join(sorted(kinds))}"
    return "layers with a state" if getattr(model, "_is_stateful", False) else None


def open_decoder(model: PreTrainedModel, source: str, context: int) -> Decoder:
    """Return the memory for the texts of a model.

    Raises:
        EexpError: The model cannot hold several texts in one memory.
    """
    from eexp.models.backends.cells import CellsDecoder
    from eexp.models.backends.rows import open_rows

    if unknown_layers(model):
        decoder = open_rows(model, context)
    else:
        decoder = CellsDecoder(model, context) if model.is_backend_compatible() else None
    if decoder is None:
        raise EexpError(
            f"{source}: a {model.config.model_type} model, which cannot hold several texts in one memory here; serve "
            f"it and give -m http://HOST:PORT/v1"
        )
    return decoder


class HfModel(LocalModel):
    """A model of transformers, on the GPU if there is one.

    Raises:
        EexpError: The model cannot be loaded, or its memory cannot be shared by several texts.
    """

    def __init__(self, spec: str, *, engine: Engine | None = None):
        super().__init__()
        self.spec = spec
        base, adapter = split_adapter(spec.removeprefix("hf:"))
        named = adapter is not None or not is_adapter(base)
        if not named:
            base, adapter = base_of_adapter(base), base
        self._model, self._tokenizer = load_model(
            base, adapter, trust_remote_code=bool(engine and engine.trust_remote_code), named=named
        )
        if adapter:
            self._model = base_model(self._model)  # with the adapter's layers in it
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        self._n_ctx = (engine and engine.context) or min(limit or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        device = local_device()
        self._model.to(device).eval()  # pyright: ignore[reportArgumentType]  # `to` has a decorator without types
        self._open_decoder: Decoder | None = open_decoder(self._model, spec, self._n_ctx)
        self.settings = (
            f"transformers: context {self._n_ctx}, {str(self._model.dtype).removeprefix('torch.')}, "
            f"{'CPU' if device.type == 'cpu' else 'GPU'}"
        )
        ends = self._model.generation_config.eos_token_id
        ends = [self._eos(), *(ends if isinstance(ends, list) else [ends])]
        self._ends = {number for number in ends if number is not None}
        dirs = [d for d in (resolve_base(base), adapter) if d and os.path.isdir(d)]
        self.fingerprint = "+".join(filter(None, map(fingerprint_of_directory, dirs))) or base
        trained = Path(adapter or resolve_base(base))
        self.play_settings = PlaySettings.of_run(read_run(trained), str(trained / RUN_FILE))

    def _open_tokenizer(self) -> HfTokenizer:
        return HfTokenizer(self._tokenizer)

    def is_end(self, token: int) -> bool:
        return token in self._ends

    def text(self, ids: Sequence[int]) -> str:
        if not self._kept_tokens.isdisjoint(ids):
            special = set(self._tokenizer.all_special_ids) - self._kept_tokens
            special |= {n for n, token in self._tokenizer.added_tokens_decoder.items() if token.special}
            ids = [i for i in ids if i in self._kept_tokens or i not in special]
            return text_of(self._tokenizer, ids, skip_special_tokens=False)
        return text_of(self._tokenizer, ids, skip_special_tokens=True)

    def spell(self, ids: Sequence[int]) -> str:
        return text_of(self._tokenizer, ids, clean_up_tokenization_spaces=False)  # as in training

    def _eos(self) -> int | None:
        return stop_token(self._tokenizer)

    def _usual_end(self) -> int:
        if not self._ends:
            raise EexpError(f"{self.spec}: has no token that ends a text")
        eos = self._eos()
        return min(self._ends) if eos is None else eos

    def _decoder(self) -> Decoder:
        assert self._open_decoder is not None, "closed"
        return self._open_decoder

    def close(self) -> None:
        super().close()
        self._model = self._open_decoder = None
