"""Chats and texts as tokens, in which only the chat template writes special tokens.

Instructions, observations, functions, thoughts and answers come from environments, people and models. Where one of them
holds the text of a special token (`<|end|>`), it must not become that token, which would end the turn and begin one.
`ChatTokenizer` is the one place in which a chat becomes tokens, for training and for playing in either backend.

Before a chat is rendered, one character of every such text is replaced by a character that occurs nowhere else, so that
the special tokens of the rendered chat are those that the template wrote. Mostly there is nothing to replace, and the
tokenizer gets the whole rendered chat; the special tokens that it finds are compared with those of the template.
Otherwise the text between special tokens is tokenised by itself, with its own characters, and as text.

transformers (5.20 and later) does something similar in `apply_chat_template(..., sanitize_control_tokens=True)`, for
its own tokenizers alone and for `<think>`, too, which models write into their answers.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from os.path import commonprefix
from typing import Any

from eexp.errors import InputError, UsageError, short
from eexp.prompts import Messages
from eexp.prompts.chat_template import template_refusals
from eexp.prompts.tool_calls import PROBE_PROMPT, PROBE_TOOLS, CallFormat, format_of, probe_message

#: Unicode's noncharacters, which no text has a use for.
_STAND_INS = [*map(chr, range(0xFDD0, 0xFDF0)), *(chr(plane << 16 | 0xFFFE) for plane in range(1, 17))]
#: The characters that a token with `takes_left` or `takes_right` removes.
_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


@dataclass(frozen=True)
class AddedToken:
    """A token that a tokenizer finds in a text first of all."""

    id: int
    text: str
    special: bool  # whether it is structure, which texts must not write
    takes_left: bool = False  # whether the blanks before it are dropped
    takes_right: bool = False  # whether the blanks after it are dropped
    whole_word: bool = False  # whether it is found only where no letter or digit adjoins it


class Tokenizer(ABC):
    """The tokenizer of a backend, and its chat template."""

    @abstractmethod
    def added_tokens(self) -> Collection[AddedToken]:
        """Return the tokens that are found in a text first of all."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text in which the texts of special tokens become these tokens; nothing is added."""

    @abstractmethod
    def encode_as_text(self, text: str, first: bool) -> list[int]:
        """Return the token ids of a text in which no special token is found.

        Args:
            first: Whether the text is at the beginning; otherwise it follows a special token.
        """

    @abstractmethod
    def render(self, messages: Messages, to_answer: bool, tools: Sequence[dict] = ()) -> str:
        """Return a chat as text, which ends where the assistant is to write if `to_answer`."""

    @property
    def name(self) -> str:
        """The model's name, for messages."""
        return "this model"


