"""A client of a JSON server, with many requests at once, a limit on their rate, and retries.

One event loop in a thread of its own does all the waiting. So stages stay plain code, a stage that ends early cancels
its requests at once, and the thread does not keep the process alive.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import json
import math
import os
import random
import re
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from eexp.errors import EexpError, InputError, ServerFailed, UsageError
from eexp.records.types import explain
from eexp.system.fetch import ACCEPTED, TooLarge, TooSlow, fetch
from eexp.system.terminal import tell

if TYPE_CHECKING:
    import ssl

    import httpx

T = TypeVar("T")
N = TypeVar("N", int, float)

#: Statuses of temporary failures, after which the same request may succeed.
TEMPORARY = frozenset({408, 409, 425, 429, *range(500, 600)})
#: Statuses that blame the request; 404 only after others were answered, since else the address is wrong.
REFUSED = frozenset({400, 404, 413, 422})
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before the second try; doubled each time, up to the longest
RETRY_AFTER = 300.0  # seconds up to which a server's Retry-After is followed by default
SHOWN_FROM = 10.0  # seconds of a Retry-After from which the first one is shown: a run that waits seems to hang
CONNECT = 30.0  # seconds for opening a connection
GRACE = 2.0  # seconds for closing the connections
#: Environment variables that may hold the key for a server, the first that does.
KEY_VARIABLES = ("EEXP_API_KEY", "OPENAI_API_KEY")


def setting(variable: str, value: N | None, default: N, kind: type[N]) -> N:
    """Return `value` if it is not None, else that of the environment variable, else the default.

    Raises:
        UsageError: It is no number above 0.
    """
    raw_value = value if value is not None else os.environ.get(variable) or default
    try:
        number = kind(raw_value)
    except ValueError:
        number = kind(0)
    if not 0 < number < 1e9:
        raise UsageError(f"{variable}: expected a {'whole ' * (kind is int)}number above 0, got {raw_value!r}")
    return number


class Unavailable(ServerFailed):
    """Error of an attempt at a request that may succeed later, or at another server.

    Attributes:
        status: The HTTP status of the answer; 0 where there was none.
        retry_after: Seconds after which the server asks for another attempt; None where it does not.
        connected: Whether a connection was opened.
    """

    def __init__(self, message: str, *, status: int = 0, retry_after: float | None = None, connected: bool = True):
        super().__init__(message)
        self.status, self.retry_after, self.connected = status, retry_after, connected

    def after(self, attempts: int) -> Unavailable:
        """Return the error of the last of several attempts."""
        tried = f" (tried {attempts} times)" if attempts > 1 else ""
        return type(self)(f"{self}{tried}", status=self.status, retry_after=self.retry_after, connected=self.connected)


def _key(variables: Sequence[str]) -> tuple[str, str]:
    """Return the first of some environment variables that holds a key, and the key; two empty strings without one."""
    for variable in variables:
        key = os.environ.get(variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UsageError(f"{variable} holds a character that no HTTP header may have")
        if key:
            return variable, key
    return "", ""


@cache
def _certificates() -> ssl.SSLContext:
    """Return the trusted certificates. Reading them takes longer than most requests to a server nearby."""
    import httpx

    return httpx.create_ssl_context()


class EventLoop:
    """An event loop in a thread of its own, which the first work that is started in it opens."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run `work` in the loop; cancelling the future that is returned stops it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop or self._open())

    def _open(self) -> asyncio.AbstractEventLoop:
        # Of anyio, where a request is cancelled before its connection is begun. It would follow the line of the error.
        warnings.filterwarnings("ignore", r"coroutine 'connect_tcp\.", RuntimeWarning)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_report)
        self._thread = threading.Thread(target=self._loop.run_forever, name="eexp http", daemon=True)
        self._thread.start()
        return self._loop

    def close(self, *last: Callable[[], Awaitable[None]]) -> None:
        """Cancel the work under way, call each of `last`, and end the thread. Safe to call twice."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        with suppress(concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(_cancel_all(last), loop).result(GRACE)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(GRACE)
        if not self._thread.is_alive():
            loop.close()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report an exception that nothing waits for; failures of requests that were cancelled meanwhile are none."""
    if not isinstance(context.get("exception"), EexpError):
        loop.default_exception_handler(context)


async def _cancel_all(last: Sequence[Callable[[], Awaitable[None]]]) -> None:
    under_way = asyncio.all_tasks() - {asyncio.current_task()}
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)
    for close in last:
        await close()


