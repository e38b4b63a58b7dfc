"""Models in this process: what llama.cpp and transformers have in common, which is all but the tokens and the memory.

A backend brings a tokenizer, its chat template and a decoder (tree.py). Prompts, stop tokens, what fits into the
context and how a group is answered are then the same, so two backends of the same weights give the same answers.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from eexp.errors import InputError
from eexp.models.base import Draw, Model, Request, Samples
from eexp.models.chat_tokens import ChatTokenizer, Tokenizer
from eexp.models.tree import Decoder, PrefixTree
from eexp.prompts import Messages

DEFAULT_CONTEXT = 8192
OUTPUT_BYTES = 128 << 20  # of logits that one batch may ask for


def outputs(batch: int, n_vocab: int) -> int:
    """How many items of a batch may have their logits asked for."""
    return max(16, min(batch, OUTPUT_BYTES // (4 * n_vocab)))


class LocalModel(Model):
    """A language model in this process, which is a drawing.Vocabulary, too."""

    #: Tokens that a prompt and its answer may take together.
    _n_ctx: int

    def __init__(self) -> None:
        super().__init__()
        self._tree: PrefixTree | None = None

    @abstractmethod
    def _decoder(self) -> Decoder:
        """The memory for all answers; made when the first is asked for."""

    # -- tokens --------------------------------------------------------------------------------------------------

    @abstractmethod
    def _open_tokenizer(self) -> Tokenizer:
        """The backend's tokenizer and chat template; asked for once."""

    @cached_property
    def _chats(self) -> ChatTokenizer:
        return ChatTokenizer(self._open_tokenizer())

    @abstractmethod
    def is_end(self, token: int) -> bool:
        """Whether the token ends a text."""

    @abstractmethod
    def text(self, ids: Sequence[int]) -> str:
        """What tokens spell, special ones left out."""

    @abstractmethod
    def _usual_end(self) -> int:
        """The token that ends a text where the chat template writes none."""

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Token ids of a chat, ending where the assistant is to write."""
        return self._chats.chat(messages)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text that stands alone; special tokens are not among them."""
        return self._chats.text(text)

    def completion(self, text: str) -> list[int]:
        """Token ids of an answer and of the stop token that the chat template writes after it."""
        return [*self.tokenize(text), self._stop]

    def encode(self, prompt: Messages, completion: Messages) -> list[int]:
        return self._chats.example(prompt, completion, self._eos())[1]

    def spell(self, ids: Sequence[int]) -> str:
        return self.text(ids)

    @abstractmethod
    def _eos(self) -> int | None:
        """The stop token that the tokenizer names, which ends the targets in training."""

    @cached_property
    def _stop(self) -> int:
        """The token that ends the assistant's turn: the first ending one that the template writes after an answer."""
        asked: Messages = [{"role": "user", "content": "?"}]
        whole = self._chats.chat([*asked, {"role": "assistant", "content": "!"}], to_answer=False)
        after = len(os.path.commonprefix([whole, self.prompt_ids(asked)]))
        found = next((token for token in whole[after:] if self.is_end(token)), None)
        return self._usual_end() if found is None else found

    # -- answering -----------------------------------------------------------------------------------------------

    def answer(self, groups: Iterable[Sequence[Request]]) -> Iterator[list[Samples]]:
        for group in groups:
            yield self._answer(group)

    def _answer(self, group: Sequence[Request]) -> list[Samples]:
        answers: list[Samples] = []
        fit: list[tuple[int, list[int], Request]] = []
        for i, request in enumerate(group):
            try:
                fit.append((i, self._fitting(request), request))
                answers.append([])
            except InputError as e:
                answers.append(e)
        if self._tree is None:
            self._tree = PrefixTree(self._decoder(), self, self.counts)
        for (i, *_), answer in zip(fit, self._tree.answer([(ids, request) for _, ids, request in fit])):
            answers[i] = answer
        return answers

    def _fitting(self, request: Request) -> list[int]:
        """The prompt's tokens; raises InputError where there is no room for them and an answer."""
        ids = self.prompt_ids(request.prompt)
        ids += self.tokenize(request.prefix) if request.prefix else []
        if isinstance(request, Draw):
            longest, remedy = request.max_tokens, " or a smaller --max-tokens"
        else:
            longest, remedy = max(map(len, request.ids or map(self.completion, request.completions)), default=0), ""
        if len(ids) + longest > self._n_ctx:
            raise InputError(
                f"the prompt has {len(ids)} tokens and the answer {'may take' if remedy else 'has'} "
                f"{longest}, but the context of {self.spec} holds {self._n_ctx}: give a larger "
                f"--context{remedy}"
            )
        return ids

    def close(self) -> None:
        if self._tree is not None:
            self._tree.decoder.close()
        self._tree = None
