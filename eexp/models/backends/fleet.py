"""One model at several servers: which request goes to which of them, and what happens where one of them fails.

Requests that belong together, such as those of all states of a trajectory, go along one route, and so to one server,
whose cache has the beginnings that their prompts share. A route begins at the server with the fewest calls for its
weight. It moves only when its server fails, or asks for a pause. The request itself, its seed included, is the same
wherever it goes, so servers of one kind give the same answer.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from eexp.errors import EexpError, InputError, ServerFailed
from eexp.models.backends import client as clients
from eexp.models.backends.chat_answers import Completion
from eexp.models.backends.client import KEY_VARIABLES, Client, EventLoop, Unavailable
from eexp.models.backends.fleet_file import FleetServer, FleetSpec
from eexp.models.backends.http import AHEAD, Route, ServerModel
from eexp.models.backends.served_model import ServedModel, examine

CHECK = 30.0  # seconds for the examination of a server
MOST_FAILURES = 3  # in a row, of whatever requests, after which a server is left out
PATIENCE = 2.0  # seconds of a pause for which a route waits at its server rather than moving to another one
LOOK_AGAIN = 0.5  # seconds between looks at whether a pause is over, or another server is free
SHOWN = 3  # times that a server's failure and its return are shown; the summary counts all


class _Member:
    """A server of a fleet, with its state and what it has done.

    Attributes:
        ready: Whether it gets requests: it has been examined since it failed.
        refused: Whether it serves another model than the others.
        busy: Whether it could not be examined because it had too much to do.
        reason: Why it is not ready.
        calls: Open calls of the routes that go to it.
        lasting: Number of lasting routes that go to it.
        in_a_row: Failures since its last answer.
        examinations: How often it was examined in vain since it failed.
        pause: Seconds until the next examination.
    """

    def __init__(self, server: FleetServer, loop: EventLoop):
        variables = KEY_VARIABLES if server.key_variable is None else (server.key_variable,)
        self.weight = server.weight
        self.client = Client(
            server.url,
            concurrency=server.concurrency,
            timeout=server.timeout,
            tries=server.tries,
            rpm=server.rpm,
            retry_after=server.retry_after,
            name=server.name or None,
            key_variables=variables,
            loop=loop,
        )
        self.name = self.client.name
        self.ready = self.refused = self.busy = False
        self.reason = ""
        self.calls = self.lasting = self.in_a_row = self.examinations = 0
        self.pause = clients.FIRST_PAUSE
        self._down_since: float | None = None
        self._seconds_down = 0.0
        self._reports_cache = False
        self.done: Counter[str] = Counter()

    def go_down(self, reason: str) -> None:
        """Leave it out, from now on."""
        self.ready, self.reason, self.examinations = False, reason, 0
        self._down_since = time.monotonic()
        self.done["failures"] += 1

    def come_up(self) -> float:
        """Let it take part; return the seconds for which it did not."""
        down = 0.0 if self._down_since is None else time.monotonic() - self._down_since
        self._seconds_down, self._down_since = self._seconds_down + down, None
        self.ready, self.reason, self.in_a_row = True, "", 0
        return down

    @property
    def given_up(self) -> bool:
        """Whether it has been down for as long as a single server would be waited for."""
        return not self.ready and self.examinations >= self.client.tries - 1

    def count(self, completion: Completion) -> None:
        """Add what an answer cost."""
        self.done["requests"] += 1
        self.done["prompt tokens"] += completion.prompt_tokens
        self.done["tokens written"] += completion.written_tokens
        self._reports_cache = self._reports_cache or completion.cached_tokens is not None
        self.done["cached"] += completion.cached_tokens or 0

    def summary(self) -> str:
        """Return what it has done, in words."""
        done, down = self.done, self._seconds_down
        if self._down_since is not None:
            down += time.monotonic() - self._down_since
        cached = f" ({done['cached']} from its cache)" if self._reports_cache else ""
        parts = [
            f"{done['requests']} request{'s' * (done['requests'] != 1)}",
            f"{done['prompt tokens']} prompt tokens{cached}",
            f"{done['tokens written']} tokens written",
            f"{done['retries']} sent again",
            f"down for {down:.0f} s" if down or done["failures"] else "never down",
        ]
        return f"{self.name}: {', '.join(parts)}" + (f"; left out at the end: {self.reason}" * (not self.ready))


@dataclass(eq=False)
class FleetRoute:
    """What calls have in common that go to the same server.

    Attributes:
        fleet: The servers.
        lasting: Whether one call follows another, rather than all being made at once.
        member: The server; None before the first call, and while there is none.
        calls: The number of open calls.
    """

    fleet: Fleet
    lasting: bool
    member: _Member | None = None
    calls: int = 0

    def leave(self) -> None:
        self.fleet.move(self, None)


class _Request:
    """A request that is being made.

    Attributes:
        attempts: Attempts that have failed, by server.
        faults: Those of them that were no pauses which the server asked for.
        reasons: The last failure at each server.
    """

    def __init__(self) -> None:
        self.attempts: Counter[_Member] = Counter()
        self.faults: Counter[_Member] = Counter()
        self.reasons: dict[_Member, str] = {}

    def may_go_to(self, member: _Member) -> bool:
        """Return whether a server may be tried, now or once it is back."""
        return self.attempts[member] < member.client.tries


class Fleet:
    """Servers of one model.

    Args:
        spec: Which they are.
        note: Shows the user a remark.

    Attributes:
        model: What a server says of the model. All servers that take part serve this one.
        members: The servers.

    Raises:
        UsageError: An address or a key cannot be used.
    """

    model: ServedModel

    def __init__(self, spec: FleetSpec, note: Callable[[str], None]):
        self._spec, self._note = spec, note
        self._loop = EventLoop()
        self.members = [_Member(server, self._loop) for server in spec.servers]
        self._lock = threading.Lock()  # of what both this thread and the loop's change: routes and the calls along them
        self._changed: asyncio.Event | None = None
        self._returning: set[asyncio.Task[None]] = set()
        self._jitter = random.Random()

    def open(self) -> None:
        """Examine all servers, and leave out those that do not answer.

        Raises:
            ServerFailed: None answers, or two serve different models.
        """
        self._loop.start(self._examine_all()).result()

    def close(self) -> None:
        """Cancel the requests under way and close the connections. Safe to call twice."""
        self._loop.close(*(member.client.disconnect for member in self.members))

    # -- routes ------------------------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, Completion], route: FleetRoute) -> Future[Completion]:
        """Start the work of a call, whose requests go along a route."""
        with self._lock:
            self._bind(route, route.member or self._best(route, _Request()))
            self._add_calls(route, 1)
        future = self._loop.start(work)
        future.add_done_callback(lambda _: self._end(route))
        return future

    def _end(self, route: FleetRoute) -> None:
        with self._lock:
            self._add_calls(route, -1)

    def move(self, route: FleetRoute, member: _Member | None) -> None:
        """Let a route go to another server, or to none."""
        with self._lock:
            self._bind(route, member)

    def _add_calls(self, route: FleetRoute, n: int) -> None:
        route.calls += n
        if route.member:
            route.member.calls += n

    def _bind(self, route: FleetRoute, member: _Member | None) -> None:
        if route.member is member:
            return
        for end, sign in ((route.member, -1), (member, 1)):
            if end:
                end.calls += sign * route.calls
                end.lasting += sign * route.lasting
        route.member = member

    def _best(self, route: FleetRoute, request: _Request) -> _Member | None:
        """Return the server that a request along a route should go to; None where there is none at the moment."""
        usable = [member for member in self.members if member.ready and request.may_go_to(member)]
        stays = None if self._is_crowded(route, usable) else route.member

        def rank(member: _Member) -> tuple:
            pause = member.client.paused_for
            work = member.lasting if route.lasting else member.calls
            return (
                pause if pause > PATIENCE else 0.0,
                request.faults[member],
                member is not stays,
                (work + 1) / member.weight,
            )

        return min(usable, key=rank, default=None)

    @staticmethod
    def _is_crowded(route: FleetRoute, usable: Iterable[_Member]) -> bool:
        """Return whether a lasting route should leave its server, because another one has room for it.

        Only lasting ones do, which would else all stay at the servers that were there when they began.
        """
        own = route.member
        if own is None or not route.lasting:
            return False
        share = (own.lasting - 1) / own.weight
        return any((member.lasting + 1) / member.weight <= share for member in usable if member is not own)

    def has_room(self) -> bool:
        """Return whether a server could begin with a further call."""
        return any(member.ready and member.calls < member.client.concurrency for member in self.members)

    # -- requests, inside the loop -----------------------------------------------------------------------------------

    async def post(self, body: dict[str, Any], route: FleetRoute) -> Completion:
        """Return the answer of the route's server to a chat, or that of another one if it fails.

        Raises:
            InputError: A server refuses the content of the request.
            ServerFailed: No server can be used.
        """
        request = _Request()
        while True:
            with self._lock:
                member = self._best(route, request)
                if member is not None:
                    self._bind(route, member)
            if member is None:
                await self._wait_for_a_server(request)
                continue
            pause = 0.0
            async with member.client.slots:
                if not member.ready or route.member is not member:  # while this one waited
                    continue
                if (paused := member.client.paused_for) > 0:
                    await asyncio.sleep(min(paused, LOOK_AGAIN))
                    continue
                await member.client.turn()
                try:
                    completion = await member.client.attempt("POST", "/chat/completions", Completion, body)
                    if not completion.choices:
                        raise ServerFailed(f"{member.name}: an answer without choices")
                except InputError:
                    member.in_a_row = 0
                    member.done["requests"] += 1
                    raise
                except ServerFailed as e:
                    pause = self._take_failure(member, request, e)
                else:
                    member.in_a_row, member.pause = 0, clients.FIRST_PAUSE
                    member.count(completion)
                    return completion
            await asyncio.sleep(pause)

    def _take_failure(self, member: _Member, request: _Request, failure: ServerFailed) -> float:
        """Note that an attempt has failed, and return the seconds to wait before the next one."""
        request.attempts[member] += 1
        request.reasons[member] = str(failure)
        member.done["retries"] += 1
        if isinstance(failure, Unavailable) and (failure.status == 429 or failure.retry_after is not None):
            return member.client.pause_after(request.attempts[member], failure)
        request.faults[member] += 1
        member.in_a_row += 1
        passing = isinstance(failure, Unavailable) and failure.connected and member.in_a_row < MOST_FAILURES
        if not passing:
            self._leave_out(member, str(failure))
            return 0.0
        others = [m for m in self.members if m.ready and m is not member and request.may_go_to(m)]
        if any(request.faults[other] < request.faults[member] for other in others):
            return 0.0  # the next attempt is at another one
        assert isinstance(failure, Unavailable)
        return member.client.pause_after(request.attempts[member], failure)

    async def _wait_for_a_server(self, request: _Request) -> None:
        """Wait until something has changed in the state of the servers.

        Raises:
            ServerFailed: It is of no use to wait: the request has failed at all servers as often as it may, or they
                have been down for as long as one server would be waited for.
        """
        if all(member.given_up or not request.may_go_to(member) for member in self.members):
            reasons = [
                request.reasons.get(m, m.reason) + (f" (tried {request.attempts[m]} times)" * (request.attempts[m] > 1))
                for m in self.members
            ]
            raise ServerFailed(f"no server of the fleet can be used: {'; '.join(reasons)}")
        self._changed = self._changed or asyncio.Event()
        await self._changed.wait()

    # -- examinations, inside the loop -------------------------------------------------------------------------------

    async def _examine_all(self) -> None:
        """Examine all servers at once; where none is ready, wait for those that are busy as a single one would be."""
        found = await asyncio.gather(*(self._examine(member, 1) for member in self.members))
        if not any(found):
            busy = [member for member in self.members if member.busy]
            later = await asyncio.gather(*(self._examine(member, None) for member in busy))
            found = [dict(zip(busy, later)).get(member) for member in self.members]
        ready = [(member, model) for member, model in zip(self.members, found) if model]
        if not ready:
            raise ServerFailed(f"no server of the fleet can be used: {'; '.join(m.reason for m in self.members)}")
        (first, self.model), *others = ready
        for member, model in others:
            if difference := self.model.difference(model):
                raise ServerFailed(f"{first.name} and {member.name} do not serve the same model: {difference}")
        for member, model in zip(self.members, found):
            if model:
                member.come_up()
            else:
                member.go_down(member.reason)
                self._try_again_later(member)

    async def _examine(self, member: _Member, tries: int | None) -> ServedModel | None:
        """Return what a server says of its model; None, with the reason in the member, where it cannot be used."""
        name = self.model.name if hasattr(self, "model") else self._spec.model
        limit = CHECK if tries else None
        member.busy = False
        try:
            return await asyncio.wait_for(examine(member.client, name, tries), limit)
        except (asyncio.TimeoutError, TimeoutError):
            member.reason = f"{member.name}: no answer to the check within {limit:g} s"
        except EexpError as e:
            member.reason = str(e)
            member.busy = isinstance(e, Unavailable) and e.connected
        return None

    def _leave_out(self, member: _Member, reason: str) -> None:
        """Give a server no further requests until it has been examined."""
        if not member.ready:
            return
        member.go_down(reason)
        if member.done["failures"] <= SHOWN:
            others = sum(m.ready for m in self.members)
            self._note(f"left out for now: {reason}; " + ("others go on" if others else "no server is left: waiting"))
        self._try_again_later(member)

    def _try_again_later(self, member: _Member) -> None:
        task = asyncio.ensure_future(self._return(member))
        self._returning.add(task)  # or nothing would hold it
        task.add_done_callback(self._returning.discard)

    async def _return(self, member: _Member) -> None:
        """Examine a server, later each time, until it can be used again."""
        while not member.ready:
            await asyncio.sleep(member.pause * self._jitter.uniform(0.5, 1.0))
            member.pause = min(clients.LONGEST_PAUSE, 2 * member.pause)
            model = await self._examine(member, 1)
            difference = model and self.model.difference(model)
            if model and not difference:
                seconds = member.come_up()
                if member.done["failures"] <= SHOWN:
                    self._note(f"{member.name} is back after {seconds:.0f} s")
            else:
                member.examinations += 1
                if difference:
                    self._refuse(member, difference)
            if changed := self._changed:
                self._changed = None
                changed.set()

    def _refuse(self, member: _Member, difference: str) -> None:
        """Say once that a server that has come back, or come late, serves another model than the others."""
        member.reason = f"{member.name}: does not serve the same model as the others: {difference}"
        if not member.refused:
            self._note(f"left out: {member.reason}")
        member.refused = True


class FleetModel(ServerModel):
    """One model at several OpenAI-compatible servers.

    Its fingerprint is that of the model at the first server alone: which servers take part decides nothing in the
    records, and may change from one run to the next that resumes it.

    Args:
        spec: The servers.
    """

    ahead = 4 * AHEAD  # so that a slow server's answers keep a fast one waiting less

    def __init__(self, spec: FleetSpec):
        super().__init__(spec.spec, "the fleet", spec.model, 1)
        self._fleet = fleet = Fleet(spec, lambda text: self.note(text))
        try:
            fleet.open()
        except BaseException:
            fleet.close()
            raise
        self._name, self._logprobs = fleet.model.name, fleet.model.has_logprobs
        self.concurrency = sum(member.client.concurrency for member in fleet.members)
        self.fingerprint = spec.recorded_as or f"{fleet.members[0].client.url}#{self._name}"
        names = ", ".join(member.name for member in fleet.members)
        absent = [f"; left out for now: {member.reason}" for member in fleet.members if not member.ready]
        self.settings = f"{self._name} at {len(fleet.members)} servers: {names}{''.join(absent)}"
        self._has_summary = False

    def new_route(self, lasting: bool = False) -> FleetRoute:
        return FleetRoute(self._fleet, lasting)

    def run(self, work: Coroutine[Any, Any, Completion], route: Route | None) -> Future[Completion]:
        assert isinstance(route, FleetRoute)  # from new_route
        return self._fleet.run(work, route)

    def has_room(self, calls: int) -> bool:
        return calls == 0 or self._fleet.has_room()  # with no open call, it would wait for nothing

    async def post(self, body: dict[str, Any], route: Route | None) -> Completion:
        assert isinstance(route, FleetRoute)
        return await self._fleet.post(body, route)

    async def find_plain_sampling(self) -> dict[str, Any]:
        if self._fleet.model.plain is None:
            self.warn_of_truncation(self.server)
        return self._fleet.model.plain or {}

    def close(self) -> None:
        self._fleet.close()
        if not self._has_summary and any(member.done["requests"] for member in self._fleet.members):
            self._has_summary = True
            for member in self._fleet.members:
                self.note(member.summary())