class Client:
    """A client of the server at `url`.

    Args:
        concurrency: Maximum number of requests at once. None takes it from EEXP_HTTP_CONCURRENCY.
        timeout: Seconds for one answer, to its last byte. None takes it from EEXP_HTTP_TIMEOUT.
        tries: Maximum number of attempts at one request. None takes it from EEXP_HTTP_TRIES.
        rpm: Requests a minute, of all together. None takes it from EEXP_HTTP_RPM, without which there is no limit.
        retry_after: Seconds up to which the server's Retry-After is followed. None takes them from
            EEXP_HTTP_RETRY_AFTER.
        name: What messages call the server; by default, its address.
        key_variables: The environment variables that may hold its key.
        loop: The loop in which requests are made; by default, one of its own.

    Attributes:
        url: The address without the secrets in it.
        slots: Held by every request that is made.

    Raises:
        UsageError: `url` is no address, or a setting is no number above 0.
    """

    def __init__(
        self,
        url: str,
        *,
        concurrency: int | None = None,
        timeout: float | None = None,
        tries: int | None = None,
        rpm: float | None = None,
        retry_after: float | None = None,
        name: str | None = None,
        key_variables: Sequence[str] = KEY_VARIABLES,
        loop: EventLoop | None = None,
    ):
        import httpx

        self.url = re.sub(r"//.*@", "//", url.rstrip("/"))
        self.name = name or self.url
        self.concurrency = setting("EEXP_HTTP_CONCURRENCY", concurrency, 16, int)
        self._timeout = setting("EEXP_HTTP_TIMEOUT", timeout, 300.0, float)
        self.tries = setting("EEXP_HTTP_TRIES", tries, 6, int)
        self._longest_pause = setting("EEXP_HTTP_RETRY_AFTER", retry_after, RETRY_AFTER, float)
        limited = rpm is not None or os.environ.get("EEXP_HTTP_RPM")
        self._spacing = 60.0 / setting("EEXP_HTTP_RPM", rpm, 1.0, float) if limited else 0.0
        try:
            address = httpx.URL(url.rstrip("/"))
        except httpx.InvalidURL:
            address = httpx.URL()
        if not address.host or address.query:
            raise UsageError(f"{self.url.partition('?')[0]}: not an address such as http://HOST:PORT/v1")
        # The password goes into a header as well: httpx writes the addresses of its requests to the log.
        self._address = str(address.copy_with(username=None, password=None))
        variable, key = _key(key_variables)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._hint = f"is {variable} right?" if key else f"no key was sent: set {' or '.join(key_variables)}"
        self._secrets = {key}
        if address.userinfo:
            word, password = f"{address.username}:{address.password}", address.password or address.username
            word = base64.b64encode(word.encode()).decode()
            self._headers = {"Authorization": f"Basic {word}"}
            self._hint = "is the password in the address right?"
            self._secrets |= {word, password, quote(password, safe="")}
        self._secrets.discard("")
        self._jitter = random.Random()
        self._loop = loop or EventLoop()
        self._http: httpx.AsyncClient | None = None
        self.slots = asyncio.Semaphore(self.concurrency)
        self._reached = self._served = False  # whether it has answered at all; whether it has served a request
        self._has_shown_pause = False
        self._next = self._paused = 0.0  # when the next request may be made; until when all pause

    # -- work in the loop --------------------------------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run `work` in the loop; cancelling the future that is returned stops it."""
        return self._loop.start(work)

    def close(self) -> None:
        """Cancel the requests under way and close the connections. Safe to call twice; it can be used again."""
        self._loop.close(self.disconnect)

    async def disconnect(self) -> None:
        """Close the connections."""
        http, self._http = self._http, None
        self.slots = asyncio.Semaphore(self.concurrency)  # one that was waited for belongs to the loop that is ending
        if http is not None:
            await http.aclose()

    def _connections(self) -> httpx.AsyncClient:
        import httpx

        if self._http is None:
            limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
            timeout = httpx.Timeout(None, connect=min(CONNECT, self._timeout))  # `fetch` limits the rest
            headers = {**ACCEPTED, **self._headers}
            self._http = httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits, verify=_certificates())
        return self._http

    # -- a request, inside the loop ----------------------------------------------------------------------------------

    async def ask(
        self, method: str, path: str, shape: type[T], body: dict | None = None, tries: int | None = None
    ) -> T:
        """Return the server's answer, converted to `shape`.

        Args:
            tries: Maximum number of attempts, if other than the client's.

        Raises:
            InputError: The server refuses the content of the request.
            Unavailable: All attempts have failed, and further ones may succeed.
            ServerFailed: The server cannot be used.
        """
        tries = tries or self.tries
        async with self.slots:
            attempt = 1
            while True:
                await self.turn()
                try:
                    return await self.attempt(method, path, shape, body)
                except Unavailable as e:
                    # Where nothing was ever reached, there is no server, rather than a busy one.
                    if attempt == tries or not (e.connected or self._reached):
                        raise e.after(attempt) from None
                    await asyncio.sleep(self.pause_after(attempt, e))
                    attempt += 1

    async def attempt(self, method: str, path: str, shape: type[T], body: dict | None = None) -> T:
        """Make a request once and return the answer, converted to `shape`.

        Raises:
            InputError: The server refuses the content of the request.
            Unavailable: The same request may succeed later.
            ServerFailed: The server cannot be used.
        """
        import httpx

        # Escaped to ASCII: half of a surrogate pair, which a record may hold, has no UTF-8.
        content = None if body is None else json.dumps(body).encode("ascii")
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            answer = await fetch(
                self._connections(), method, self._address + path, self._timeout, content=content, headers=headers
            )
        except TooSlow:
            raise Unavailable(f"{self.name}: no answer within {self._timeout:g} s (EEXP_HTTP_TIMEOUT)") from None
        except TooLarge as e:
            raise ServerFailed(f"{self.name}{path}: {e}") from None
        except (httpx.ConnectTimeout, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError) as e:
            raise Unavailable(
                f"{self.name}: {type(e).__name__}: {self._mask(str(e)) or 'no connection'}",
                connected=not isinstance(e, (httpx.ConnectError, httpx.ConnectTimeout)),
            ) from None
        except httpx.HTTPError as e:
            raise ServerFailed(f"{self.name}: {type(e).__name__}: {self._mask(str(e))}") from None
        self._reached = True
        if answer.status_code not in TEMPORARY:
            return self._read(path, answer, shape, body is not None)
        retry_after = _retry_after(answer.headers.get("Retry-After", ""))
        raise Unavailable(self._status(path, answer), status=answer.status_code, retry_after=retry_after)

    @property
    def paused_for(self) -> float:
        """Seconds for which the server has asked for no further request."""
        return max(0.0, self._paused - time.monotonic())

    async def turn(self) -> None:
        """Wait until a request may be made, by the limit on their rate and the pauses that the server asks for."""
        while True:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._spacing
            await asyncio.sleep(turn - now)
            if time.monotonic() >= self._paused:  # else a pause has begun meanwhile
                return

    def pause_after(self, attempt: int, failure: Unavailable) -> float:
        """Return the seconds to wait after a failed attempt, or make all requests pause.

        Args:
            attempt: How many attempts at the request have failed.
            failure: What the last of them raised. Where the server has too many requests, its limit concerns all of
                them: they wait in `turn`, and 0 is returned.
        """
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) * self._jitter.uniform(0.5, 1.0)
        if failure.retry_after is not None:
            self._show_pause(failure.retry_after)
            pause = min(failure.retry_after, self._longest_pause)
        elif failure.status != 429:
            return pause
        self._paused = max(self._paused, time.monotonic() + pause)
        self._next = max(self._next, self._paused)
        return 0.0

    def _show_pause(self, seconds: float) -> None:
        """Show the first long pause that the server asks for."""
        if seconds < SHOWN_FROM or self._has_shown_pause:
            return
        self._has_shown_pause = True
        longest = self._longest_pause
        wait = f"waiting {longest:g} s" if seconds > longest else "waiting as long"
        tell(
            f"{self.name}: asks for no request within {seconds:,.0f} s (Retry-After); {wait} before each further try "
            f"(EEXP_HTTP_RETRY_AFTER={longest:g}, EEXP_HTTP_TRIES={self.tries})"
        )

    def _read(self, path: str, answer: httpx.Response, shape: type[T], has_body: bool) -> T:
        """Return an answer converted to `shape`, or raise the error that it means."""
        status = answer.status_code
        if has_body and status in REFUSED and (self._served or status != 404):
            raise InputError(f"{self.name} refuses the request: {self._reason(answer) or 'no reason given'}")
        if status in (401, 403):
            raise ServerFailed(f"{self._status(path, answer)} ({self._hint})")
        if not 200 <= status < 300:
            raise ServerFailed(self._status(path, answer))
        try:
            result = msgspec.convert(answer.json(), shape)
        except msgspec.ValidationError as e:
            raise ServerFailed(f"{self.name}{path}: answered: {explain(str(e))}") from None
        except (ValueError, RecursionError):
            raise ServerFailed(f"{self.name}{path}: the answer is not JSON") from None
        self._served = self._served or has_body
        return result

    # -- messages ----------------------------------------------------------------------------------------------------

    def _status(self, path: str, answer: httpx.Response) -> str:
        hint = ": is /v1 missing?" if answer.status_code == 404 and urlsplit(self.url).path in ("", "/") else ""
        return f"{self.name}{path}: HTTP {answer.status_code}: {self._reason(answer) or 'no reason given'}{hint}"

    def _reason(self, answer: httpx.Response) -> str:
        """Return the server's explanation, as far as it gives one."""
        try:
            reason = answer.json()
        except (ValueError, RecursionError):
            reason = answer.text
        for key in ("error", "detail", "message"):
            if isinstance(reason, dict) and reason.get(key):
                reason = reason[key]
        return "" if reason is None else self._mask(str(reason))

    def _mask(self, text: str) -> str:
        """Return a server's text as one line of a message, without secrets."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


def _retry_after(value: str) -> float | None:
    """Return seconds from the value of a Retry-After header, a finite number or an HTTP date; None for other values."""
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
