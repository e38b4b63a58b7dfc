"""GGUF models in this process: llama.cpp, through the low-level API of llama-cpp-python.

Batching (tree.py, episodes.py) and sampling (drawing.py) are done here rather than by llama.cpp, so that a draw depends
on its seed alone and its log-probability is known (to about 1e-3 a token where keys and values are in half precision).
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import psutil

from eexp.cores import usable_cores
from eexp.errors import EexpError, InputError
from eexp.gguf import trial
from eexp.gguf.log import keep_log
from eexp.gguf.tiny import tiny_path
from eexp.models.base import Draw, Engine, Episodes, PlaySettings, Samples
from eexp.models.chat_tokens import AddedToken, Tokenizer
from eexp.models.drawing import Logits
from eexp.models.episodes import MARKS_OF_EPISODE, SequenceEpisodes, ThreadedEpisodes
from eexp.models.local import DEFAULT_CONTEXT, LocalModel, max_outputs
from eexp.models.states import Marks, sequences_for
from eexp.models.tree import Full, Item
from eexp.prompts import Messages
from eexp.prompts.chat_template import render_chat
from eexp.weights import fingerprint_of_files, parse_run

if TYPE_CHECKING:
    from eexp.gguf.file import Header

DEFAULT_BATCH = 512
#: Texts written side by side on a CPU. It multiplies 16 tokens and more at full speed, while attention takes time for
#: every token in memory, those of other texts included.
CPU_STEP = 32

_log: list[bytes] = []  # llama.cpp's latest log, the newest piece first; shown only where something fails
_LOG_PIECES = 1000  # pieces that are kept
_log_callback: object = None  # kept alive: llama.cpp holds the bare pointer


def _llama() -> ModuleType:
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


def _last_error() -> str:
    """Return the first error in llama.cpp's latest log."""
    log = b"".join(reversed(_log)).decode("utf-8", "replace")
    errors = [line.strip() for line in log.splitlines() if "error" in line or "fail" in line]
    return errors[0] if errors else "llama.cpp gave no reason"


class LoadedModel:
    """A loaded GGUF model, which is shared by all that open the same file with the same settings.

    Raises:
        EexpError: llama.cpp cannot load the file.
    """

    _loaded: weakref.WeakValueDictionary[tuple, LoadedModel] = weakref.WeakValueDictionary()

    def __init__(self, path: Path, gpu_layers: int | None):
        self.api = api = _llama()
        _log.clear()
        params = api.llama_model_default_params()
        if gpu_layers is not None:
            params.n_gpu_layers = gpu_layers
        self.pointer = api.llama_model_load_from_file(os.fsencode(path), params)
        if not self.pointer:
            raise EexpError(f"{path}: cannot be loaded: {_last_error()}")
        #: Whether layers keep a state of all tokens so far, so that a sequence cannot be cut.
        self.has_states = api.llama_model_is_recurrent(self.pointer) or api.llama_model_is_hybrid(self.pointer)
        self.vocab = api.llama_model_get_vocab(self.pointer)
        self.n_vocab: int = api.llama_vocab_n_tokens(self.vocab)

    @classmethod
    def open(cls, path: Path, gpu_layers: int | None) -> LoadedModel:
        """Load a file, or return the loaded model of it."""
        status = path.stat()
        key = (status.st_dev, status.st_ino, status.st_mtime_ns, gpu_layers)
        base = cls._loaded.get(key)
        if base is None:
            base = cls._loaded[key] = cls(path, gpu_layers)
        return base

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


