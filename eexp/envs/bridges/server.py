"""What environments behind a URL share: requests whose every failure is one line, and tasks that are numbers.

Their specs are `SCHEME:URL?KEY=VALUE&KEY=VALUE`, such as `agentgym:http://localhost:36001?env=textcraft`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, NoReturn

import msgspec

from eexp.envs.logins import headers
from eexp.errors import EnvironmentFailed, UsageError
from eexp.fetch import Fetcher, TooLarge, TooSlow
from eexp.processes.child import excerpt, time_limit
from eexp.records import explain

#: How long a server may take over a goodbye that nobody needs the answer of.
GRACE = 2.0


class Server:
    """An HTTP server that answers in JSON. `name` is what its errors begin with.

    headers: what logs in to it, where the URL came with a login (envs/logins.py).

    Raises UsageError where the URL is none; asking raises EnvironmentFailed.
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
        """None where the server answers with one of the status codes in `absent`."""
        return self._ask("GET", path, shape, absent, params=query)

    def post(self, path: str, shape: Any, **body: Any) -> Any:
        # Escaped to ASCII: half a surrogate pair, which a model may well write, has no UTF-8.
        head = {"Content-Type": "application/json"}
        return self._ask("POST", path, shape, content=json.dumps(body), headers=head)

    def tell(self, path: str, **body: Any) -> None:
        """Post what needs no answer, as far as there is somebody to read it."""
        import httpx

        with suppress(httpx.HTTPError, TooSlow, TooLarge):
            self._fetcher.fetch("POST", self.url + path, min(GRACE, self.limit), json=body)

    def close(self) -> None:
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
            said = msgspec.json.decode(answer.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._fail(path, f"not JSON: {excerpt(answer.content)}", answer.content)
        if isinstance(said, dict) and said.get("error") is not None:  # with status 200
            self._fail(path, " ".join(str(said["error"]).split())[:500] or "an error without a message")
        try:
            return msgspec.convert(said, shape)
        except msgspec.ValidationError as e:
            self._fail(path, str(explain(str(e))), answer.content)

    def _fail(self, path: str, message: str, answer: bytes = b"") -> NoReturn:
        evidence = {"answer": answer[:2000].decode("utf-8", "replace")} if answer else None
        raise EnvironmentFailed(f"{self.name}: {path}: {message}", evidence=evidence) from None
