"""A client's session with an MCP server that runs as a child of this process.

The protocol is spoken by `ClientSession` of the package mcp, version 1 or 2. The package's own way to start a server
would leave it behind when this process is killed, so the server is a `Child`, and this module carries the messages
between the session and the child's pipes. The session needs an event loop, which runs in a thread of its own.

What a server writes to its standard output must be messages, one a line. Anything else ends the session.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from threading import Thread
from typing import Any, TypeVar

import anyio
from mcp import ClientSession
from mcp.shared import exceptions
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCMessage, PaginatedRequestParams
from pydantic import TypeAdapter, ValidationError

from eexp.system.child import Child, ChildFailed, excerpt

#: The package's error for an answer that is an error: its name in version 2, and in version 1.
McpError: Any = getattr(exceptions, "MCPError", None) or exceptions.McpError

_MESSAGE: TypeAdapter = TypeAdapter(JSONRPCMessage)
_MOST_PAGES = 100  # of a list of tools

Result = TypeVar("Result")


class CallRefused(Exception):
    """Error raised when a server answers a call with an error of the protocol; the message is the server's."""


class McpSession:
    """A session with a server.

    Args:
        child: The server, just started. It is ended with the session.
        limit: Seconds for one answer.

    Raises:
        ChildFailed: The server did not start, or does not speak the protocol.
    """

    def __init__(self, child: Child, limit: float):
        self._child, self._limit = child, limit
        self._loop = asyncio.new_event_loop()
        self._failure: asyncio.Future[ChildFailed] = self._loop.create_future()
        self._closing = asyncio.Event()
        self._session: ClientSession
        opened = self._loop.create_future()
        self._thread = Thread(target=self._run, args=(opened,), name="eexp-mcp", daemon=True)
        self._thread.start()
        try:
            self._wait_for(lambda: opened)
            greeting = self._wait_for(lambda: self._session.initialize())
        except BaseException:
            self.close()
            raise
        self.instructions: str = greeting.instructions or ""

    def list_tools(self) -> list[dict[str, Any]]:
        """Return the server's tools as the protocol has them: `name`, `description`, `inputSchema`.

        Raises:
            ChildFailed: The server failed.
        """
        tools: list[dict[str, Any]] = []
        cursor = None
        for _ in range(_MOST_PAGES):
            params = None if cursor is None else PaginatedRequestParams(cursor=cursor)
            page = self._wait_for(lambda params=params: self._session.list_tools(params=params))
            page = page.model_dump(mode="json", by_alias=True)
            tools += page["tools"]
            cursor = page.get("nextCursor")
            if cursor is None:
                return tools
        raise ChildFailed(f"its list of tools has more than {_MOST_PAGES} pages")

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool and return its result as the protocol has it: `content`, `structuredContent`, `isError`.

        Raises:
            CallRefused: The server refused the call.
            ChildFailed: The server failed.
        """
        result = self._wait_for(lambda: self._session.call_tool(name, arguments))
        return result.model_dump(mode="json", by_alias=True)

    def close(self) -> None:
        """End the session and kill the server with all its descendants. Safe to call twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()
        self._child.end()

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _run(self, opened: asyncio.Future) -> None:
        try:
            self._loop.run_until_complete(self._serve(opened))
        finally:
            self._loop.close()

    async def _serve(self, opened: asyncio.Future) -> None:
        """Keep the session open until `close`."""
        self._received, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](math.inf)
        outgoing, unsent = anyio.create_memory_object_stream[SessionMessage](0)
        output = self._child.pipes()[1]
        self._loop.add_reader(output, self._receive)
        sender = asyncio.create_task(self._send_all(unsent))
        try:
            async with ClientSession(incoming, outgoing) as self._session:
                opened.set_result(None)
                await self._closing.wait()
        finally:
            self._loop.remove_reader(output)
            sender.cancel()
            for stream in (self._received, incoming, outgoing, unsent):
                stream.close()

    def _receive(self) -> None:
        """Hand the messages that the server has written to the session."""
        try:
            for line in self._child.lines_so_far():
                if line.strip():
                    self._received.send_nowait(SessionMessage(_message(line)))
        except ChildFailed as e:
            self._loop.remove_reader(self._child.pipes()[1])
            if not self._failure.done():
                self._failure.set_result(e)

    async def _send_all(self, unsent: Any) -> None:
        async for message in unsent:
            data = message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
            while data := self._child.write_some(data):
                await self._room()

    async def _room(self) -> None:
        """Wait until the server's standard input takes more."""
        pipe, ready = self._child.pipes()[0], asyncio.Event()
        self._loop.add_writer(pipe, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_writer(pipe)

    def _wait_for(self, request: Callable[[], Awaitable[Result]]) -> Result:
        """Run a request of the session in the thread and return its result.

        Raises:
            CallRefused: The server answered with an error.
            ChildFailed: There was no answer, or none that the protocol allows.
        """
        try:
            return asyncio.run_coroutine_threadsafe(self._answer(request), self._loop).result()
        except McpError as e:
            raise CallRefused(e.error.message) from None
        except ValidationError as e:
            first = e.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ChildFailed(f"an answer that the protocol does not allow: {place}: {first['msg']}") from None
        except RuntimeError as e:  # the package's, for an answer that breaks a promise of the server, such as a schema
            raise ChildFailed(" ".join(str(e).split())[:300]) from None

    async def _answer(self, request: Callable[[], Awaitable[Result]]) -> Result:
        answer = asyncio.ensure_future(request())
        await asyncio.wait({answer, self._failure}, timeout=self._limit, return_when=asyncio.FIRST_COMPLETED)
        if self._failure.done():
            answer.cancel()
            raise self._failure.result()
        if not answer.done():
            answer.cancel()
            raise ChildFailed(f"no answer within {self._limit:g} s (EEXP_ENV_TIMEOUT)")
        return answer.result()


def _message(line: bytes) -> Any:
    """Parse a line that the server wrote. Raises ChildFailed if it is no message."""
    try:
        return _MESSAGE.validate_json(line)
    except ValidationError:
        raise ChildFailed(f"a line on its standard output that is no message: {excerpt(line)}") from None
