"""What OpenAI-compatible servers answer: the parts that are read, and by which settings they draw from the whole
distribution. Servers send more.
"""

from __future__ import annotations

import math
from typing import Any, Optional, Protocol, TypeVar

from msgspec import Struct

from eexp.errors import InputError
from eexp.models.backends.client import Unavailable
from eexp.models.base import Sample
from eexp.prompts import Message
from eexp.prompts.tool_calls import call_entry, call_message, json_object, text_of_message

T = TypeVar("T")


class _CalledFunction(Struct):
    name: str = ""
    arguments: Any = None  # JSON as a string; an object from some servers


class _ToolCall(Struct):
    function: _CalledFunction


class _Message(Struct):
    content: Optional[str] = None
    tool_calls: Optional[list[_ToolCall]] = None

    def as_message(self) -> Message:
        """Return it as the assistant's message; a call whose arguments are no JSON object makes it plain text."""
        functions = [call.function for call in self.tool_calls or ()]
        arguments = [json_object(function.arguments) for function in functions]
        if not functions or None in arguments:
            broken = [f"{function.name}({function.arguments})" for function in functions]
            return {"role": "assistant", "content": "\n\n".join([self.content or "", *broken]).strip()}
        message = call_message("", {}, content=(self.content or "").strip())
        calls = zip(functions, arguments)
        message["tool_calls"] = [call_entry(one.name, given or {}, n) for n, (one, given) in enumerate(calls)]
        return message


_ROUNDING = 0.01  # what the log-probability of a certain token may be above 0


class _TokenLogprob(Struct):
    token: str = ""
    logprob: Optional[float] = None


class _Logprobs(Struct):
    content: Optional[list[_TokenLogprob]] = None


class Choice(Struct):
    """A text of an answer."""

    message: _Message
    finish_reason: Optional[str] = None
    logprobs: Optional[_Logprobs] = None

    def sample(self, reported_tokens: int) -> Sample:
        """Return the choice as a sample; `reported_tokens` is its number of tokens if the server does not list them."""
        finished = self.finish_reason != "length"
        message = self.message.as_message()
        text = text_of_message(message) if self.message.tool_calls else self.message.content or ""
        tokens = (self.logprobs.content if self.logprobs else None) or []
        logprobs = [t.logprob for t in tokens if t.logprob is not None]
        complete = bool(logprobs) and len(logprobs) == len(tokens) and not self.has_wrong_logprobs()
        stop = bool(tokens) and finished and not (tokens[-1].token and text.endswith(tokens[-1].token))
        number = len(tokens) - stop if tokens else reported_tokens
        logprob = sum(logprobs) if complete else None
        return Sample(text, logprob, number, finished, message=message)

    def listed_tokens(self) -> list[tuple[str, float]]:
        """Return its tokens with their log-probabilities; an empty list where one of them has none that is usable."""
        tokens = (self.logprobs.content if self.logprobs else None) or []
        listed = [(t.token, t.logprob) for t in tokens if t.logprob is not None]
        return [] if len(listed) < len(tokens) or self.has_wrong_logprobs() else listed

    def has_wrong_logprobs(self) -> bool:
        """Return whether a log-probability is no logarithm of a probability: NaN, infinite, or above 0."""
        tokens = (self.logprobs.content if self.logprobs else None) or []
        return any(t.logprob is not None and not -math.inf < t.logprob < _ROUNDING for t in tokens)


class Usage(Struct):
    """What an answer cost."""

    prompt_tokens: Optional[int] = None
    completion_tokens: Optional[int] = None
    prompt_tokens_details: Any = None


