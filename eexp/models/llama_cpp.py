"""llama.cpp in process, on llama-cpp-python's low-level API.

One context holds the prompt as sequence 0. What consecutive prompts have in common (along a trajectory, nearly all) is
kept in the cache; the n samples of a prompt are forks of sequence 0, decoded together in one batch.
Sampling is ours rather than llama.cpp's, so that a draw is decided by its seed alone and its log-probability is known
(to about 1e-3 a token: the cache is half precision).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eexp.errors import EexpError, InputError
from eexp.models import chat_template, fingerprints
from eexp.models.base import Model, Sample
from eexp.prompts import Messages
from eexp.records import seed_of

DEFAULT_CONTEXT = 8192
_CHUNK = 64  # prompts are evaluated in chunks that begin at multiples of this
_PARALLEL = 32  # sequences beside the prompt's own

_log: list[str] = []  # llama.cpp's last words, told only when something fails
_log_callback: Any = None  # kept alive: llama.cpp holds the bare pointer


def _llama() -> Any:
    """The low-level API, with its log kept off stderr."""
    global _log_callback
    try:
        import llama_cpp.llama_cpp as api
    except ImportError as e:
        raise EexpError(f"llama-cpp-python cannot be loaded ({e}); install it with pip install llama-cpp-python") from e
    if _log_callback is None:

        @api.llama_log_callback
        def keep(level: int, text: bytes, _: ctypes.c_void_p) -> None:
            _log.append(text.decode("utf-8", "replace"))
            del _log[:-20]

        _log_callback = keep
        api.llama_log_set(keep, ctypes.c_void_p(0))
        api.llama_backend_init()
    return api


def _last_words() -> str:
    said = [line.strip() for line in "".join(_log).splitlines() if "error" in line or "fail" in line]
    return said[0] if said else "llama.cpp gave no reason"


class LlamaCppModel(Model):
    """A GGUF model with an optional GGUF LoRA adapter. Raises EexpError where either cannot be loaded."""

    def __init__(self, path: str | os.PathLike, adapter: str | os.PathLike | None = None, *, spec: str = "",
                 context: int | None = None, threads: int | None = None):  # fmt: skip
        self._model = self._context = self._adapter = None
        files = [Path(path), *([Path(adapter)] if adapter else [])]
        for file in files:
            if not file.is_file():
                raise EexpError(f"model file not found: {file}")
        self.spec = spec or "+".join(map(str, files))
        self._read_metadata(files)
        self._api = api = _llama()
        _log.clear()
        self._model = api.llama_model_load_from_file(os.fsencode(path), api.llama_model_default_params())
        if not self._model:
            raise EexpError(f"{path}: cannot be loaded: {_last_words()}")
        self._vocab = api.llama_model_get_vocab(self._model)
        self._n_vocab = api.llama_vocab_n_tokens(self._vocab)
        template = api.llama_model_chat_template(self._model, None)
        if not template:
            raise EexpError(f"{path}: has no chat template; eexp prompts are chats, take an instruction-tuned model")
        self._template = template.decode("utf-8")
        self._open_context(context, threads)
        if adapter:
            self._load_adapter(adapter)
        self.fingerprint = fingerprints.of_files(*files)
        self._batch = api.llama_batch_init(_CHUNK, 0, 1)
        self._cached: list[int] = []

    def _read_metadata(self, files: list[Path]) -> None:
        """The prompt style it was trained with, and whether the adapter was made for this base."""
        from eexp.training.gguf_export import read_metadata

        said = [read_metadata(file) for file in files]
        self.prompt_style = said[-1].get("eexp.prompt_style")
        if len(files) == 2:
            if said[1].get("general.type") != "adapter":
                raise EexpError(f"{files[1]}: not an adapter")
            base, wanted = said[0].get("eexp.fingerprint"), said[1].get("eexp.base.fingerprint")
            if base and wanted and base != wanted:
                raise EexpError(f"{files[1]}: made for another base model ({wanted}) than {files[0]} ({base})")

    def _open_context(self, context: int | None, threads: int | None) -> None:
        api, params = self._api, self._api.llama_context_default_params()
        trained = api.llama_model_n_ctx_train(self._model)
        self._n_ctx = context or min(trained, DEFAULT_CONTEXT)
        params.n_ctx, params.n_batch, params.n_ubatch = self._n_ctx, _CHUNK, _CHUNK
        params.n_seq_max, params.kv_unified = _PARALLEL + 1, True
        params.n_threads = params.n_threads_batch = threads or len(os.sched_getaffinity(0))
        params.no_perf = True
        if not api.llama_supports_gpu_offload():  # on a CPU flash attention made a prefill of 35 tokens 3 times slower
            params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise EexpError(f"{self.spec}: no context of {self._n_ctx} tokens: {_last_words()}; "
                            f"try a smaller --context")  # fmt: skip
        self._memory = api.llama_get_memory(self._context)

    def _load_adapter(self, adapter: str | os.PathLike) -> None:
        api = self._api
        _log.clear()
        self._adapter = api.llama_adapter_lora_init(self._model, os.fsencode(adapter))
        if not self._adapter:
            raise EexpError(f"{adapter}: does not fit {self.spec.split('+')[0]}: {_last_words()}")
        adapters = (api.llama_adapter_lora_p_ctypes * 1)(self._adapter)
        if api.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(1.0)) != 0:
            raise EexpError(f"{adapter}: cannot be applied: {_last_words()}")

    # -- tokens --------------------------------------------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text in which special tokens are written out; nothing is added."""
        data = text.encode("utf-8")
        room = len(data) + 8
        ids = (self._api.llama_token * room)()
        n = self._api.llama_tokenize(self._vocab, data, len(data), ids, room, False, True)
        if n < 0:
            raise InputError("the prompt cannot be tokenized")
        return list(ids[:n])

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Token ids of a chat, ending where the assistant is to write."""
        bos, eos = (self._piece_of(get(self._vocab)) for get in (self._api.llama_vocab_bos, self._api.llama_vocab_eos))
        return self.tokenize(chat_template.render(self._template, messages, bos_token=bos, eos_token=eos))

    def _piece_of(self, token: int) -> str:
        return self._piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _piece(self, token: int, special: bool = False) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        n = self._api.llama_token_to_piece(self._vocab, token, buffer, 64, 0, special)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = self._api.llama_token_to_piece(self._vocab, token, buffer, -n, 0, special)
        return buffer.raw[:n]

    # -- decoding ------------------------------------------------------------------------------------------------

    def _decode(self, items: Sequence[tuple[int, int, int, bool]]) -> None:
        """Evaluate up to _CHUNK items (token, position, sequence, whether its logits are wanted)."""
        batch = self._batch
        batch.n_tokens = len(items)
        for i, (token, position, sequence, wanted) in enumerate(items):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = wanted
        status = self._api.llama_decode(self._context, batch)
        if status != 0:
            self._forget()
            raise EexpError(f"{self.spec}: llama_decode failed with status {status}: {_last_words()}")

    def _forget(self) -> None:
        self._api.llama_memory_clear(self._memory, True)
        self._cached = []

    def _logits(self, i: int) -> Any:
        import numpy as np

        pointer = self._api.llama_get_logits_ith(self._context, i)
        return np.ctypeslib.as_array(pointer, shape=(self._n_vocab,)).astype(np.float64)

    def _prefill(self, ids: list[int]) -> Any:
        """Bring sequence 0 to `ids` and return the logits after it, evaluating only what is new.

        Rounding differs with how tokens are put into batches (by 1e-3 in a logit), so the cache is kept to whole chunks
        alone: every prompt is then evaluated in the same batches whatever came before it, and a resumed or a parallel
        run draws the same. On average half a chunk is evaluated again.
        """
        keep = len(os.path.commonprefix([ids, self._cached]))
        keep = min(keep, len(ids) - 1)  # the last token always runs: its logits are what we came for
        keep -= keep % _CHUNK
        if keep < len(self._cached) and not self._api.llama_memory_seq_rm(self._memory, 0, keep, -1):
            self._forget()  # recurrent models cannot step back
            keep = 0
        self._cached = self._cached[:keep]
        for start in range(keep, len(ids), _CHUNK):
            part = ids[start : start + _CHUNK]
            last = start + len(part) == len(ids)
            self._decode([(t, start + i, 0, last and i == len(part) - 1) for i, t in enumerate(part)])
            self._cached += part
        return self._logits(len(part) - 1)

    def sample(self, prompts: Sequence[Messages], n: int, *, temperature: float, max_tokens: int,
               seeds: Sequence[int]) -> list[list[Sample]]:  # fmt: skip
        return [self._sample_one(p, n, temperature, max_tokens, s) for p, s in zip(prompts, seeds)]

    def _sample_one(self, prompt: Messages, n: int, temperature: float, max_tokens: int, seed: int) -> list[Sample]:
        ids = self.prompt_ids(prompt)
        if len(ids) + max_tokens > self._n_ctx:
            raise InputError(f"the prompt has {len(ids)} tokens and the answer may take {max_tokens}, but the context "
                             f"of {self.spec} holds {self._n_ctx}: give a larger --context or a smaller "
                             f"--max-tokens")  # fmt: skip
        logits = self._prefill(ids)
        if temperature == 0:
            n, copies = 1, n
        else:
            copies = 1
        wave = max(1, min(_PARALLEL, (self._n_ctx - len(ids)) // max_tokens))
        samples: list[Sample] = []
        for start in range(0, n, wave):
            draws = [_Draw(seed_of(seed, i), temperature) for i in range(start, min(n, start + wave))]
            samples += self._draw(draws, logits, len(ids), max_tokens)
        return samples * copies

    def _draw(self, draws: list[_Draw], logits: Any, position: int, max_tokens: int) -> list[Sample]:
        """Let all draws write to their end, in one batch a token."""
        api = self._api
        for sequence, draw in enumerate(draws, 1):
            api.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
            draw.sequence = sequence
            self._advance(draw, logits)
        for step in range(max_tokens - 1):
            live = [d for d in draws if not d.finished]
            if not live:
                break
            self._decode([(d.ids[-1], position + step, d.sequence, True) for d in live])
            rows = [self._logits(i) for i in range(len(live))]
            for draw, row in zip(live, rows):
                self._advance(draw, row)
        for draw in draws:
            api.llama_memory_seq_rm(self._memory, draw.sequence, -1, -1)
        return [Sample(b"".join(map(self._piece, d.ids)).decode("utf-8", "replace"), d.logprob, len(d.ids), d.finished)
                for d in draws]  # fmt: skip

    def _advance(self, draw: _Draw, logits: Any) -> None:
        token = draw.next(logits)
        if self._api.llama_vocab_is_eog(self._vocab, token):
            draw.finished = True
        else:
            draw.ids.append(token)

    def close(self) -> None:
        if self._context:
            self._api.llama_batch_free(self._batch) if hasattr(self, "_batch") else None
            self._api.llama_free(self._context)
            self._context = None
        if self._model:
            self._api.llama_model_free(self._model)  # frees its adapters too
            self._model = None

    def __del__(self) -> None:
        if not sys.is_finalizing():  # by then ctypes may be gone, and all memory is about to go
            self.close()


class _Draw:
    """One text being written: its tokens, its log-probability and its own random numbers."""

    def __init__(self, seed: int, temperature: float):
        import numpy as np

        self.random = np.random.Generator(np.random.PCG64(seed))
        self.temperature = temperature
        self.ids: list[int] = []
        self.logprob = 0.0
        self.finished = False
        self.sequence = -1

    def next(self, logits: Any) -> int:
        """Draw a token from `logits` (float64, one a vocabulary entry) and add its log-probability."""
        import numpy as np

        logits = logits - logits.max()
        norm = np.log(np.exp(logits).sum())
        if self.temperature == 0:
            token = int(logits.argmax())
        else:
            weights = np.cumsum(np.exp(logits / self.temperature))
            token = int(np.searchsorted(weights, self.random.random() * weights[-1], side="right"))
        self.logprob += float(logits[token] - norm)
        return token
