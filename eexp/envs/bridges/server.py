"""Requests to an environment server over HTTP, in JSON; every failure is an error of one line.

The specs of such environments are `SCHEME:URL?KEY=VALUE&KEY=VALUE`, such as `agentgym:http://localhost:36001?env=textcraft`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, NoReturn

import msgspec

from eexp.envs.logins import headers
from eexp.errors import EnvironmentFailed, UsageError
from eexp.records.types import explain
from eexp.system.child import excerpt, time_limit
from eexp.system.fetch import Fetcher, TooLarge, TooSlow

GRACE = 2.0  # seconds that a server may take for a request that needs no answer


class Server:
    """An HTTP server that answers in JSON. Its requests raise EnvironmentFailed.

    Args:
        name: What its errors begin with.
        url: The URL, without a login.

    Attributes:
        headers: The headers that log in to it, if the URL was given with a login (eexp/envs/logins.py).

    Raises:
        UsageError: The URL is malformed.
    """

    def __init__(self, name: str, url: str):
        import httpx

        self.name, self.url, self.limit = name, url.rstrip("/"), time_limit()
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{name}: expected http://HOST:PORT or https://HOST:PORT after the first colon")
        try:
            httpx.URL(url)
        except httpx.InvalidURL as e:
            raise UsageError(f"{name}: {e}") from None
        self.headers = headers(self.url)
        self._fetcher = Fetcher(self.headers)

    def get(self, path: str, shape: Any, absent: tuple[int, ...] = (), **query: Any) -> Any:
        """Send a GET request and return the answer.

        Args:
            shape: The type of the answer, for msgspec.
            absent: Status codes for which None is returned.
        """
        return self._ask("GET", path, shape, absent, params=query)

    def post(self, path: str, shape: Any, **body: Any) -> Any:
        """Send a POST request with a JSON object and return the answer, which is of the type `shape`."""
        # Escaped to ASCII: half a surrogate pair, which a model may write, has no encoding in UTF-8.
        head = {"Content-Type": "application/json"}
        return self._ask("POST", path, shape, content=json.dumps(body), headers=head)

    def notify(self, path: str, **body: Any) -> None:
        """Send a POST request that needs no answer. Failures are ignored."""
        import httpx

        with suppress(httpx.HTTPError, TooSlow, TooLarge):
            self._fetcher.fetch("POST", self.url + path, min(GRACE, self.limit), json=body)

    def close(self) -> None:
        """Close the connections."""
        self._fetcher.close()

    def _ask(self, method: str, path: str, shape: Any, absent: tuple[int, ...] = (), **request: Any) -> Any:
        import httpx

        try:
            answer = self._fetcher.fetch(method, self.url + path, self.limit, **request)
        except TooSlow as e:
            self._fail(path, f"{e} (EEXP_ENV_TIMEOUT)")
        except TooLarge as e:
            self._fail(path, str(e))
        except httpx.HTTPError as e:
            self._fail(path, f"{type(e).__name__}: {e}")
        if answer.status_code in absent:
            return None
        if answer.status_code >= 300:
            self._fail(path, f"HTTP {answer.status_code}: {excerpt(answer.content) or 'no reason given'}")
        try:
            content = msgspec.json.decode(answer.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._fail(path, f"not JSON: {excerpt(answer.content)}", answer.content)
        if isinstance(content, dict) and content.get("error") is not None:  # some servers do so with status 200
            self._fail(path, " ".join(str(content["error"]).split())[:500] or "an error without a message")
        try:
            return msgspec.convert(content, shape)
        except msgspec.ValidationError as e:
            self._fail(path, str(explain(str(e))), answer.content)

    def _fail(self, path: str, message: str, answer: bytes = b"") -> NoReturn:
        evidence = {"answer": answer[:2000].decode("utf-8", "replace")} if answer else None
        raise EnvironmentFailed(f"{self.name}: {path}: {message}", evidence=evidence) from None
