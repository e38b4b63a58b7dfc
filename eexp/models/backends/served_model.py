"""Whether servers serve the same model: what each says of it, and how it answers a fixed request.

A server does not show its weights. What shows another model, tokenizer, chat template, adapter, engine or version is
its list of models, the number of tokens of a fixed prompt, and the log-probabilities of a short greedy answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from eexp.errors import EexpError, InputError, ServerFailed, short
from eexp.models.backends.chat_answers import Completion, ListedModel, ModelList, plain_sampling
from eexp.models.backends.client import Client, Unavailable

#: How far the log-probability of a token may differ between servers of one model. Kernels and batches of other sizes
#: move it by about 0.01 in bfloat16; another model by more than this within a few tokens.
TOLERANCE = 0.25
#: Words, digits, blanks and other scripts, which tokenizers split differently.
_TEXT = "Repeat: the 1,024 kettles  of Zürich\n\tcost 3.50 €, naïve_case=True; 東京は雨, да?"
_TOKENS = 16  # of the answer


@dataclass(frozen=True)
class ServedModel:
    """What tells the model of one server from that of another.

    Attributes:
        name: Its name.
        facts: What has to be equal, by what messages call it.
        plain: The settings by which it draws from the whole distribution; None where the server does not know them.
        text: A greedy answer.
        tokens: Its tokens and their log-probabilities; empty where the server gives none.
    """

    name: str
    facts: dict[str, Any]
    plain: dict[str, Any] | None
    text: str
    tokens: tuple[tuple[str, float], ...]

    @property
    def has_logprobs(self) -> bool:
        """Whether the server gives log-probabilities."""
        return bool(self.tokens)

    def difference(self, other: ServedModel) -> str | None:
        """Return in words how another one differs, as "WHAT: THIS and OTHER"; None if the two may be the same."""
        for what, own in self.facts.items():
            if own != (others := other.facts[what]):
                return f"{what}: {short(own)} and {short(others)}"
        if not self.has_logprobs:
            same = self.text == other.text
            return None if same else f"the answer to a fixed request: {short(self.text)} and {short(other.text)}"
        for (token, logprob), (others_token, others_logprob) in zip(self.tokens, other.tokens):
            if abs(logprob - others_logprob) > TOLERANCE:
                return (
                    f"a token of the answer to a fixed request: {short(token)} with log-probability {logprob:.2f} and "
                    f"{short(others_token)} with {others_logprob:.2f}"
                )
            if token != others_token:  # as probable as each other; what follows cannot be compared
                break
        return None


async def examine(client: Client, name: str, tries: int | None = None) -> ServedModel:
    """Return what a server says of a model and answers to a fixed request.

    Args:
        client: The server.
        name: The model; "" for the first that it lists.
        tries: As in `Client.ask`.

    Raises:
        ServerFailed: The server cannot be used.
    """
    listed = await _listed(client, name, tries)
    if not (name := name or (listed.id if listed else "")):
        raise ServerFailed(f"{client.name}: serves no model; name it")
    try:
        plain = await plain_sampling(client.ask, name, listed)
        completion = await _answer(client, name, tries)
    except InputError as e:
        raise ServerFailed(str(e)) from None
    if not completion.choices:
        raise ServerFailed(f"{client.name}: an answer without choices")
    choice = completion.choices[0]
    tokens = tuple(choice.listed_tokens())
    facts = {
        "the owner of the model": listed and listed.owned_by,
        "the directory of the model": PurePath(listed.root).name if listed and isinstance(listed.root, str) else None,
        "the base of the model": listed and listed.parent,
        "the longest context": listed and listed.max_model_len,
        "the model's metadata": listed and listed.meta,
        "the server's version": completion.system_fingerprint,
        "settings of the draws": plain,
        "tokens of a fixed prompt": completion.prompt_tokens,
        "log-probabilities": "given" if tokens else "not given",
    }
    return ServedModel(name, facts, plain, choice.message.content or "", tokens)


async def _listed(client: Client, name: str, tries: int | None) -> ListedModel | None:
    """Return what the server's list says of a model, or None if it has no such list."""
    try:
        models = (await client.ask("GET", "/models", ModelList, tries=tries)).data
    except Unavailable:
        raise
    except ServerFailed:
        if not name:
            raise
        return None
    if not name and models:
        return models[0]
    return next((model for model in models if model.id == name), None)


async def _answer(client: Client, name: str, tries: int | None) -> Completion:
    """Return the greedy answer to a fixed request, with log-probabilities where the server gives them."""
    body = {
        "model": name,
        "messages": [{"role": "user", "content": _TEXT}],
        "temperature": 0,
        "top_p": 1,
        "max_tokens": _TOKENS,
        "seed": 0,
    }
    try:
        return await client.ask("POST", "/chat/completions", Completion, {**body, "logprobs": True}, tries)
    except EexpError as e:
        if "logprob" not in str(e):
            raise
    return await client.ask("POST", "/chat/completions", Completion, body, tries)
