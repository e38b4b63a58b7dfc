"""Put a page together: styles and scripts within it, data as JSON, and a policy that forbids everything else."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

import orjson
from markupsafe import Markup


def style(room: str) -> Markup:
    """Return the common style, and that of a room's page.css."""
    return Markup(_read("eexp.pages", "base.css") + _read(room, "page.css"))


def script(room: str) -> Markup:
    """Return the common script, and that of a room's page.js."""
    return Markup(_read("eexp.pages", "base.js") + _read(room, "page.js"))


def template(room: str) -> str:
    """Return the template of a room's page."""
    return _read(room, "page.html")


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
