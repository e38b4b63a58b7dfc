"""Chat templates: the Jinja dialect of transformers, outside of transformers.

A chat template turns chat messages into the text that a model reads. This module renders one from its source, for
models that come without transformers, such as GGUF files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from eexp.errors import EexpError, InputError

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.parser import Parser

    from eexp.prompts.style import Messages


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Skips `{% generation %}`, which marks the assistant's words for training masks."""

        tags = {"generation"}

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise InputError(f"the chat template refuses these messages: {message}")

    def as_json(
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    env.filters["tojson"] = as_json
    env.globals.update(raise_exception=refuse, strftime_now=lambda form: datetime.now().strftime(form))
    try:
        return env.from_string(template)
    except Exception as e:  # beside syntax errors, one that is nested too deeply for Python, say
        raise EexpError(f"the chat template cannot be read: {e}") from None


def render_chat(
    template: str,
    messages: Messages,
    special_tokens: Mapping[str, str],
    to_answer: bool = True,
    tools: Sequence[dict] = (),
) -> str:
    """Render a chat as text.

    Args:
        special_tokens: Texts of the tokens that templates refer to by name, such as `bos_token` and `eos_token`.
        to_answer: End where the assistant is to write.
        tools: The functions that the assistant may call; as in transformers, templates get None where there are none.

    Raises:
        InputError: The chat template refuses the messages.
        EexpError: It is no template.
    """
    compiled = _compiled(template)
    with template_refusals():
        return compiled.render(
            messages=messages, tools=list(tools) or None, add_generation_prompt=to_answer, **special_tokens
        )


@contextmanager
def template_refusals() -> Iterator[None]:
    """Turn any failure of a chat template into an InputError of one line."""
    try:
        yield
    except EexpError:
        raise
    except Exception as e:  # a template may divide by zero
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise InputError(f"the chat template refuses these messages: {reason}") from None
