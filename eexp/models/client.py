"""A JSON server that answers many requests at once: asked at its pace, and again where it was only busy or cut off.

All the waiting is done by one event loop in a thread of its own. Stages stay plain code, whoever leaves early cancels
what is under way at once, and the thread keeps no process alive.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import json
import os
import random
import re
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec

from eexp.errors import EexpError, InputError, UsageError
from eexp.fetch import ACCEPTED, TooLarge, TooSlow, fetch
from eexp.records import explain

if TYPE_CHECKING:
    import ssl

    import httpx

T = TypeVar("T")

#: Statuses after which the same request may well succeed.
PASSING = frozenset({408, 409, 425, 429, *range(500, 600)})
#: Statuses that are about what was asked. 404 only where others were answered: else it is the address that is wrong.
REFUSED = frozenset({400, 404, 413, 422})
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before the second try; doubled each time, up to the longest
LONGEST_TOLD = 300.0  # seconds that a server's Retry-After may make us wait
CONNECT = 30.0  # seconds for opening a connection
GRACE = 2.0  # seconds for closing them


def setting(variable: str, given: T | None, default: T, kind: type[T]) -> T:
    """What was given, else the environment variable, else the default: a number above 0, or UsageError."""
    said: Any = given if given is not None else os.environ.get(variable) or default
    try:
        number: Any = kind(said)  # type: ignore[call-arg]
    except ValueError:
        number = 0
    if not 0 < number < 1e9:
        raise UsageError(f"{variable}: expected a {'whole ' * (kind is int)}number above 0, got {said!r}")
    return number


def _key() -> tuple[str, str]:
    """The variable that holds the key, and the key; two empty strings without one."""
    for variable in ("EEXP_API_KEY", "OPENAI_API_KEY"):
        key = os.environ.get(variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UsageError(f"{variable} holds a character that no HTTP header may have")
        if key:
            return variable, key
    return "", ""


@cache
def _certificates() -> ssl.SSLContext:
    """Whom to trust. Read once a process, for it takes longer than most requests to a server nearby."""
    import httpx

    return httpx.create_ssl_context()


class Client:
    """The server at `url`, by at most `concurrency` requests at once.

    timeout: seconds for one answer, to its last byte. tries: how often one request is made at most. rpm: requests a
    minute, all in all; None for no limit. What is not given comes from EEXP_HTTP_CONCURRENCY, _TIMEOUT, _TRIES and
    _RPM.
    `name` is the address without what is secret in it. Raises UsageError where the address is none.
    """

    def __init__(
        self,
        url: str,
        *,
        concurrency: int | None = None,
        timeout: float | None = None,
        tries: int | None = None,
        rpm: float | None = None,
    ):
        import httpx

        self.name = re.sub(r"//.*@", "//", url.rstrip("/"))
        self.concurrency = setting("EEXP_HTTP_CONCURRENCY", concurrency, 16, int)
        self._timeout = setting("EEXP_HTTP_TIMEOUT", timeout, 300.0, float)
        self._tries = setting("EEXP_HTTP_TRIES", tries, 6, int)
        limited = rpm is not None or os.environ.get("EEXP_HTTP_RPM")
        self._spacing = 60.0 / setting("EEXP_HTTP_RPM", rpm, 1.0, float) if limited else 0.0
        try:
            address = httpx.URL(url.rstrip("/"))
        except httpx.InvalidURL:
            address = httpx.URL()
        if not address.host or address.query:
            raise UsageError(f"{self.name.partition('?')[0]}: not an address such as http://HOST:PORT/v1")
        # The password goes into a header, too: httpx tells the addresses that it asks to whoever keeps a log.
        self._address = str(address.copy_with(username=None, password=None))
        variable, key = _key()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._hint = f"is {variable} right?" if key else "no key was sent: set EEXP_API_KEY or OPENAI_API_KEY"
        self._secrets = {key}
        if address.userinfo:
            word, password = f"{address.username}:{address.password}", address.password or address.username
            word = base64.b64encode(word.encode()).decode()
            self._headers = {"Authorization": f"Basic {word}"}
            self._hint = "is the password in the address right?"
            self._secrets |= {word, password, quote(password, safe="")}
        self._secrets.discard("")
        self._jitter = random.Random()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._met = self._served = False  # it has answered, ever; and with what was asked for
        self._next = self._paused = 0.0  # when the next request may be made; until when none may, whatever was said

    # -- the loop ----------------------------------------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Let `work` run in the loop; cancelling the future that is returned stops it."""
        if self._loop is None:
            self._open()
        return asyncio.run_coroutine_threadsafe(work, self._loop)  # type: ignore[arg-type]

    def _open(self) -> None:
        import httpx

        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        timeout = httpx.Timeout(None, connect=min(CONNECT, self._timeout))  # the rest is fetch's affair
        headers = {**ACCEPTED, **self._headers}
        self._http = httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits, verify=_certificates())
        self._slots = asyncio.Semaphore(self.concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="eexp http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Drop what is under way, and all connections. Safe to call twice; a later request opens it again."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        with suppress(concurrent.futures.TimeoutError):
            asyncio.run_coroutine_threadsafe(self._let_go(), loop).result(GRACE)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(GRACE)
        if not self._thread.is_alive():
            loop.close()

    async def _let_go(self) -> None:
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._http.aclose()

    # -- a request, inside the loop ----------------------------------------------------------------------------------

    async def ask(
        self, method: str, path: str, shape: type[T], body: dict | None = None, tries: int | None = None
    ) -> T:
        """What the server answers, as a `shape`. tries: other than those of the client.

        Raises InputError where it refuses what `body` asks for, EexpError where it cannot be used.
        """
        import httpx

        # Escaped to ASCII: half a surrogate pair, which a record may well hold, has no UTF-8.
        content = None if body is None else json.dumps(body).encode("ascii")
        head = {} if body is None else {"Content-Type": "application/json"}
        tries = tries or self._tries
        async with self._slots:
            for tried in range(1, tries + 1):
                await self._turn()
                answer = None
                try:
                    answer = await fetch(
                        self._http, method, self._address + path, self._timeout, content=content, headers=head
                    )
                except TooSlow:
                    what = f"{self.name}: no answer within {self._timeout:g} s (EEXP_HTTP_TIMEOUT)"
                except TooLarge as e:
                    raise EexpError(f"{self.name}{path}: {e}") from None
                except (httpx.ConnectTimeout, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError) as e:
                    what = f"{self.name}: {type(e).__name__}: {self._mask(str(e)) or 'no connection'}"
                    if isinstance(e, (httpx.ConnectError, httpx.ConnectTimeout)) and not self._met:
                        break  # nobody is there, rather than not just now
                except httpx.HTTPError as e:
                    raise EexpError(f"{self.name}: {type(e).__name__}: {self._mask(str(e))}") from None
                else:
                    self._met = True
                    if answer.status_code not in PASSING:
                        return self._read(path, answer, shape, body is not None)
                    what = self._status(path, answer)
                if tried < tries:
                    await self._back_off(tried, answer)
        raise EexpError(what + (f" (tried {tried} times)" if tried > 1 else ""))

    async def _turn(self) -> None:
        """Until a request may be made, by the pace we were given and by the pauses that the server asks for."""
        while True:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._spacing
            await asyncio.sleep(turn - now)
            if time.monotonic() >= self._paused:  # else a pause has begun while we waited
                return

    async def _back_off(self, tried: int, answer: httpx.Response | None) -> None:
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tried - 1)) * self._jitter.uniform(0.5, 1.0)
        told = None if answer is None else _retry_after(answer.headers.get("Retry-After", ""))
        if told is not None:
            pause = min(told, LONGEST_TOLD)
        if told is None and (answer is None or answer.status_code != 429):
            return await asyncio.sleep(pause)
        # Too many requests are not this one's fault: all of them wait, in _turn.
        self._paused = max(self._paused, time.monotonic() + pause)
        self._next = max(self._next, self._paused)

    def _read(self, path: str, answer: httpx.Response, shape: type[T], asked: bool) -> T:
        status = answer.status_code
        if asked and status in REFUSED and (self._served or status != 404):
            raise InputError(f"{self.name} refuses the request: {self._reason(answer) or 'no reason given'}")
        if status in (401, 403):
            raise EexpError(f"{self._status(path, answer)} ({self._hint})")
        if not 200 <= status < 300:
            raise EexpError(self._status(path, answer))
        try:
            found = msgspec.convert(answer.json(), shape)
        except msgspec.ValidationError as e:
            raise EexpError(f"{self.name}{path}: answered: {explain(str(e))}") from None
        except (ValueError, RecursionError):
            raise EexpError(f"{self.name}{path}: the answer is not JSON") from None
        self._served = self._served or asked
        return found

    # -- words -------------------------------------------------------------------------------------------------------

    def _status(self, path: str, answer: httpx.Response) -> str:
        return f"{self.name}{path}: HTTP {answer.status_code}: {self._reason(answer) or 'no reason given'}"

    def _reason(self, answer: httpx.Response) -> str:
        try:
            said = answer.json()
        except (ValueError, RecursionError):
            said = answer.text
        for key in ("error", "detail", "message"):
            if isinstance(said, dict) and said.get(key):
                said = said[key]
        return "" if said is None else self._mask(str(said))

    def _mask(self, said: str) -> str:
        """A server's words, fit for one line of a message, without what is secret."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            said = said.replace(secret, "***")
        return " ".join("".join(c if c.isprintable() else " " for c in said).split())[:300]


def _retry_after(said: str) -> float | None:
    """Seconds, from a number of them or an HTTP date; None where it says neither."""
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
