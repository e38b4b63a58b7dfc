"""Make HTTP requests with a deadline for the whole answer and a limit on its size.

The timeouts of httpx start anew with every byte, and it reads answers of any length: a server that sends a byte a
second would block a request for ever, and an endless answer would fill the memory. All requests of eexp go through
`fetch`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eexp.errors import EexpError

if TYPE_CHECKING:
    import httpx

LARGEST = 64 << 20  # bytes of one answer; the longest lists of log-probabilities are a tenth of it
#: Encodings that are accepted. A block that is compressed once grows at most a thousandfold, twice a millionfold.
_ENCODINGS = ("", "identity", "gzip", "deflate")
#: The header that a client of `fetch` sends with every request, so that answers have no other encoding.
ACCEPTED = {"Accept-Encoding": "gzip, deflate"}


class TooSlow(EexpError):
    """Error raised when an answer is not complete in time."""


class TooLarge(EexpError):
    """Error raised when an answer has more bytes than `LARGEST`, or an encoding by which it may have."""


async def fetch(client: httpx.AsyncClient, method: str, url: str, limit: float, **request: Any) -> httpx.Response:
    """Make a request and return the whole answer.

    Args:
        limit: Seconds for the answer, from the connection to its last byte. The wait for a free connection counts as
            well, so a client should have as many connections as there are requests at once.
        request: As for `httpx.AsyncClient.stream`.

    Raises:
        TooSlow: The answer was not complete within `limit`.
        TooLarge: It is larger than `LARGEST` bytes.
        httpx.HTTPError: The request failed otherwise.
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
    """Makes requests one after the other, for code that waits for each. Close it after use.

    Args:
        headers: Headers of every request.
    """

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self._headers = {**ACCEPTED, **(headers or {})}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None

    def fetch(self, method: str, url: str, limit: float, **request: Any) -> httpx.Response:
        """Make a request as the function `fetch` does."""
        import httpx

        if self._loop is None or self._client is None:
            self._loop = asyncio.new_event_loop()
            self._client = httpx.AsyncClient(timeout=None, headers=self._headers)
        return self._loop.run_until_complete(fetch(self._client, method, url, limit, **request))

    def close(self) -> None:
        """Close the connections. Safe to call twice; a later request opens new ones."""
        loop, client, self._loop, self._client = self._loop, self._client, None, None
        if loop is not None and client is not None:
            loop.run_until_complete(client.aclose())
            loop.close()
