"""llama.cpp through the low-level API of llama-cpp-python: loaded models, and the evaluation of batches."""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from eexp.errors import EexpError, InputError
from eexp.gguf.log import keep_log
from eexp.models.base import Engine
from eexp.models.engine.decoder import Full, Item, Marks, max_outputs
from eexp.models.engine.distribution import Logits
from eexp.system.cores import usable_cores

DEFAULT_BATCH = 512
#: Texts written side by side on a CPU. It multiplies 16 tokens and more at full speed, while attention takes time for
#: every token in memory, those of other texts included.
CPU_STEP = 32

_log: list[bytes] = []  # llama.cpp's latest log, the newest piece first; shown only where something fails
_LOG_PIECES = 1000  # pieces that are kept
_log_callback: object = None  # kept alive: llama.cpp holds the bare pointer


def low_level_api() -> ModuleType:
    """Return the low-level API, with its log kept off stderr."""
    global _log_callback
    try:
        import llama_cpp.llama_cpp as api
    except ImportError as e:
        raise EexpError(f"llama-cpp-python cannot be loaded ({e}); install it with pip install llama-cpp-python") from e
    if _log_callback is None:
        _log_callback = keep_log(api, _log)
        api.llama_backend_init()
    return api


def last_error() -> str:
    """Return the first error in llama.cpp's latest log."""
    log = b"".join(reversed(_log)).decode("utf-8", "replace")
    errors = [line.strip() for line in log.splitlines() if "error" in line or "fail" in line]
    return errors[0] if errors else "llama.cpp gave no reason"


class LoadedModel:
    """A loaded GGUF model, which is shared by all that open the same file with the same settings.

    Args:
        extra_buffers: Let llama.cpp keep weights in the layouts of its kernels for this processor (repacked, AMX).

    Raises:
        EexpError: llama.cpp cannot load the file.
    """

    _loaded: weakref.WeakValueDictionary[tuple, LoadedModel] = weakref.WeakValueDictionary()

    def __init__(self, path: Path, gpu_layers: int | None, extra_buffers: bool = True):
        self.api = api = low_level_api()
        _log.clear()
        params = api.llama_model_default_params()
        if gpu_layers is not None:
            params.n_gpu_layers = gpu_layers
        params.use_extra_bufts = extra_buffers
        self.pointer = api.llama_model_load_from_file(os.fsencode(path), params)
        if not self.pointer:
            raise EexpError(f"{path}: cannot be loaded: {last_error()}")
        #: Whether layers keep a state of all tokens so far, so that a sequence cannot be cut.
        self.has_states = api.llama_model_is_recurrent(self.pointer) or api.llama_model_is_hybrid(self.pointer)
        self.vocab = api.llama_model_get_vocab(self.pointer)
        self.n_vocab: int = api.llama_vocab_n_tokens(self.vocab)

    @classmethod
    def open(cls, path: Path, gpu_layers: int | None, extra_buffers: bool = True) -> LoadedModel:
        """Load a file, or return the loaded model of it."""
        status = path.stat()
        key = (status.st_dev, status.st_ino, status.st_mtime_ns, gpu_layers, extra_buffers)
        base = cls._loaded.get(key)
        if base is None:
            base = cls._loaded[key] = cls(path, gpu_layers, extra_buffers)
        return base

    def load_adapter(self, path: str | os.PathLike, spec: str) -> object:
        """Return llama.cpp's pointer to a LoRA adapter, which lives as long as the model.

        Raises:
            EexpError: It does not fit the model, which `spec` names.
        """
        _log.clear()
        adapter = self.api.llama_adapter_lora_init(self.pointer, os.fsencode(path))
        if not adapter:
            raise EexpError(f"{path}: does not fit {spec}: {last_error()}")
        return adapter

    def piece(self, token: int, special: bool = False) -> bytes:
        """Return the bytes of a token; none for special tokens, unless `special`."""
        buffer = ctypes.create_string_buffer(64)
        n = self.api.llama_token_to_piece(self.vocab, token, buffer, 64, 0, special)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = self.api.llama_token_to_piece(self.vocab, token, buffer, -n, 0, special)
        return buffer.raw[:n]

    def tokenize(self, text: str, specials: bool) -> list[int]:
        """Return the token ids of a text.

        Args:
            specials: Whether the texts of special tokens become these tokens.

        Raises:
            InputError: llama.cpp cannot tokenize the text.
        """
        data = text.encode("utf-8")
        room = len(data) + 8
        ids = (self.api.llama_token * room)()
        n = self.api.llama_tokenize(self.vocab, data, len(data), ids, room, False, specials)
        if n < 0:
            raise InputError("the prompt cannot be tokenized")
        return list(ids[:n])

    def __del__(self) -> None:
        if getattr(self, "pointer", None) and not sys.is_finalizing():  # by then ctypes may be gone
            self.api.llama_model_free(self.pointer)  # frees its adapters too