class ChatTokenizer:
    """Turns chats and texts into token ids, in which only the chat template writes special tokens."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    # -- chats and texts -----------------------------------------------------------------------------------------------

    def chat(self, messages: Messages, to_answer: bool = True, tools: Sequence[dict] = ()) -> list[int]:
        """Return the token ids of a chat, which end where the assistant is to write if `to_answer`.

        Raises:
            InputError: The chat template refuses the messages, or writes nothing.
            UsageError: There are functions, and the chat template does not show any.
        """
        if tools and self._why_no_tools:
            raise UsageError(self._why_no_tools)
        shield = _Shield(self._specials, messages, tools)
        return self._ids(self._render(shield.messages, to_answer, shield.tools), shield)

    def text(self, text: str) -> list[int]:
        """Return the token ids of a text that stands alone, such as an answer.

        Raises:
            InputError: It has no tokens.
        """
        shield = _Shield(self._specials, [{"content": text}])
        return self._ids(shield.messages[0]["content"], shield)

    def example(
        self, prompt: Messages, completion: Messages, stop: int | None, tools: Sequence[dict] = ()
    ) -> tuple[list[int], list[int]]:
        """Return the tokens of an example's prompt, the same as in play, and those of its completion.

        The completion ends with its last stop token; text that a template writes after it is no target of training.

        Args:
            stop: The stop token, which is added where the template writes none.
            tools: The functions that the prompt shows.

        Raises:
            InputError: The chat template refuses the messages, or does not keep the prompt as the beginning of the
                whole (templates that rewrite earlier turns do that), leaves a thought before a call out, or does not
                show the functions; or there is no stop token.
        """
        if tools and self._why_no_tools:  # of this example, while others have none
            raise InputError(self._why_no_tools, "$.tools")
        shield = _Shield(self._specials, prompt + completion, tools)
        shielded_prompt = shield.messages[: len(prompt)]
        try:
            before = self._render(shielded_prompt, True, shield.tools)
            whole = self._render(shield.messages, False, shield.tools)
        except InputError as e:
            raise e.at("$.prompt") from None
        if not whole.startswith(before):
            raise InputError(
                "the chat template does not keep the prompt as the beginning of prompt and completion; "
                "training and playing would see different words",
                "$.prompt",
            )
        answer = shield.messages[-1]
        if answer.get("tool_calls") and answer["content"].strip() not in whole[len(before) :]:
            raise InputError(
                f"the chat template of {self._tokenizer.name} leaves out the text before a call, so that no thought "
                f"could be learned; make examples without thoughts, or take another model",
                "$.completion",
            )
        prompt_ids, ids = self._ids(before, shield), self._ids(whole, shield)
        if ids[: len(prompt_ids)] == prompt_ids:
            return prompt_ids, _ended(ids[len(prompt_ids) :], stop)
        # A token straddles the border; play tokenises the prompt alone, so training does, too.
        return prompt_ids, _ended(self._ids(whole[len(before) :], shield), stop)

    def _render(self, messages: Messages, to_answer: bool, tools: Sequence[dict] = ()) -> str:
        with template_refusals():
            text = self._tokenizer.render(messages, to_answer, tools)
        if not text:
            raise InputError("the chat template writes nothing for these messages")
        return text

    # -- calls ---------------------------------------------------------------------------------------------------------

    @cached_property
    def call_format(self) -> CallFormat:
        """The form in which the chat template writes calls, and the model is to write them.

        Raises:
            UsageError: The chat template does not show functions, or its form of calls is not known here.
        """
        call_format = format_of(self._call_as_text)
        if call_format is None:
            raise UsageError(
                f"the chat template of {self._tokenizer.name} writes calls in a form that eexp cannot read: "
                f"{short(self._call_as_text)}; serve the model and give -m http://HOST:PORT/v1"
            )
        return call_format

    @cached_property
    def _why_no_tools(self) -> str | None:
        """Why no chat can have functions, in words; None where the chat template shows them."""
        try:
            self.call_format  # noqa: B018  # which is checked with it
        except UsageError as e:
            return str(e)
        return None

    @cached_property
    def call_tokens(self) -> frozenset[int]:
        """The special tokens that the chat template writes in a call; the end of the turn may be among them."""
        call = self._call_as_text
        return frozenset(token.id for _, _, token in self._finder.find(call) if token.special)

    @cached_property
    def _call_as_text(self) -> str:
        """A call as the chat template writes it."""
        try:
            without = self._render(PROBE_PROMPT, True)
            before = self._render(PROBE_PROMPT, True, PROBE_TOOLS)
            whole = self._render([*PROBE_PROMPT, probe_message()], False, PROBE_TOOLS)
        except InputError as e:
            raise UsageError(f"the chat template of {self._tokenizer.name} does not show tools: {e}") from None
        name = PROBE_TOOLS[0]["function"]["name"]
        start = len(commonprefix([before, whole]))
        if start < len(before):  # the prompt ends with more, such as <think>; a mark may have begun in the same line
            start = whole.rfind("\n", 0, start) + 1
        if before.count(name) == without.count(name) or name not in whole[start:]:
            raise UsageError(
                f"the chat template of {self._tokenizer.name} does not show tools: take a model that was trained to "
                f"call functions, or a prompt style whose actions are text"
            )
        return whole[start:]

    # -- tokens --------------------------------------------------------------------------------------------------------

    @cached_property
    def _added(self) -> dict[str, AddedToken]:
        """The added tokens by their texts.

        Some tokenizers do not mark the tokens as special that begin and end a turn. So added tokens that the chat
        template writes between messages are special, except pairs like <think> and </think>, which answers contain.
        """
        added = {token.text: token for token in self._tokenizer.added_tokens() if token.text}
        plain = {text: t for text, t in added.items() if not t.special and text.strip() and not _is_tag(text, added)}
        for roles in (("system", "user", "assistant", "user"), ("user", "assistant", "user")) if plain else ():
            try:
                frame = self._render([{"role": role, "content": "1"} for role in roles], False)
            except InputError:
                continue
            for _, _, token in _Finder(plain.values()).find(frame):
                added[token.text] = replace(token, special=True)
            break
        return added

    @cached_property
    def _specials(self) -> _Specials:
        return _Specials(text for text, token in self._added.items() if token.special)

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(token.id for token in self._added.values() if token.special)

    @cached_property
    def _finder(self) -> _Finder:
        return _Finder(self._added.values())

    def _ids(self, text: str, shield: _Shield) -> list[int]:
        """Return the token ids of a text in which the characters of a shield may stand."""
        own = shield.restore(text)
        try:
            own.encode()
        except UnicodeEncodeError:
            raise InputError("holds half of a surrogate pair, which has no tokens") from None
        matches = self._finder.find(text)
        specials = [(start, end, token.id) for start, end, token in matches if token.special]
        if own == text or specials == [(s, e, t.id) for s, e, t in self._finder.find(own) if t.special]:
            ids = self._tokenizer.encode(own)
            if [i for i in ids if i in self._special_ids] == [i for _, _, i in specials]:
                return ids
        return self._piecewise(text, matches, shield)

    def _piecewise(self, text: str, matches: list[tuple[int, int, AddedToken]], shield: _Shield) -> list[int]:
        """Return the ids of the added tokens that were found, and the token ids of each text between them."""
        ids: list[int] = []
        at, before = 0, None
        for start, end, token in [*matches, (len(text), len(text), None)]:
            piece = shield.restore(text[at:start])
            if before and before.takes_right:
                piece = piece.lstrip(_BLANKS)
            if token and token.takes_left:
                piece = piece.rstrip(_BLANKS)
            if piece:
                ids += self._as_text(piece, first=at == 0)
            if token:
                ids.append(token.id)
            at, before = end, token
        return ids

    def _as_text(self, text: str, first: bool) -> list[int]:
        """Return the token ids of a text in which nothing is a special token, even if it looks like one.

        The text of a special token is cut after its first character, since backends may differ in its tokens: words of
        SentencePiece do spell </s>, and llama.cpp does not treat <|start|> as a special token.
        """
        encode = self._tokenizer.encode_as_text
        cuts = [0, *(place + 1 for place in sorted(self._specials.inside(text))), len(text)]
        pieces = [text[start:end] for start, end in pairwise(cuts) if start < end]
        if len(pieces) == 1 or self._cuts_leave_no_trace:
            ids = [i for n, piece in enumerate(pieces) for i in encode(piece, first and n == 0)]
        else:
            ids = self._with_wedges(pieces, first)
        if not self._special_ids.isdisjoint(ids):
            special = next((t.text for t in self._added.values() if t.special and t.text in text), "a special token")
            raise InputError(f"holds {special!r}, which this tokenizer has no other tokens for")
        return ids

    @cached_property
    def _cuts_leave_no_trace(self) -> bool:
        """Whether texts can be tokenised one by one; some tokenizers put a blank before each of them."""
        encode, wedge = self._tokenizer.encode_as_text, _STAND_INS[0]
        return encode(wedge, False) * 2 == encode(wedge * 2, False)

    def _with_wedges(self, pieces: list[str], first: bool) -> list[int]:
        """Return the token ids of pieces of a text, kept apart by a character that is in no word."""
        encode = self._tokenizer.encode_as_text
        wedge = next(c for c in _STAND_INS if not any(c in piece for piece in pieces))
        wedge_ids = encode(wedge * 2, first)[len(encode(wedge, first)) :]
        ids, count = _without(wedge_ids, encode(wedge.join(pieces), first))
        if count != len(pieces) - 1:
            raise InputError("holds a special token's text, which this tokenizer cannot keep apart")
        return ids


def _is_tag(text: str, added: Collection[str]) -> bool:
    """Return whether a token is one of a pair such as <think> and </think>."""
    if not text.startswith("<"):
        return False
    return ("<" + text[2:] if text.startswith("</") else "</" + text[1:]) in added


def _without(part: list[int], ids: list[int]) -> tuple[list[int], int]:
    """Return ids without the occurrences of `part`, and the number of these."""
    rest: list[int] = []
    at = count = 0
    while at < len(ids):
        if part and ids[at : at + len(part)] == part:
            at, count = at + len(part), count + 1
        else:
            rest.append(ids[at])
            at += 1
    return rest, count


def _ended(ids: list[int], stop: int | None) -> list[int]:
    """Return tokens up to the last stop token, or all with a stop token added where there is none."""
    if stop is None:
        raise InputError("the tokenizer has no stop token, the policy could not learn to end", "$.completion")
    for i in range(len(ids) - 1, -1, -1):
        if ids[i] == stop:
            return ids[: i + 1]
    return [*ids, stop]


class _Finder:
    """Finds added tokens in a text: from left to right, the longest one at each place."""

    def __init__(self, tokens: Iterable[AddedToken]):
        self._tokens = {token.text: token for token in tokens}
        self._pattern = re.compile(_any_of(self._tokens) or r"(?!)", re.DOTALL)

    def find(self, text: str) -> list[tuple[int, int, AddedToken]]:
        """Return the tokens found, as (start, end, token)."""
        matches = [(m.start(), m.end(), self._tokens[m[0]]) for m in self._pattern.finditer(text)]
        return [
            (s, e, t)
            for s, e, t in matches
            if not (t.whole_word and (re.search(r"\w\Z", text[:s]) or re.match(r"\w", text[e:])))
        ]


def _any_of(words: Iterable[str]) -> str:
    """Return a regular expression that matches the longest of some words; a tree, since there may be thousands."""
    heads: dict[str, list[str]] = {}
    ends = False
    for word in words:
        if word:
            heads.setdefault(word[0], []).append(word)
        else:
            ends = True
    branches = []
    for same in heads.values():
        shared = os.path.commonprefix(same)
        branches.append(re.escape(shared) + (_any_of(word[len(shared) :] for word in same) if len(same) > 1 else ""))
    if not branches:
        return ""
    return "(?:" + "|".join(branches + [""] * ends) + ")"


class _Specials:
    """Finds the texts of special tokens in a text, and beginnings and ends that a template might complete to one."""

    def __init__(self, texts: Iterable[str]):
        texts = list(texts)
        self._pattern = re.compile(_any_of(texts) or r"(?!)", re.DOTALL)
        self._heads = {text[:n] for text in texts for n in range(1, len(text))}
        self._tails = {text[n:] for text in texts for n in range(1, len(text))}
        self._longest = max(map(len, texts), default=1) - 1

    def inside(self, text: str) -> set[int]:
        """Return the places where special tokens begin; they may overlap."""
        starts: set[int] = set()
        match = self._pattern.search(text)
        while match:
            starts.add(match.start())
            match = self._pattern.search(text, match.start() + 1)
        return starts

    def places(self, text: str) -> set[int]:
        """Return the places of characters without which none of these is in the text."""
        places = self.inside(text)
        bare = len(text) - len(text.lstrip())
        for start, end in {(0, len(text)), (bare, max(bare, len(text.rstrip())))}:
            for n in range(1, min(self._longest, end - start) + 1):
                if text[end - n : end] in self._heads:
                    places.add(end - n)
                if text[start : start + n] in self._tails:
                    places.add(start + n - 1)
        return places


def _texts_in(value: Any) -> Iterator[str]:
    """Yield all texts in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _texts_in([key, one])
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts_in(one)


