"""The server of the page: on this machine alone, behind a random token, reading and nothing else."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from eexp.errors import EexpError
from eexp.viewer import page_data
from eexp.viewer.index import ORDERS, Index, Query
from eexp.viewer.record_changes import Comparison
from eexp.viewer.view import page

_PAUSE = 0.5  # seconds between two looks at files that may grow
_WINDOW = 60.0  # seconds over which the rate of new records is taken
_MOST = 200  # records in one answer


class Viewer:
    """An index that a thread reads on, and the server of its page.

    Args:
        index: Of the files; nothing of them has to be read yet.
        follow: Whether to go on reading after their end.
        tokens: Returns the tokens of an example (`view.tokens_of`); None to show text.
        port: To listen on; 0 takes a free one.
        comparison: Two files whose records are compared by their ids; None for a list of records.
        problem: Returns what a person should know of the input, "" for nothing.

    Raises:
        OSError: The port is taken.
    """

    def __init__(
        self,
        index: Index,
        *,
        follow: bool = False,
        tokens: Callable[[dict], list] | None = None,
        port: int = 0,
        comparison: Comparison | None = None,
        problem: Callable[[], str] = str,
    ):
        self.index, self.follow, self.tokens, self.comparison = index, follow, tokens, comparison
        self.token = secrets.token_urlsafe(16)
        self.reading = True
        self._again = ""  # why they were, the last time
        self._problem = problem
        self._stop = threading.Event()
        self._history: deque[tuple[float, int]] = deque()
        self._page: bytes | None = None
        self._server = _Server(("127.0.0.1", port), self)
        self.port = self._server.server_address[1]

    @property
    def address(self) -> str:
        """The address of the page, which holds the token."""
        return f"http://127.0.0.1:{self.port}/{self.token}/"

    def run(self) -> None:
        """Read the files and answer, until `stop` is called or the process is interrupted."""
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        try:
            self._server.serve_forever(poll_interval=0.2)
        finally:
            self._stop.set()
            self._server.server_close()

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._stop.set()
        self._server.shutdown()

    def _read(self) -> None:
        while True:
            if self.follow and self.comparison is None and (what := self.index.outdated()):
                self._begin_again(what)
            for records in self.index.read_on(growing=self.follow):
                self._note(records)
                if self._stop.is_set():
                    return
                time.sleep(0)  # answers come first
            self.reading = False
            if not self.follow or self._stop.wait(_PAUSE):
                return

    def _begin_again(self, what: str) -> None:
        """Read the files from their beginning, since one of them has become another; filters keep their numbers."""
        try:
            index = Index(self.index.files, dict(self.index.facets), generation=self.index.generation + 1)
        except EexpError as e:
            self._again = f"{what}, and cannot be read: {e}"
            return
        self._again = f"{what}, and is read again"
        self._history = deque()
        self.reading, self.index = True, index

    def _note(self, records: int) -> None:
        now = time.monotonic()
        self._history.append((now, records))
        while self._history[0][0] < now - _WINDOW:
            self._history.popleft()

    def answer(self, what: str, given: dict[str, str]) -> tuple[str, bytes] | None:
        """Return the type and the content of an answer; None where there is none.

        Raises:
            ValueError: A parameter is missing or wrong.
        """
        index = self.index  # another thread may replace it
        if what == "":
            if self._page is None:
                self._page = page(index).encode("utf-8", "replace")
            return "text/html; charset=utf-8", self._page
        if what == "picture":
            return page_data.picture(index, _entry(index, given), given.get("name", ""))
        result: Any = None
        if what == "state":
            result = self._state(index)
        elif what == "list":
            result = self._list(index, given)
        elif what == "record":
            entry = _entry(index, given)
            result = page_data.shown(index, entry, self.tokens)
            if self.comparison is not None:
                result["changes"] = self.comparison.changes(entry)
        elif what == "find":
            file = int(given["file"]) if "file" in given else None
            result = {"entry": index.with_id(given.get("id", ""), file)}
        return None if result is None else ("application/json", orjson.dumps(result))

    def _state(self, index: Index) -> dict:
        state = page_data.state(index)
        progress, history = "", self._history
        if self.reading and state["bytes"]:
            progress = f"Reading: {100 * state['read'] / state['bytes']:.0f} % of {len(index.files)} file(s)"
        elif self.follow and history:
            (then, before), (now, records) = history[0], history[-1]
            rate = 60 * (records - before) / (now - then) if now > then else 0.0
            progress = f"Following: {rate:,.0f} records a minute"
        if self.comparison is not None:
            state["records"] = index.count((self.comparison.mask,))
        notes = (progress, self._again, *list(index.problems.values()), self._problem())
        return {
            **state,
            "reading": self.reading,
            "follow": self.follow,
            "progress": ". ".join(filter(None, notes)),
        }

    def _list(self, index: Index, given: dict[str, str]) -> dict:
        filters = [group for group in given.get("filters", "").split(";") if group]
        masks = tuple(sum({1 << int(bit) % 64 for bit in group.split(",")}) for group in filters)
        masks += (self.comparison.mask,) if self.comparison is not None else ()
        order = given.get("order", "place")
        if order not in ORDERS:
            raise ValueError("no such order")
        query = Query(tuple(given.get("q", "").lower().split()), masks, order, given.get("descending") == "1")
        count = max(1, min(int(given.get("count", "50")), _MOST))
        found = index.find(query, max(0, int(given.get("start", "0"))), count)
        rows = [self._row(index, entry) for entry in found.entries]
        return {"rows": rows, "next": found.next, "matches": None if query.words else index.count(masks)}

    def _row(self, index: Index, entry: int) -> dict:
        row = page_data.row(index, entry)
        if self.comparison is not None:
            row["difference"] = self.comparison.word(entry)
        return row


def _entry(index: Index, given: dict[str, str]) -> int:
    entry = int(given.get("entry", ""))
    if not 0 <= entry < len(index):
        raise ValueError("no such record")
    return entry


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], viewer: Viewer):
        self.viewer = viewer
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write nothing: what fails here is the connection, and any program on this machine can connect."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "eexp", ""

    def do_GET(self) -> None:
        viewer = self.server.viewer
        try:
            parts = urlsplit(self.path)
        except ValueError:  # `http://[`
            parts = urlsplit("")
        token, _, what = parts.path.partition("/")[2].partition("/")
        # A page from elsewhere reaches this address by a name of its own; the Host header tells.
        hosts = (f"127.0.0.1:{viewer.port}", f"localhost:{viewer.port}")
        if self.headers.get("Host") not in hosts or not hmac.compare_digest(token.encode(), viewer.token.encode()):
            self._send(HTTPStatus.FORBIDDEN, "text/plain", b"the address is not complete: it has a token\n")
            return
        given = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        try:
            answer = viewer.answer(what, given)
        except (ValueError, KeyError):
            self._send(HTTPStatus.BAD_REQUEST, "text/plain", b"no such request\n")
            return
        except Exception as e:  # such as a file that cannot be read any more
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{e}\n".encode("utf-8", "replace"))
            return
        if answer is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"not here\n")
        else:
            self._send(HTTPStatus.OK, *answer)

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Write no line for a request."""
