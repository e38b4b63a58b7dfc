"""Answers over HTTP, with a deadline for the whole of one and a limit on its size.

httpx's own timeouts start anew with every byte, and it reads whatever comes: a server that sends a byte a second would
hold a request for ever, and one that never ends would fill the memory. All requests of eexp go through `fetch`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eexp.errors import EexpError

if TYPE_CHECKING:
    import httpx

LARGEST = 64 << 20  # bytes of one answer; the longest lists of log-probabilities are a tenth of it
#: Compressed once, a block that was read becomes a thousand times as large at most; twice, a million times.
_ENCODINGS = ("", "identity", "gzip", "deflate")
#: The header that a client of `fetch` sends with every request, so that it gets none but these.
ACCEPTED = {"Accept-Encoding": "gzip, deflate"}


class TooSlow(EexpError):
    """An answer was not whole in time."""


class TooLarge(EexpError):
    """An answer has more bytes than `LARGEST`, or is packed so that it may have."""


async def fetch(client: httpx.AsyncClient, method: str, url: str, limit: float, **request: Any) -> httpx.Response:
    """Make a request and return the whole answer.

    Args:
        limit: seconds for all of it, from the connection to the last byte. Waiting for a connection that is free is not
            part of it, so a client should have as many as it is asked for at once.
        request: as for `httpx.AsyncClient.stream`.

    Raises:
        TooSlow: the answer was not whole within `limit`.
        TooLarge: it is larger than `LARGEST` bytes.
        httpx.HTTPError: the request failed otherwise.
    """
    try:
        return await asyncio.wait_for(_whole(client, method, url, request), limit)
    except (asyncio.TimeoutError, TimeoutError):
        raise TooSlow(f"no answer within {limit:g} s") from None


async def _whole(client: httpx.AsyncClient, method: str, url: str, request: dict[str, Any]) -> httpx.Response:
    import httpx

    body = bytearray()
    async with client.stream(method, url, **request) as answer:
        encoding = answer.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _ENCODINGS:
            raise TooLarge(f"an answer packed as {encoding[:40]!r}, which was not asked for")
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > LARGEST:
                raise TooLarge(f"an answer of more than {LARGEST >> 20} MB")
    framing = ("content-encoding", "transfer-encoding", "content-length")
    headers = [(name, value) for name, value in answer.headers.items() if name.lower() not in framing]
    return httpx.Response(answer.status_code, headers=headers, content=bytes(body), request=answer.request)


class Fetcher:
    """Requests one after the other, for code that waits for each. Close it when done. headers: sent with each."""

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self._headers = {**ACCEPTED, **(headers or {})}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None

    def fetch(self, method: str, url: str, limit: float, **request: Any) -> httpx.Response:
        """Do as the function `fetch` does."""
        import httpx

        if self._loop is None or self._client is None:
            self._loop = asyncio.new_event_loop()
            self._client = httpx.AsyncClient(timeout=None, headers=self._headers)
        return self._loop.run_until_complete(fetch(self._client, method, url, limit, **request))

    def close(self) -> None:
        """Drop the connections. Safe to call twice; a later request opens new ones."""
        loop, client, self._loop, self._client = self._loop, self._client, None, None
        if loop is not None and client is not None:
            loop.run_until_complete(client.aclose())
            loop.close()