class LlamaCppDecoder:
    """A context of llama.cpp: a memory of `cells` tokens for `sequences`, and the evaluation of batches in it.

    Args:
        adapter: llama.cpp's pointer to a LoRA adapter.
        unified: Let all sequences share the cells and keep common tokens once; else each sequence has its own part, and
            attention reads no other part.

    Raises:
        EexpError: llama.cpp cannot make the context or apply the adapter.
    """

    _STATE = 1  # llama.cpp's flag for the states of recurrent layers alone, without keys and values

    def __init__(
        self,
        base: LoadedModel,
        engine: Engine,
        cells: int,
        sequences: int,
        adapter: object = None,
        unified: bool = True,
    ):
        self.api, self.base = base.api, base
        api, params = base.api, base.api.llama_context_default_params()
        self.cells, self.sequences = cells, sequences
        params.n_seq_max = sequences
        params.n_ctx = max(cells, sequences)
        params.kv_unified = unified
        params.n_ubatch = self.batch = min(engine.batch or DEFAULT_BATCH, cells)
        params.n_batch = max(self.batch, sequences)  # a smaller one, or a smaller n_ctx, ends the process
        params.n_threads = params.n_threads_batch = engine.threads or usable_cores()
        params.type_k = params.type_v = {"f32": 0, "f16": 1, "q8_0": 8}[engine.cache]
        params.no_perf = True
        flash = engine.flash_attention
        if flash is None and not api.llama_supports_gpu_offload():
            flash = False  # on a CPU it makes a prefill of 35 tokens 3 times slower
        if flash is not None:
            params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = api.llama_init_from_model(base.pointer, params)
        if not self._context:
            raise EexpError(f"no context of {cells} tokens: {last_error()}; try a smaller --context")
        if adapter is not None:
            adapters = (api.llama_adapter_lora_p_ctypes * 1)(adapter)
            if api.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(1.0)) != 0:
                raise EexpError(f"the adapter cannot be applied: {last_error()}")
        self.outputs = max_outputs(self.batch, base.n_vocab)
        self.step = self.batch if api.llama_supports_gpu_offload() else CPU_STEP
        self._memory = api.llama_get_memory(self._context)
        self.cuts, self._marks = not base.has_states, Marks[ctypes.Array]()
        self._batch = api.llama_batch_init(self.batch, 0, sequences)
        self._token, self._position, self._counts, self._needs_logits = (
            np.ctypeslib.as_array(field, shape=(self.batch,))
            for field in (self._batch.token, self._batch.pos, self._batch.n_seq_id, self._batch.logits)
        )

    def decode(self, items: Sequence[Item]) -> list[Logits]:
        """Evaluate items as `decoder.Decoder` says. The arrays are llama.cpp's own: read them before the next call."""
        n = self._batch.n_tokens = len(items)
        tokens, positions, sequences, needs_logits = zip(*items)
        self._token[:n], self._position[:n], self._needs_logits[:n] = tokens, positions, needs_logits
        self._counts[:n] = [len(some) for some in sequences]
        for i, some in enumerate(sequences):
            target = self._batch.seq_id[i]
            for j, sequence in enumerate(some):
                target[j] = sequence
        status = self.api.llama_decode(self._context, self._batch)
        del _log[_LOG_PIECES:]
        if status == 1:
            raise Full
        if status != 0:
            raise EexpError(f"llama_decode failed with status {status}: {last_error()}")
        pointers = (self.api.llama_get_logits_ith(self._context, i) for i in range(n) if needs_logits[i])
        return [np.ctypeslib.as_array(pointer, shape=(self.base.n_vocab,)) for pointer in pointers]

    def fork(self, source: int, target: int, end: int) -> None:
        # Without `cuts`, llama.cpp copies the state at the end, and would do so whatever `end` is.
        self.api.llama_memory_seq_cp(self._memory, source, target, 0, end)

    def trim(self, sequence: int, start: int) -> None:
        if not self.cuts and start < self._length(sequence) and (state := self._marks.cut(sequence, start)):
            # After this, nothing is left to remove but keys and values, which llama.cpp can remove.
            self.api.llama_state_seq_set_data_ext(self._context, state, len(state), sequence, self._STATE)
        if not self.api.llama_memory_seq_rm(self._memory, sequence, start, -1):
            raise EexpError(f"llama.cpp cannot cut a sequence of {self._length(sequence)} tokens to {start}")

    def mark(self, sequence: int) -> None:
        if not self.cuts:
            size = self.api.llama_state_seq_get_size_ext(self._context, sequence, self._STATE)
            state = (ctypes.c_uint8 * size)()
            self.api.llama_state_seq_get_data_ext(self._context, state, size, sequence, self._STATE)
            self._marks.add(sequence, self._length(sequence), state)

    def reach(self, sequence: int, most: int) -> int:
        return most if self.cuts else self._marks.reach(sequence, self._length(sequence), most)

    def _length(self, sequence: int) -> int:
        return self.api.llama_memory_seq_pos_max(self._memory, sequence) + 1

    def sizes(self) -> tuple[int, int]:
        """Return the bytes of a sequence's states, and those of the keys and values of a token, after evaluating one.

        For models that keep states: how large they are, each architecture decides in its own way.
        """
        self.decode([Item(0, 0, (0,), False)])
        states, all_ = (self.api.llama_state_seq_get_size_ext(self._context, 0, part) for part in (self._STATE, 0))
        return states, all_ - states

    def clear(self) -> None:
        self._marks.clear()
        self.api.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        if self._context:
            self.api.llama_batch_free(self._batch)
            self.api.llama_free(self._context)
            self._context = None

    def __del__(self) -> None:
        if getattr(self, "_batch", None) is not None and not sys.is_finalizing():
            self.close()
