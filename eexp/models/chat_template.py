"""Chats as text, and examples as tokens: the same for training and for every backend.

`render` is for backends that only have the template's text: the Jinja dialect of transformers, outside of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

from eexp.errors import EexpError, InputError
from eexp.prompts import Messages


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the assistant wrote, for training masks; here it is passed over."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise InputError(f"the chat template refuses these messages: {message}")

    def as_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    env.filters["tojson"] = as_json
    env.globals.update(raise_exception=refuse, strftime_now=lambda form: datetime.now().strftime(form))
    try:
        return env.from_string(template)
    except TemplateError as e:
        raise EexpError(f"the chat template cannot be read: {e}") from None


def render(template: str, messages: Messages, *, bos_token: str, eos_token: str, to_answer: bool = True) -> str:
    """A chat as text; `to_answer`: ending where the assistant is to write."""
    from jinja2 import TemplateError

    try:
        return _compiled(template).render(messages=messages, add_generation_prompt=to_answer, bos_token=bos_token,
                                          eos_token=eos_token)  # fmt: skip
    except TemplateError as e:
        raise InputError(f"the chat template refuses these messages: {e}") from None


def encode(
    prompt: Messages,
    completion: Messages,
    render: Callable[[Messages, bool], str],
    tokenize: Callable[[str], list[int]],
    stop: int | None,
) -> tuple[list[int], list[int]]:
    """Tokenise an example as the tokens of its prompt, as play has them, and those of its completion.

    The completion ends with its last stop token; what a template writes after it is not for the policy to learn.

    Args:
        render: a chat as text; with True, ending where the assistant is to write.
        tokenize: a text in which special tokens are written out, as token ids; nothing is added.
        stop: the stop token, which is added where the template writes none.

    Raises:
        InputError: the chat template refuses the messages, or does not keep the prompt as the beginning of the whole
            (templates that rewrite earlier turns do that); or there is no stop token.
    """
    try:
        before, whole = render(prompt, True), render(prompt + completion, False)
    except InputError as e:
        raise e.at("$.prompt") from None
    except Exception as e:  # Jinja's errors have no common base that transformers keeps
        raise InputError(f"the chat template refuses it: {str(e).splitlines()[0]}", "$.prompt") from None
    if not whole.startswith(before):
        raise InputError("the chat template does not keep the prompt as the beginning of prompt and completion; "
                         "training and playing would see different words", "$.prompt")  # fmt: skip
    prompt_ids, ids = tokenize(before), tokenize(whole)
    if ids[: len(prompt_ids)] != prompt_ids:  # a token straddles the border; play tokenises the prompt alone, so do we
        return prompt_ids, _ended(tokenize(whole[len(before) :]), stop)
    return prompt_ids, _ended(ids[len(prompt_ids) :], stop)


def _ended(ids: list[int], stop: int | None) -> list[int]:
    """Return tokens up to the last stop token; with one at the end where there is none."""
    if stop is None:
        raise InputError("the tokenizer has no stop token, the policy could not learn to end", "$.completion")
    for i in range(len(ids) - 1, -1, -1):
        if ids[i] == stop:
            return ids[: i + 1]
    return [*ids, stop]
