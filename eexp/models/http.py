"""Any OpenAI-compatible chat server (vLLM, SGLang, llama-server, llama-cpp-python): the way off one machine.

The key comes from EEXP_API_KEY or OPENAI_API_KEY and goes into the request's header and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from eexp.errors import EexpError, InputError
from eexp.models.base import Model, Sample
from eexp.prompts import Messages

TIMEOUT_S = 300.0


class HttpModel(Model):
    """`http://host:port/v1#name`; without a name the server's first model is taken."""

    def __init__(self, spec: str):
        import httpx

        self.spec = spec
        self._url, _, self._name = spec.partition("#")
        self._url = self._url.rstrip("/")
        key = os.environ.get("EEXP_API_KEY") or os.environ.get("OPENAI_API_KEY")
        self._client = httpx.Client(headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=TIMEOUT_S)
        if not self._name:
            self._name = self._first_model()
        self.fingerprint = f"{httpx.URL(self._url).copy_with(userinfo=b'')}#{self._name}"

    def _first_model(self) -> str:
        models = self._ask("GET", "/models").get("data") or []
        if not models:
            raise EexpError(f"{self._url}: serves no model; name one after a #")
        return models[0]["id"]

    def _ask(self, method: str, path: str, body: dict | None = None) -> Any:
        import httpx

        try:
            answer = self._client.request(method, self._url + path, json=body)
        except httpx.HTTPError as e:
            raise EexpError(f"{self._url}: {type(e).__name__}: {e}") from None
        if answer.status_code == 400:  # what this prompt asks for cannot be done, a context that is too small say
            raise InputError(f"{self._url} refuses the request: {_reason(answer)}")
        if answer.status_code >= 300:
            raise EexpError(f"{self._url}{path}: HTTP {answer.status_code}: {_reason(answer)}")
        try:
            return answer.json()
        except ValueError:
            raise EexpError(f"{self._url}{path}: the answer is not JSON") from None

    def sample(self, prompts: Sequence[Messages], n: int, *, temperature: float, max_tokens: int,
               seeds: Sequence[int]) -> list[list[Sample]]:  # fmt: skip
        return [self._sample_one(p, n, temperature, max_tokens, s) for p, s in zip(prompts, seeds)]

    def _sample_one(self, prompt: Messages, n: int, temperature: float, max_tokens: int, seed: int) -> list[Sample]:
        samples: list[Sample] = []
        while len(samples) < n:  # some servers answer one choice, whatever n says
            body = {"model": self._name, "messages": prompt, "n": n - len(samples), "temperature": temperature,
                    "max_tokens": max_tokens, "seed": (seed + len(samples)) % 2**31}  # fmt: skip
            choices = self._ask("POST", "/chat/completions", body).get("choices")
            if not choices:
                raise EexpError(f"{self._url}: an answer without choices")
            samples += [_as_sample(choice) for choice in choices]
        return samples[:n]

    def close(self) -> None:
        self._client.close()


def _reason(answer: Any) -> str:
    try:
        said = answer.json()
        error = said.get("error") or said.get("detail") or said
        text = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        text = answer.text
    return " ".join(str(text).split())[:300]


def _as_sample(choice: dict) -> Sample:
    logprobs = (choice.get("logprobs") or {}).get("content")
    return Sample(
        text=(choice.get("message") or {}).get("content") or "",
        logprob=sum(t["logprob"] for t in logprobs) if logprobs else None,
        tokens=len(logprobs) if logprobs else 0,
        finished=choice.get("finish_reason") != "length",
    )