class Completion(Struct):
    """The answer to a chat."""

    choices: list[Choice] = []
    usage: Optional[Usage] = None
    system_fingerprint: Any = None
    timings: Any = None  # of llama.cpp's server

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of the prompt; 0 where the server does not say."""
        return (self.usage and self.usage.prompt_tokens) or 0

    @property
    def cached_tokens(self) -> int | None:
        """Number of the prompt's tokens that the server took from its cache; None where it does not say."""
        if (cached := _whole(self.usage and self.usage.prompt_tokens_details, "cached_tokens")) is not None:
            return cached
        if (cached := _whole(self.timings, "cache_n")) is not None:
            return cached
        evaluated = _whole(self.timings, "prompt_n")
        return None if evaluated is None else max(0, self.prompt_tokens - evaluated)

    @property
    def written_tokens(self) -> int:
        """Number of tokens that were written."""
        written = self.usage and self.usage.completion_tokens
        return sum(sample.tokens for sample in self.samples()) if written is None else written

    def samples(self) -> list[Sample]:
        """Return its choices as samples."""
        written = (self.usage and self.usage.completion_tokens) or 0
        return [choice.sample(written if len(self.choices) == 1 else 0) for choice in self.choices]


def _whole(table: object, key: str) -> int | None:
    """Return a whole number of a table that a server sent, if both are what they should be."""
    value = table.get(key) if isinstance(table, dict) else None
    return value if type(value) is int and value >= 0 else None


class ListedModel(Struct):
    """What a server says of a model in its list."""

    id: str
    owned_by: Optional[str] = None  # vLLM, SGLang and llama.cpp's server give their own names
    root: Any = None  # the directory of the weights, from vLLM
    parent: Any = None  # the base of an adapter, from vLLM
    max_model_len: Any = None
    meta: Any = None  # from llama.cpp's server: the number of parameters and of tokens, and others


class ModelList(Struct):
    """The list of a server's models."""

    data: list[ListedModel] = []


class Ask(Protocol):
    """A function that sends a request to a server, as `Client.ask` does."""

    async def __call__(
        self, method: str, path: str, shape: type[T], body: dict | None = None, tries: int | None = None
    ) -> T:
        """Return the server's answer, converted to `shape`."""
        ...


#: Settings that turn off the truncation and the penalties that a server applies by default, by its `owned_by`. For
#: other servers they are determined by trial.
_PLAIN_SAMPLING: dict[str | None, dict[str, Any]] = {
    "vllm": {"top_k": -1, "min_p": 0, "repetition_penalty": 1},
    "sglang": {"top_k": -1, "min_p": 0, "repetition_penalty": 1},
    "llamacpp": {"top_k": 0, "min_p": 0, "repeat_penalty": 1},
}
_PROBE = {"messages": [{"role": "user", "content": "."}], "max_tokens": 1, "temperature": 1}


async def plain_sampling(ask: Ask, name: str, listed: ListedModel | None) -> dict[str, Any] | None:
    """Return the settings by which a server draws from the whole distribution, or None if it does not know them.

    They follow from the list of models, or else from two requests of one token: a server that knows top_k refuses a
    nonsensical value of it, and one that does not know it ignores the value.

    Args:
        ask: Sends a request to the server.
        name: The name of the model.
        listed: What the server says of the model in its list.

    Raises:
        ServerFailed: The server cannot be used.
    """
    if plain := _PLAIN_SAMPLING.get(listed and listed.owned_by):
        return plain
    plain = {"top_k": 0, "min_p": 0}
    if not await _takes(ask, name, plain):
        return None
    try:
        ignores = await _takes(ask, name, {"top_k": "none", "min_p": "none"})
    except Unavailable as e:
        if e.status != 500:  # by which llama-cpp-python's server refuses a value of a wrong type
            raise
        ignores = False
    return None if ignores else plain


async def _takes(ask: Ask, name: str, sampling: dict[str, Any]) -> bool:
    """Return whether the server accepts settings in a request of one token."""
    body = {"model": name, **_PROBE, "top_p": 1, **sampling}
    try:
        await ask("POST", "/chat/completions", Completion, body, tries=1)
    except InputError:
        return False
    return True
