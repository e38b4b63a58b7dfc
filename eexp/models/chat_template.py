"""Chat templates outside transformers: the same Jinja dialect, for backends that only have the template's text."""

from __future__ import annotations

import json
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