class LlamaCppTokenizer(Tokenizer):
    """A vocabulary of llama.cpp with the chat template of its file.

    Args:
        header: Header of that file. It lists the special tokens; llama.cpp takes up to a second to report the type of
            every token, and calls some of those that mark turns (gpt-oss') user-defined.
    """

    def __init__(self, base: LoadedModel, template: str, header: Header):
        self._base, self._template, self._header = base, template, header

    def added_tokens(self) -> list[AddedToken]:
        api, vocab, header = self._base.api, self._base.vocab, self._header
        special = api.LLAMA_TOKEN_ATTR_CONTROL | api.LLAMA_TOKEN_ATTR_UNKNOWN
        special_ids = set(header.special_tokens)
        candidates = {*special_ids, *header.added_tokens, *self._base.tokenize(self._template, specials=True)}
        tokens = []
        for token in sorted(t for t in candidates if t < self._base.n_vocab):
            kind = api.llama_vocab_get_attr(vocab, token)
            if token in special_ids or kind & (special | api.LLAMA_TOKEN_ATTR_USER_DEFINED):
                text = api.llama_vocab_get_text(vocab, token).decode("utf-8", "replace")
                tokens.append(
                    AddedToken(
                        token,
                        text,
                        token in special_ids or bool(kind & special),
                        bool(kind & api.LLAMA_TOKEN_ATTR_LSTRIP),
                        bool(kind & api.LLAMA_TOKEN_ATTR_RSTRIP),
                    )
                )
        return tokens

    def encode(self, text: str) -> list[int]:
        return self._base.tokenize(text, specials=True)

    def encode_as_text(self, text: str, first: bool) -> list[int]:
        return self._base.tokenize(text, specials=False)  # which treats the beginning like any other place

    def render(self, messages: Messages, to_answer: bool, tools: Sequence[dict] = ()) -> str:
        begin, end = self._ends
        return render_chat(self._template, messages, {"bos_token": begin, "eos_token": end}, to_answer, tools)

    @cached_property
    def _ends(self) -> tuple[str, str]:
        api, vocab = self._base.api, self._base.vocab
        begin, end = (
            self._base.piece(token, True).decode("utf-8", "replace") if token >= 0 else ""
            for token in (api.llama_vocab_bos(vocab), api.llama_vocab_eos(vocab))
        )
        return begin, end


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
            raise EexpError(f"no context of {cells} tokens: {_last_error()}; try a smaller --context")
        if adapter is not None:
            adapters = (api.llama_adapter_lora_p_ctypes * 1)(adapter)
            if api.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(1.0)) != 0:
                raise EexpError(f"the adapter cannot be applied: {_last_error()}")
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
        """Evaluate items as `tree.Decoder` says. The arrays are llama.cpp's own: read them before the next call."""
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
            raise EexpError(f"llama_decode failed with status {status}: {_last_error()}")
        return [self._logits(i) for i in range(n) if needs_logits[i]]

    def _logits(self, i: int) -> Logits:
        pointer = self.api.llama_get_logits_ith(self._context, i)
        return np.ctypeslib.as_array(pointer, shape=(self.base.n_vocab,))

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


