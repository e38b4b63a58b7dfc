"""Put a page together: styles and scripts within it, data as JSON, and a policy that forbids everything else.

base.html has what all pages have: the head, the bar with its buttons, the keys, and the data.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import orjson
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from eexp import __version__


def render(
    room: str,
    title: str,
    data: Mapping[str, Any],
    *,
    loads: str = "",
    filters: Mapping[str, Callable] | None = None,
    functions: Mapping[str, Callable] | None = None,
    **values: Any,
) -> str:
    """Return a room's page: its page.html, which extends base.html, with the common style and script and its own.

    Args:
        data: What the script reads, by the id of its element.
        loads: Directives of what the page may load, such as "connect-src 'self'".
        filters, functions: Those of the template.
        values: The template's variables.
    """
    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(lambda name: _read("eexp.pages" if name == "base.html" else room, name)),
    )
    environment.filters |= filters or {}
    environment.globals |= functions or {}
    style, script = (_read("eexp.pages", f"base.{kind}") + _read(room, f"page.{kind}") for kind in ("css", "js"))
    return environment.get_template("page.html").render(
        title=title,
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        policy=policy(script, loads),
        data={name: embedded(contents) for name, contents in data.items()},
        **values,
    )


def _read(room: str, name: str) -> str:
    return files(room).joinpath(name).read_text(encoding="utf-8")


def embedded(data: Any) -> Markup:
    """Return JSON that can stand in a <script>: no text in it can end the element or begin a comment."""
    text = orjson.dumps(data).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def policy(script: str, more: str = "") -> str:
    """Return a Content-Security-Policy: nothing is loaded from anywhere, and no script runs but the page's own.

    Args:
        script: The page's script.
        more: Directives of what this page may load, such as "connect-src 'self'".
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sources = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f"{sources}; {more}{'; ' if more else ''}base-uri 'none'; form-action 'none'"
