"""Logins in the URLs of environments, `http://USER:PASSWORD@HOST`: sent to the server, and written nowhere.

As soon as a spec is read, its logins are taken out, so that ids, lineage, messages and records never have them. They
are kept in the memory of this process and of its workers (eexp/workers/supervisor.py), by the URL's scheme and host.
"""

from __future__ import annotations

import base64
import os
import re
from urllib.parse import unquote

_URL = re.compile(r"(?P<scheme>\w+://)(?:(?P<login>[^\s/?#]*)@)?(?P<host>[^\s/?#@]*)")
_logins: dict[str, str] = {}  # scheme and host -> the login that was withheld

#: How variables begin that hold the keys of model servers and of the model hub. A program that is an environment does
#: not get them.
KEYS = ("EEXP_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def without_logins(spec: str) -> str:
    """Return a spec without the logins in its URLs."""
    return _URL.sub(lambda url: url["scheme"] + url["host"], spec)


def withhold_logins(spec: str) -> str:
    """Return a spec without the logins in its URLs, and keep them in this process."""
    for url in _URL.finditer(spec):
        if url["login"]:
            _logins[url["scheme"] + url["host"]] = url["login"]
    return without_logins(spec)


def withheld_logins() -> dict[str, str]:
    """Return the logins that this process keeps, for `adopt_logins` in a worker."""
    return dict(_logins)


def adopt_logins(logins: dict[str, str]) -> None:
    """Keep the logins that another process withheld."""
    _logins.update(logins)


def with_logins(spec: str) -> str:
    """Return a spec with the logins that were withheld from it."""

    def with_login(url: re.Match) -> str:
        login = _logins.get(url["scheme"] + url["host"])
        return f"{url['scheme']}{login}@{url['host']}" if login else url[0]

    return _URL.sub(with_login, spec)


def headers(url: str) -> dict[str, str]:
    """Return the HTTP headers that log in to the server at `url`; none where no login was withheld."""
    match = _URL.match(url)
    login = _logins.get(match["scheme"] + match["host"]) if match else None
    if not login:
        return {}
    user, _, password = login.partition(":")
    credentials = f"{unquote(user)}:{unquote(password)}".encode()
    return {"Authorization": f"Basic {base64.b64encode(credentials).decode()}"}


def environment_without_keys() -> dict[str, str]:
    """Return this process's environment variables without keys and without settings of eexp that hold a login."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(KEYS) and not (name.startswith("EEXP_") and without_logins(value) != value)
    }
