"""Models in this process: what llama.cpp and transformers share, which is all but tokens and memory.

A backend brings a tokenizer, its chat template and a decoder (decoder.py). Prompts, stop tokens, the check of the
context and the way in which a group is answered are the same, so two backends with the same weights give the same
answers.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from eexp.errors import InputError, PromptTooLong
from eexp.models.base import Draw, Model, Request, Sample, Samples, Score
from eexp.models.chat_tokens import ChatTokenizer, Tokenizer
from eexp.models.engine.decoder import Decoder
from eexp.models.engine.groups import answer_group
from eexp.prompts import Message, Messages

DEFAULT_CONTEXT = 8192


class LocalModel(Model):
    """A language model in this process, which is also a nodes.Vocabulary."""

    _n_ctx: int  # tokens that a prompt and its answer may take together

    def __init__(self) -> None:
        super().__init__()
        self._memory: Decoder | None = None  # opened for the first request
        #: Special tokens that `text` keeps: those of calls, once a request has shown functions.
        self._kept_tokens: frozenset[int] = frozenset()

    @abstractmethod
    def _decoder(self) -> Decoder:
        """Return the memory for all answers; called for the first request."""

    # -- tokens --------------------------------------------------------------------------------------------------

    @abstractmethod
    def _open_tokenizer(self) -> Tokenizer:
        """Return the backend's tokenizer and chat template; called once."""

    @cached_property
    def _chat_tokenizer(self) -> ChatTokenizer:
        return ChatTokenizer(self._open_tokenizer())

    @abstractmethod
    def is_end(self, token: int) -> bool:
        """Return whether the token ends a text."""

    @abstractmethod
    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones but for `_kept_tokens`."""

    @abstractmethod
    def _usual_end(self) -> int:
        """Return the token that ends a text where the chat template writes none."""

    def prompt_ids(self, messages: Messages, tools: Sequence[dict] = ()) -> list[int]:
        """Return the token ids of a chat, which end where the assistant is to write."""
        return self._chat_tokenizer.chat(messages, tools=tools)

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text that stands alone; special tokens are not among them."""
        return self._chat_tokenizer.text(text)

    def completion(self, text: str) -> list[int]:
        """Return the token ids of an answer and the stop token that the chat template writes after it."""
        return [*self.tokenize(text), self._stop]

    def encode(self, prompt: Messages, completion: Messages, tools: Sequence[dict] = ()) -> list[int]:
        return self._chat_tokenizer.example(prompt, completion, self._eos(), tools)[1]

    def message(self, sample: Sample, tools: Sequence[dict]) -> Message:
        return self._chat_tokenizer.call_format.read(sample.text, tools)

    def spell(self, ids: Sequence[int]) -> str:
        return self.text(ids)

    @abstractmethod
    def _eos(self) -> int | None:
        """Return the stop token that the tokenizer names, which ends the targets in training; None without one."""

    @cached_property
    def _stop(self) -> int:
        """The token that ends the assistant's turn: the first end token that the template writes after an answer."""
        prompt: Messages = [{"role": "user", "content": "?"}]
        whole = self._chat_tokenizer.chat([*prompt, {"role": "assistant", "content": "!"}], to_answer=False)
        after = len(os.path.commonprefix([whole, self.prompt_ids(prompt)]))
        stop = next((token for token in whole[after:] if self.is_end(token)), None)
        return self._usual_end() if stop is None else stop

    # -- answering -----------------------------------------------------------------------------------------------

    def answer(self, groups: Iterable[Sequence[Request]]) -> Iterator[list[Samples]]:
        for group in groups:
            yield self._answer(group)

    def _answer(self, group: Sequence[Request]) -> list[Samples]:
        answers: list[Samples] = []
        fitting: list[tuple[int, list[int], Draw | Score]] = []
        for i, request in enumerate(group):
            try:
                fitting.append((i, self._fitting(request), request))
                answers.append([])
            except InputError as e:
                answers.append(e)
        if self._memory is None:
            self._memory = self._decoder()
        requests = [(ids, request) for _, ids, request in fitting]
        for (i, *_), answer in zip(fitting, answer_group(requests, self._memory, self, self.counts)):
            answers[i] = answer
        return answers

    def _fitting(self, request: Request) -> list[int]:
        """Return the tokens of a prompt. Raises PromptTooLong if they and the answer do not fit into the context."""
        ids = self.prompt_ids(request.prompt, request.tools)
        if request.tools and not self._kept_tokens:
            self._kept_tokens = frozenset(t for t in self._chat_tokenizer.call_tokens if not self.is_end(t))
        ids += self.tokenize(request.prefix) if request.prefix else []
        if isinstance(request, Draw):
            longest, remedy = request.max_tokens, " or a smaller --max-tokens"
        else:
            longest, remedy = max(map(len, request.ids or map(self.completion, request.completions)), default=0), ""
        if len(ids) + longest > self._n_ctx:
            raise PromptTooLong(
                f"the prompt has {len(ids)} tokens and the answer {'may take' if remedy else 'has'} "
                f"{longest}, but the context of {self.spec} holds {self._n_ctx}: give a larger "
                f"--context{remedy}"
            )
        return ids

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
        self._memory = None
