"""What a browser begins with: cookies and storage in a file, in the form in which Playwright saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Optional
from urllib.parse import urlsplit

import msgspec

from eexp.envs.worlds.browser.chromium import SiteAddress
from eexp.errors import EexpError, InputError


class _Cookie(msgspec.Struct, rename="camel"):
    name: str
    value: str
    domain: str
    path: str = "/"
    expires: float = -1  # seconds since 1970; -1 for a cookie of the session
    http_only: bool = False
    secure: bool = False
    same_site: Optional[str] = None

    def as_parameters(self) -> dict:
        """Return the cookie as the browser's protocol takes it."""
        parameters = {key: value for key, value in msgspec.to_builtins(self).items() if value is not None}
        if self.expires < 0:
            del parameters["expires"]
        return parameters


class _StoredText(msgspec.Struct):
    name: str
    value: str


class _Origin(msgspec.Struct, rename="camel"):
    origin: str
    local_storage: list[_StoredText] = []


class _Storage(msgspec.Struct):
    cookies: list[_Cookie] = []
    origins: list[_Origin] = []


def read_storage(path: Path, site: SiteAddress) -> tuple[list[dict], list]:
    """Return the cookies of a file that are for a site, and what it stores for it, as `SitePage.open_with` takes them.

    Raises:
        EexpError: The file cannot be read.
        InputError: It has another form, or nothing in it is for the site.
    """
    try:
        storage = msgspec.json.decode(path.read_bytes(), type=_Storage)
    except OSError as e:
        raise EexpError(f"{path}: {e.strerror or e}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: not what Playwright's storage_state writes: {e}") from None
    host = urlsplit(site.origin).hostname or ""
    cookies = [cookie.as_parameters() for cookie in storage.cookies if _is_for(cookie.domain, host)]
    origins = (origin for origin in storage.origins if origin.origin.rstrip("/") == site.origin)
    local = [[entry.name, entry.value] for origin in origins for entry in origin.local_storage]
    if not cookies and not local:
        raise InputError(f"{path}: has nothing for {site.origin}")
    return cookies, [local, []]


def _is_for(domain: str, host: str) -> bool:
    """Return whether a cookie of a domain is sent to a host."""
    return host == domain.lstrip(".") or (domain.startswith(".") and host.endswith(domain))
