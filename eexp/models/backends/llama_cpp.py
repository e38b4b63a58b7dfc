"""GGUF models in this process: llama.cpp, through the low-level API of llama-cpp-python.

Batching and sampling are those of eexp/models/engine rather than llama.cpp's, so that a draw depends on its seed alone
and its log-probability is known (to about 1e-3 a token where keys and values are in half precision).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from eexp.errors import EexpError
from eexp.models.backends.llama_decoder import DEFAULT_BATCH, LlamaCppDecoder, LoadedModel
from eexp.models.backends.llama_trial import can_use_extra_buffers
from eexp.models.base import Draw, Engine, Episodes, PlaySettings, Samples
from eexp.models.chat_tokens import AddedToken, Tokenizer
from eexp.models.engine.decoder import sequences_for
from eexp.models.engine.in_flight import MARKS_OF_EPISODE, SequenceEpisodes, ThreadedEpisodes
from eexp.models.engine.local import DEFAULT_CONTEXT, LocalModel
from eexp.prompts import Messages
from eexp.prompts.chat_template import render_chat
from eexp.records.runs import fingerprint_of_files, parse_run
from eexp.system.cores import usable_cores
from eexp.system.terminal import format_bytes

if TYPE_CHECKING:
    from eexp.gguf.file import Header

#: Bytes of a file whose model gets one thread by default, about 12 million parameters in half precision. Threads of so
#: small a model wait for each other longer than they work, most of all on a busy machine (benchmarks/threads.py).
SMALL = 24_000_000


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
        if engine.threads is None and files[0].stat().st_size <= SMALL:
            engine = replace(engine, threads=1)
        self.spec, self._engine = spec or "+".join(map(str, files)), engine
        self._read_metadata(files)
        self.fingerprint = fingerprint_of_files(*files)
        self._extra_buffers = can_use_extra_buffers(files, self.fingerprint, engine)
        self._open_base: LoadedModel | None = LoadedModel.open(files[0], engine.gpu_layers, self._extra_buffers)
        self._api = api = self._base.api
        template = api.llama_model_chat_template(self._base.pointer, None)
        if not template:
            raise EexpError(f"{path}: has no chat template; eexp prompts are chats, take an instruction-tuned model")
        try:
            self._template = template.decode("utf-8")
        except UnicodeDecodeError:
            raise EexpError(f"{path}: its chat template is not UTF-8, the file may be damaged") from None
        self._n_ctx = engine.context or min(api.llama_model_n_ctx_train(self._base.pointer), DEFAULT_CONTEXT)
        self._adapter = self._base.load_adapter(adapter, self.spec.split("+")[0]) if adapter else None
        self._threads = engine.threads or usable_cores()
        self._on_gpu = api.llama_supports_gpu_offload() and engine.gpu_layers != 0
        if engine.context and not self._on_gpu:
            self._check_context()
        self.settings = self._resolved()

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
        source = f"{files[-1]}: eexp.run"
        run = parse_run(strings[-1].get("eexp.run", "{}"), source)
        self.play_settings = PlaySettings.of_run({**trained, **run}, source)
        if len(files) == 2:
            if strings[1].get("general.type") != "adapter":
                raise EexpError(f"{files[1]}: not an adapter")
            own, trained_on = strings[0].get("eexp.fingerprint"), strings[1].get("eexp.base.fingerprint")
            if own and trained_on and own != trained_on:
                raise EexpError(f"{files[1]}: made for another base model ({trained_on}) than {files[0]} ({own})")

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
            f"{', flash attention' if flash else ''}{'' if self._extra_buffers else ', no extra buffers'}"
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
        return int(psutil.virtual_memory().available / 2 / self._context_bytes())

    def _context_bytes(self) -> float:
        """Return the bytes of the keys and values of one context, with its states where the model has some."""
        if self._base.has_states:
            states, token = self._sizes
            return states * (1 + MARKS_OF_EPISODE) + token * self._n_ctx
        api, model = self._api, self._base.pointer
        width = api.llama_model_n_embd(model) // api.llama_model_n_head(model) * api.llama_model_n_head_kv(model)
        size = {"f32": 4, "f16": 2, "q8_0": 34 / 32}[self._engine.cache]
        return 2 * width * size * api.llama_model_n_layer(model) * self._n_ctx

    def _check_context(self) -> None:
        """Raise EexpError for a context that does not fit into memory: llama.cpp would try, and fill the machine."""
        needed, free = self._context_bytes(), psutil.virtual_memory().available
        if needed > free:
            raise EexpError(
                f"{self.spec}: a context of {self._n_ctx:,} tokens takes {format_bytes(needed)} of memory, of which "
                f"{format_bytes(free)} are free; give a smaller --context"
            )

    def close(self) -> None:
        super().close()
        self._open_base = None
