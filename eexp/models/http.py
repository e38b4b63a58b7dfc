"""Any OpenAI-compatible chat server (vLLM, SGLang, llama-server, llama-cpp-python): the way off one machine.

The key comes from EEXP_API_KEY or OPENAI_API_KEY and goes into the request's header and nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, Optional

import msgspec
from msgspec import Struct

from eexp.errors import EexpError, InputError, UsageError
from eexp.models.base import Model, Sample
from eexp.prompts import Messages
from eexp.records import explain

TIMEOUT_S = 300.0


# What we read of an answer; the rest of it is the server's own affair.
class _Said(Struct):
    content: Optional[str] = None


class _Token(Struct):
    logprob: float


class _Logprobs(Struct):
    content: Optional[list[_Token]] = None


class _Choice(Struct):
    message: _Said
    finish_reason: Optional[str] = None
    logprobs: Optional[_Logprobs] = None

    def sample(self) -> Sample:
        tokens = (self.logprobs.content if self.logprobs else None) or []
        return Sample(self.message.content or "", sum(t.logprob for t in tokens) if tokens else None, len(tokens),
                      self.finish_reason != "length")  # fmt: skip


class _Completion(Struct):
    choices: list[_Choice] = []


class _Named(Struct):
    id: str


class _Models(Struct):
    data: list[_Named] = []


def _key() -> str:
    key = (os.environ.get("EEXP_API_KEY") or os.environ.get("OPENAI_API_KEY") or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError("EEXP_API_KEY or OPENAI_API_KEY holds a character that no HTTP header may have")
    return key


class HttpModel(Model):
    """`http://host:port/v1#name`; without a name the server's first model is taken."""

    def __init__(self, spec: str):
        import httpx

        self._url, _, self._name = spec.partition("#")
        self._url = self._url.rstrip("/")
        self._shown = re.sub(r"//[^/]*@", "//", self._url)  # without a password
        self.spec = f"{self._shown}#{self._name}"
        key = _key()
        try:
            httpx.URL(self._url)
        except httpx.InvalidURL as e:
            raise UsageError(f"{self._shown}: {e}") from None
        self._client = httpx.Client(headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=TIMEOUT_S)
        if not self._name:
            self._name = self._first_model()
        self.fingerprint = f"{self._shown}#{self._name}"

    def _first_model(self) -> str:
        models = self._ask("GET", "/models", _Models).data
        if not models:
            raise EexpError(f"{self._shown}: serves no model; name one after a #")
        return models[0].id

    def _ask(self, method: str, path: str, shape: type, body: dict | None = None) -> Any:
        import httpx

        try:
            answer = self._client.request(method, self._url + path, json=body)
        except httpx.HTTPError as e:
            raise EexpError(f"{self._shown}: {type(e).__name__}: {e}") from None
        if answer.status_code == 400:  # what this prompt asks for cannot be done, a context that is too small say
            raise InputError(f"{self._shown} refuses the request: {_reason(answer)}")
        if answer.status_code >= 300:
            raise EexpError(f"{self._shown}{path}: HTTP {answer.status_code}: {_reason(answer)}")
        try:
            return msgspec.convert(answer.json(), shape)
        except msgspec.ValidationError as e:
            raise EexpError(f"{self._shown}{path}: answered: {explain(str(e))}") from None
        except ValueError:
            raise EexpError(f"{self._shown}{path}: the answer is not JSON") from None

    def sample(self, prompts: Sequence[Messages], n: int, *, temperature: float, max_tokens: int,
               seeds: Sequence[int]) -> list[list[Sample]]:  # fmt: skip
        return [self._sample_one(p, n, temperature, max_tokens, s) for p, s in zip(prompts, seeds)]

    def _sample_one(self, prompt: Messages, n: int, temperature: float, max_tokens: int, seed: int) -> list[Sample]:
        samples: list[Sample] = []
        while len(samples) < n:  # some servers answer one choice, whatever n says
            body = {"model": self._name, "messages": prompt, "n": n - len(samples), "temperature": temperature,
                    "max_tokens": max_tokens, "seed": (seed + len(samples)) % 2**31}  # fmt: skip
            choices = self._ask("POST", "/chat/completions", _Completion, body).choices
            if not choices:
                raise EexpError(f"{self._shown}: an answer without choices")
            samples += [choice.sample() for choice in choices]
        return samples[:n]

    def close(self) -> None:
        self._client.close()


def _reason(answer: Any) -> str:
    try:
        said = answer.json()
    except ValueError:
        said = answer.text
    for key in ("error", "detail", "message"):
        if isinstance(said, dict) and said.get(key):
            said = said[key]
    return " ".join(str(said).split())[:300]
