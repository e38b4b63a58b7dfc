"""llama.cpp through its C API, for the tests of the exporter: logits and token ids of a GGUF file."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import llama_cpp
import numpy as np

from eexp.gguf.log import keep_log

_kept: list[object] = []  # llama.cpp goes on to log to the last one


@contextlib.contextmanager
def _model(gguf_path: str | Path, vocab_only: bool = False) -> Iterator[ctypes.c_void_p]:
    _kept.append(keep_log(llama_cpp, []))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only, params.n_gpu_layers = vocab_only, 0
    params.use_extra_bufts = False  # with AMX, quantised models crash in batches (ggml-org/llama.cpp#20824)
    model = llama_cpp.llama_model_load_from_file(os.fsencode(gguf_path), params)
    if not model:
        raise RuntimeError(f"llama.cpp does not load {gguf_path}")
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)


def llama_logits(gguf_path: str | Path, token_ids: Sequence[int], adapter: str | Path | None = None) -> np.ndarray:
    """Return the logits of llama.cpp after each of `token_ids`: float32 [n_tokens, n_vocab]; CPU, float32 cache."""
    with _model(gguf_path) as model:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = len(token_ids)
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = llama_cpp.llama_init_from_model(model, params)
        batch = llama_cpp.llama_batch_init(len(token_ids), 0, 1)
        try:
            if adapter is not None:
                _apply(model, context, adapter)
            for i, token in enumerate(token_ids):
                batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.n_tokens = len(token_ids)
            if llama_cpp.llama_decode(context, batch):
                raise RuntimeError(f"llama.cpp does not decode with {gguf_path}")
            width = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
            rows = [llama_cpp.llama_get_logits_ith(context, i) for i in range(len(token_ids))]
            return np.stack([np.ctypeslib.as_array(row, shape=(width,)).copy() for row in rows])
        finally:
            llama_cpp.llama_batch_free(batch)
            llama_cpp.llama_free(context)


def _apply(model: ctypes.c_void_p, context: ctypes.c_void_p, adapter: str | Path) -> None:
    lora = llama_cpp.llama_adapter_lora_init(model, os.fsencode(adapter))
    if not lora:
        raise RuntimeError(f"llama.cpp does not load the adapter {adapter}")
    adapters, scales = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(lora), (ctypes.c_float * 1)(1.0)
    if llama_cpp.llama_set_adapters_lora(context, adapters, 1, scales):
        raise RuntimeError(f"llama.cpp does not apply the adapter {adapter}")


def llama_tokens(gguf_path: str | Path, texts: Sequence[str], add_special: bool = False) -> list[list[int]]:
    """Return the token ids of llama.cpp for each of `texts`, in which special tokens are recognised."""
    with _model(gguf_path, vocab_only=True) as model:
        vocab = llama_cpp.llama_model_get_vocab(model)
        tokens = []
        for text in texts:
            data = text.encode()
            ids = (llama_cpp.llama_token * (len(data) + 8))()
            count = llama_cpp.llama_tokenize(vocab, data, len(data), ids, len(ids), add_special, True)
            tokens.append(list(ids[:count]))
        return tokens