class _Shield:
    """Messages in which characters of special tokens are replaced by stand-ins, which can be put back.

    Roles are not changed, since the schema of records lists all of them.
    """

    def __init__(self, specials: _Specials, messages: Messages, tools: Sequence[dict] = ()):
        self._specials = specials
        self._stand_ins: dict[str, str] = {}
        self._own: dict[int, str] = {}
        self._given = messages, tools
        self.messages: Messages = [
            {key: value if key == "role" else self._shielded(value) for key, value in message.items()}
            for message in messages
        ]
        self.tools: list[dict] = [self._shielded(tool) for tool in tools]

    def _shielded(self, value: Any) -> Any:
        """Return a value in which all texts are shielded, names of arguments included."""
        if isinstance(value, str):
            return self._replaced(value)
        if isinstance(value, dict):
            return {self._shielded(key): self._shielded(one) for key, one in value.items()}
        return [self._shielded(one) for one in value] if isinstance(value, list) else value

    def _replaced(self, text: str) -> str:
        places = self._specials.places(text)
        if not places:
            return text
        return "".join(self._stand_in(c) if i in places else c for i, c in enumerate(text))

    def _stand_in(self, own: str) -> str:
        if own not in self._stand_ins:
            used = self._stand_ins.values()
            texts = "".join(_texts_in(self._given))
            free = next((c for c in _STAND_INS if c not in used and c not in texts), None)
            if free is None:
                raise InputError("holds Unicode noncharacters and texts of special tokens, which cannot be kept apart")
            self._stand_ins[own] = free
            self._own[ord(free)] = own
        return self._stand_ins[own]

    def restore(self, text: str) -> str:
        """Return a text with the original characters in place of the stand-ins."""
        return text.translate(self._own) if self._own else text