class LlamaCppModel(LocalModel):
    """A GGUF model with an optional GGUF LoRA adapter.

    Models on one base file share its weights, so several adapters take the memory of one base.

    Raises:
        EexpError: The model or the adapter cannot be loaded, or they do not fit together.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        adapter: str | os.PathLike | None = None,
        *,
        spec: str = "",
        engine: Engine | None = None,
    ):
        super().__init__()
        engine = engine or Engine()
        files = [Path(path), *([Path(adapter)] if adapter else [])]
        for file in files:
            if file.is_dir():
                raise EexpError(f"{file} is a directory: make a GGUF file of it with `eexp export`, or give -m {file}")
            if not file.is_file():
                raise EexpError(f"model file not found: {file}")
        self.spec, self._engine = spec or "+".join(map(str, files)), engine
        self._read_metadata(files)
        if files != [tiny_path()]:  # which eexp has exported itself
            trial.check(files)
        self._open_base: LoadedModel | None = LoadedModel.open(files[0], engine.gpu_layers)
        self._api = api = self._base.api
        template = api.llama_model_chat_template(self._base.pointer, None)
        if not template:
            raise EexpError(f"{path}: has no chat template; eexp prompts are chats, take an instruction-tuned model")
        try:
            self._template = template.decode("utf-8")
        except UnicodeDecodeError:
            raise EexpError(f"{path}: its chat template is not UTF-8, the file may be damaged") from None
        self._n_ctx = engine.context or min(api.llama_model_n_ctx_train(self._base.pointer), DEFAULT_CONTEXT)
        self._adapter = self._load_adapter(self._base, adapter) if adapter else None
        self._threads = engine.threads or usable_cores()
        self._on_gpu = api.llama_supports_gpu_offload() and engine.gpu_layers != 0
        self.settings = self._resolved()
        self.fingerprint = fingerprint_of_files(*files)

    def _read_metadata(self, files: list[Path]) -> None:
        """Read how to prompt the model, and check that the adapter was made for this base."""
        from eexp.gguf.file import read_header

        headers = [read_header(file) for file in files]
        self._header = headers[0]
        strings = [header.strings for header in headers]
        if strings[0].get("general.type") == "adapter":
            raise EexpError(
                f"{files[0]} is an adapter (LoRA): give the model it belongs to as well: BASE.gguf+{files[0]}"
            )
        trained = {"prompt_style": strings[-1].get("eexp.prompt_style")}  # the only key of earlier versions
        self.play_settings = PlaySettings.of_run(
            {**trained, **parse_run(strings[-1].get("eexp.run", "{}"), f"{files[-1]}: eexp.run")}
        )
        if len(files) == 2:
            if strings[1].get("general.type") != "adapter":
                raise EexpError(f"{files[1]}: not an adapter")
            own, trained_on = strings[0].get("eexp.fingerprint"), strings[1].get("eexp.base.fingerprint")
            if own and trained_on and own != trained_on:
                raise EexpError(f"{files[1]}: made for another base model ({trained_on}) than {files[0]} ({own})")

    def _load_adapter(self, base: LoadedModel, adapter: str | os.PathLike) -> object:
        _log.clear()
        loaded = self._api.llama_adapter_lora_init(base.pointer, os.fsencode(adapter))
        if not loaded:
            raise EexpError(f"{adapter}: does not fit {self.spec.split('+')[0]}: {_last_error()}")
        return loaded

    @property
    def _base(self) -> LoadedModel:
        if self._open_base is None:
            raise ValueError(f"{self.spec}: the model is closed")
        return self._open_base

    def _resolved(self) -> str:
        """Return the settings in words."""
        engine = self._engine
        threads, gpu = self._threads, self._on_gpu
        flash = gpu if engine.flash_attention is None else engine.flash_attention
        return (
            f"llama.cpp: context {self._n_ctx}, batch {min(engine.batch or DEFAULT_BATCH, self._n_ctx)}, "
            f"{threads} thread{'s' * (threads > 1)}, cache {engine.cache}, {'GPU' if gpu else 'CPU'}"
            f"{', flash attention' if flash else ''}"
        )

    # -- tokens --------------------------------------------------------------------------------------------------

    def _open_tokenizer(self) -> LlamaCppTokenizer:
        return LlamaCppTokenizer(self._base, self._template, self._header)

    def is_end(self, token: int) -> bool:
        return self._api.llama_vocab_is_eog(self._base.vocab, token)

    def text(self, ids: Sequence[int]) -> str:
        return b"".join(self._base.piece(i, i in self._kept_tokens) for i in ids).decode("utf-8", "replace")

    def _eos(self) -> int | None:
        token = self._api.llama_vocab_eos(self._base.vocab)
        return token if token >= 0 else None

    def _usual_end(self) -> int:
        return self._api.llama_vocab_eos(self._base.vocab)

    def _decoder(self) -> LlamaCppDecoder:
        sequences = self._api.llama_max_parallel_sequences()
        if self._base.has_states:
            sequences = sequences_for(self._sizes[0], sequences)
        return LlamaCppDecoder(self._base, self._engine, self._n_ctx, sequences, self._adapter)

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        """The bytes of a sequence's states, and of the keys and values of a token, for a model that has states."""
        probe = LlamaCppDecoder(self._base, replace(self._engine, batch=1), 32, 1)
        try:
            return probe.sizes()
        finally:
            probe.close()

    def episodes(self, n: int) -> Episodes[Draw, Samples]:
        threads = min(n, max(1, usable_cores() // self._threads)) if not self._on_gpu else 1
        most = min(self._api.llama_max_parallel_sequences(), self._contexts_in_memory() // threads)
        each = max(1, min(-(-n // threads), most))
        cells = -(-self._n_ctx // 256) * 256  # llama.cpp's step
        parts = [
            SequenceEpisodes(
                self,
                LlamaCppDecoder(self._base, self._engine, cells * each, each, self._adapter, unified=False),
                self,
                self._fitting,
            )
            for _ in range(threads)
        ]
        return ThreadedEpisodes(self, parts) if threads > 1 else parts[0]

    def _contexts_in_memory(self) -> int:
        """Return the number of contexts whose keys and values take half of the free memory."""
        if self._base.has_states:
            states, token = self._sizes
            context = states * (1 + MARKS_OF_EPISODE) + token * self._n_ctx
            return int(psutil.virtual_memory().available / 2 / context)
        api, model = self._api, self._base.pointer
        width = api.llama_model_n_embd(model) // api.llama_model_n_head(model) * api.llama_model_n_head_kv(model)
        size = {"f32": 4, "f16": 2, "q8_0": 34 / 32}[self._engine.cache]
        context = 2 * width * size * api.llama_model_n_layer(model) * self._n_ctx
        return int(psutil.virtual_memory().available / 2 / context)

    def close(self) -> None:
        super().close()
        self._open_base = None
