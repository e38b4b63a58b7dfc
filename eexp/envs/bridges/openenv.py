"""`openenv:URL`: an environment server of OpenEnv (huggingface.co/docs/openenv; package openenv, 0.10).

An episode is played over a WebSocket, /ws: `reset`, `step` and `state` are messages on it, each with one answer. This
module uses the package websockets and not OpenEnv's own client. That client connects again by itself when the
connection was lost, and the server then has a new environment on it: the next action would be executed in an episode
that was never begun, and its outcome recorded. (Importing it also loads a web interface, for seconds in every worker.)

docs/environments/openenv.md says how actions and observations, which have types there, become text, has the options,
and the messages by which a server saves and restores states. Any answer that it does not allow is an error: nothing is
guessed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Optional
from urllib.parse import quote

import msgspec
from msgspec import Struct

from eexp.envs.base import Environment, Observation
from eexp.envs.bridges.program import PROTOCOL, SavedAnswer
from eexp.envs.bridges.server import GRACE, Server
from eexp.envs.spec_options import check_disjoint, option_error, parse_choice, parse_step_limit, parse_task_numbers
from eexp.errors import EexpError, EnvironmentFailed, InputError, NoRoom
from eexp.prompts.calls import parse_call
from eexp.records.equality import EXACT
from eexp.records.types import explain
from eexp.system.child import MAX_LINE
from eexp.system.packages import installed_by

INSTALL = "openenv needs `pip install 'eexp[openenv]'`"
SEEDS = {"train": "0-9999", "test": "1000000-1000999"}
JSON = "json"


class _Schemas(Struct):
    """The parts of /schema that are used: JSON Schemas of an action and of an observation."""

    action: dict[str, Any]
    observation: dict[str, Any]


class _Split(Struct):
    name: str
    type: str = ""


class _Count(Struct):
    num_tasks: int


class _Hello(Struct):
    """The data of an answer to `hello`, which only a server that goes beyond OpenEnv's gives."""

    protocol: int
    save: bool = False


class _Answer(Struct):
    type: str
    data: dict[str, Any]


class _StepData(Struct):
    """The data of an answer to `reset` and `step`."""

    observation: dict[str, Any]
    reward: Optional[float] = None
    done: bool = False


class _Tool(Struct):
    """A tool of MCP; which of the two names its schema has depends on where the server got the tool from."""

    name: str
    description: Optional[str] = None
    inputSchema: dict[str, Any] = {}
    input_schema: dict[str, Any] = {}

    def line(self) -> str:
        """Return the tool's name, parameters and description in one line."""
        parameters = _describe(_fields(self.inputSchema or self.input_schema))
        return f"{self.name}({parameters}): {' '.join((self.description or '').split())}"

    def schema(self) -> dict:
        """Return the tool as OpenAI's schema."""
        parameters = self.inputSchema or self.input_schema or {"type": "object", "properties": {}}
        function = {"name": self.name, "description": self.description or "", "parameters": parameters}
        return {"type": "function", "function": function}


class _Tools(Struct):
    tools: list[_Tool]


class _Listing(Struct):
    """The data of an answer to `mcp`, JSON-RPC's: no result where the server has no tools."""

    result: Optional[_Tools] = None


@dataclass(frozen=True)
class _SavedEpisode:
    """What `save` returns: the server's state, and what the session knows beside it."""

    episode: object  # that the state belongs to
    state: Any  # the value that the server gave
    at: Any  # the current observation
    reward: float


class _ActionRejected(Exception):
    """Error raised when the server rejects the data of a message, such as an action; its message has the reasons."""


class _UnknownMessage(Exception):
    """Error raised when the server does not know the type of a message."""


class OpenEnv(Environment):
    """A session on an OpenEnv server. docs/environments/openenv.md lists the options."""

    def __init__(
        self,
        url: str,
        action: str = "",
        text: str = "",
        admissible: str = "",
        instruction: str = "",
        reward: str = "last",
        tools: str = "text",
        train: str = "",
        test: str = "",
        max_steps: str = "50",
    ) -> None:
        self.spec = f"openenv:{url}"
        self._list_field, self._instruction_field = admissible, instruction
        self._adds_up = parse_choice(self.spec, "reward", reward, ("last", "sum")) == "sum"
        self._by_schema = parse_choice(self.spec, "tools", tools, ("text", "schema")) == "schema"
        self.max_steps = parse_step_limit(self.spec, max_steps)
        seeds = {split: value for split, value in (("train", train), ("test", test)) if value}
        self._seeds = {split: parse_task_numbers(self.spec, split, value) for split, value in (seeds or SEEDS).items()}
        check_disjoint(self.spec, self._seeds)
        self._server = Server(self.spec, url)
        self._socket: Any = None
        self._saves = False  # whether the server saves and restores states
        self._episode: object = None  # of which no state is valid in another episode or on another connection
        try:
            schemas = self._server.get("/schema", _Schemas)
            self._served = None if seeds else self._find_splits()
            self._connect()
            self._fields = _fields(schemas.action)
            self._tools = self._find_tools()
            if self._by_schema and not self._tools:
                raise option_error(self.spec, "tools", tools, "the server has no tools")
            self._field = self._choose_field(action, schemas.action)
        except EnvironmentFailed as e:
            raise EexpError(str(e)) from None
        observed = _fields(schemas.observation)
        only_text = [field.get("type") for field in observed.values()] == ["string"]
        self._text_field = text or (next(iter(observed)) if only_text else "")

    # -- tasks -------------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        return list(self._served if self._served is not None else self._seeds)

    def tasks(self, split: str) -> Iterator[dict]:
        self.check_split(split)
        if self._served is None:
            return ({"id": f"seed/{n}", "split": split, "seed": n} for n in self._seeds[split])
        count = self._server.post(f"/{self._name}/num_tasks", _Count, split=split).num_tasks
        return ({"id": f"{split}/{n}", "split": split, "index": n} for n in range(count))

    def _find_splits(self) -> list[str] | None:
        """Return the splits of the Task API, those for training first; None where the server has none."""
        names = self._server.get("/list_environments", list[str], absent=(404,))
        if not names:
            return None
        self._name = quote(names[0], safe="")
        splits = self._server.get(f"/{self._name}/splits", list[_Split], absent=(404, 501)) or []
        return [s.name for s in sorted(splits, key=lambda s: s.type != "train")] or None

    def reset(self, task: dict) -> Observation:
        key = "index" if "index" in task else "seed"
        if type(task.get(key)) is not int or task[key] < 0:
            raise InputError(f"expected a number, got {task.get(key)!r}", f"$.task.{key}")
        if self._socket is None:
            self._connect()
        fields = {"split": task.get("split"), key: task[key]} if key == "index" else {key: task[key]}
        try:
            self._at = self._ask("reset", fields, _StepData)
        except _ActionRejected as e:
            self._fail("reset", str(e))
        self._episode = object()
        self._reward = self._at.reward or 0.0
        goal = self._at.observation.get(self._instruction_field, "") if self._instruction_field else ""
        self._instruction = "\n".join(filter(None, [str(goal), "" if self._by_schema else self._how_to_act()]))
        first = self._to_observation()
        return replace(first, tools=[tool.schema() for tool in self._tools]) if self._by_schema else first

    def instruction(self) -> str:
        return self._instruction

    # -- acting ------------------------------------------------------------------------------------------------------

    def step(self, action: str) -> Observation:
        if self._socket is None:
            raise EnvironmentFailed(f"{self.spec}: step: no episode is running; `reset` starts one")
        if self._at.done:
            return Observation("The episode is over.", True, self._score(), valid=False)
        try:
            self._at = self._ask("step", self._typed(action), _StepData)
        except _ActionRejected as e:
            return Observation(str(e), score=self._score(), valid=False)
        reward = self._at.reward or 0.0
        self._reward = self._reward + reward if self._adds_up else reward
        return self._to_observation()

    def admissible(self) -> list[str] | None:
        if self._at.done:
            return []
        if not self._list_field:
            enumerated = self._fields.get(self._field or "", {}).get("enum")
            return None if enumerated is None else [_as_action(value) for value in enumerated]
        listed = self._at.observation.get(self._list_field)
        if not isinstance(listed, list):
            self._fail("admissible", f"observation.{self._list_field}: expected a list, got {listed!r}")
        return [_as_action(value) for value in listed]

    def _to_observation(self) -> Observation:
        valid = not (self._tools and self._at.observation.get("error"))
        return Observation(self._text(), self._at.done, self._score(), valid)

    def _text(self) -> str:
        """Return the text of the current observation."""
        fields = self._at.observation
        if self._text_field:
            if not isinstance(fields.get(self._text_field), str):
                self._fail("answer", f"observation.{self._text_field}: expected a string")
            return fields[self._text_field]
        without_metadata = {name: value for name, value in fields.items() if name != "metadata"}
        return json.dumps(without_metadata or fields, ensure_ascii=False)

    def _score(self) -> float | None:
        return self._reward if 0 <= self._reward <= 1 else None

    # -- states ------------------------------------------------------------------------------------------------------

    def why_no_copy(self) -> str | None:
        return None if self._saves else "the server does not offer `save` and `restore`"

    def save(self) -> _SavedEpisode:
        saved = self._ask_for_states("save", {}, SavedAnswer)
        return _SavedEpisode(self._episode, saved.state, self._at, self._reward)

    def restore(self, state: _SavedEpisode) -> None:
        self._check_episode("restore", state)
        self.restore_as_it_is(state)

    def restore_as_it_is(self, state: _SavedEpisode) -> None:
        """Restore a state of any episode and session, as far as the server does, for the check of its conformance."""
        self._ask_for_states("restore", {"state": state.state}, dict)
        self._at, self._reward = state.at, state.reward

    def release(self, state: _SavedEpisode) -> None:
        self._check_episode("release", state)
        self._ask_for_states("release", {"state": state.state}, dict)

    def _check_episode(self, what: str, state: _SavedEpisode) -> None:
        """Raise EnvironmentFailed for a state of another episode, whatever the server would answer."""
        if self._socket is not None and state.episode is not self._episode:
            raise EnvironmentFailed(f"{self.spec}: {what}: the state belongs to an episode that is over")

    def _ask_for_states(self, what: str, data: dict, shape: Any) -> Any:
        """Send a message about states and return the data of its answer."""
        if self._socket is None:
            raise EnvironmentFailed(f"{self.spec}: {what}: no episode is running; `reset` starts one")
        if not self._saves:
            raise EnvironmentFailed(f"{self.spec}: {what}: {self.why_no_copy()}")
        try:
            return self._ask(what, data, shape, what)
        except (_ActionRejected, _UnknownMessage) as e:
            self._fail(what, str(e))

    def _find_whether_it_saves(self) -> bool:
        """Ask whether the server saves and restores states."""
        try:
            hello = self._ask("hello", {"protocol": PROTOCOL}, _Hello, "hello")
        except _UnknownMessage:  # a server like OpenEnv's own
            return False
        except _ActionRejected as e:
            self._fail("hello", str(e))
        if hello.protocol != PROTOCOL:
            self._fail("answer to hello", f"$.protocol: {hello.protocol}; this eexp speaks {PROTOCOL}")
        return hello.save

    # -- actions -----------------------------------------------------------------------------------------------------

    def _choose_field(self, option: str, schema: dict) -> str | None:
        """Return the field of an action that the text goes into; None where the text is the whole action, in JSON."""
        if option in self._fields:
            return option
        if option and option != JSON:
            fields = ", ".join([*self._fields, JSON])
            raise option_error(self.spec, "action", option, f"no such field; there are: {fields}")
        required = [name for name in self._fields if name in schema.get("required", [])]
        return required[0] if len(required) == 1 and not option and not self._tools else None

    def _typed(self, action: str) -> dict:
        """Return an action as the server expects it. Raises _ActionRejected if it is not the JSON object it must be."""
        if self._field is not None:
            if self._fields[self._field].get("type") == "string":
                return {self._field: action}
            with suppress(ValueError):
                return {self._field: json.loads(action)}
            return {self._field: action}  # the server will reject it with its reasons
        if self._by_schema:
            try:
                name, _, arguments = parse_call(action.strip())
            except ValueError as e:
                raise _ActionRejected(f"{e}.") from None
            return {"type": "call_tool", "tool_name": name, "arguments": arguments}
        try:
            fields = json.loads(action)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise _ActionRejected(self._how_to_act())
        return {"type": "call_tool", **fields} if self._tools else fields

    def _how_to_act(self) -> str:
        """Return the part of the instruction that says what an action looks like."""
        if self._field is not None:
            return ""
        if not self._tools:
            return f"An action is a JSON object with {_describe(self._fields)}."
        form = '{"tool_name": "...", "arguments": {...}}'
        listed = [tool.line() for tool in self._tools]
        return "\n".join([f"An action is the call of a tool in JSON, {form}. The tools:", *listed])

    def _find_tools(self) -> list[_Tool]:
        """Return the server's tools; none where it does not support MCP."""
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        result = self._ask("mcp", request, _Listing).result
        return result.tools if result else []

    # -- the session -------------------------------------------------------------------------------------------------

    def action_equality(self) -> str:
        return EXACT

    def close(self) -> None:
        self._hang_up()
        self._server.close()

    def _connect(self) -> None:
        """Begin a session.

        A session that was closed a moment ago may still take room, so a full server is asked again for GRACE seconds.

        Raises:
            NoRoom: The server stays full.
        """
        deadline = time.monotonic() + GRACE
        while self._socket is None:
            self._open_socket()
            try:
                self._ask("state", None, dict)  # a server that is full says so only when it is asked something
                self._saves = self._find_whether_it_saves()
            except NoRoom:
                if time.monotonic() > deadline:
                    raise
                time.sleep(GRACE / 10)

    def _open_socket(self) -> None:
        with installed_by(INSTALL):
            from websockets.exceptions import WebSocketException
            from websockets.sync.client import connect
        url = self._server.url.replace("http", "ws", 1) + "/ws"
        try:
            self._socket = connect(
                url,
                open_timeout=self._server.limit,
                close_timeout=GRACE,
                max_size=MAX_LINE,
                additional_headers=self._server.headers,
            )
        except (OSError, WebSocketException) as e:  # TimeoutError is an OSError
            raise EnvironmentFailed(f"{self.spec}: /ws: {type(e).__name__}: {e}") from None

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, what: str, data: dict | None, shape: Any, kind: str = "") -> Any:
        """Send a message and return the data of its answer.

        Args:
            shape: The type of the answer's data.
            kind: The type that the answer must have; empty for any.

        Raises:
            EnvironmentFailed: The server failed; unless it is only this request that failed, the session is closed.
            _ActionRejected: The server rejects the data.
            _UnknownMessage: The server does not know this type of message; only where `kind` is given.
            NoRoom: The server is full.
        """
        from websockets.exceptions import ConnectionClosed, WebSocketException

        message = {"type": what} if data is None else {"type": what, "data": data}
        try:
            with suppress(ConnectionClosed):  # a server that refuses a session closes it; its reason can still be read
                self._socket.send(json.dumps(message))
            received = self._socket.recv(timeout=self._server.limit)
        except TimeoutError:
            self._fail(what, f"no answer within {self._server.limit:g} s (EEXP_ENV_TIMEOUT)")
        except (OSError, WebSocketException) as e:
            self._fail(what, f"{type(e).__name__}: {e}")
        try:
            answer = msgspec.json.decode(received, type=_Answer)
            if answer.type != "error":
                if kind not in ("", answer.type):
                    self._fail(f"answer to {what}", f"$.type: expected {kind!r}, got {answer.type!r}")
                return msgspec.convert(answer.data, shape)
        except msgspec.ValidationError as e:
            self._fail(f"answer to {what}", str(explain(str(e))))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._fail(f"answer to {what}", f"not JSON: {received[:80]!r}")
        code, message_text = answer.data.get("code"), " ".join(str(answer.data.get("message")).split())
        if code == "VALIDATION_ERROR":
            raise _ActionRejected(_reasons(answer.data.get("errors")) or message_text)
        if code == "UNKNOWN_TYPE" and kind:
            raise _UnknownMessage(f"{message_text} ({code})")
        if code == "EXECUTION_ERROR":  # the session can go on
            raise EnvironmentFailed(f"{self.spec}: {what}: {message_text}")
        if code == "CAPACITY_REACHED":
            self._hang_up()
            advice = "a server has room for one unless it is started with more"
            raise NoRoom(f"{self.spec}: {message_text} ({code}); {advice}")
        self._fail(what, f"{message_text} ({code})")

    def _fail(self, what: str, message: str) -> NoReturn:
        self._hang_up()
        raise EnvironmentFailed(f"{self.spec}: {what}: {message}")


# -- JSON Schema, as pydantic writes it ------------------------------------------------------------------------------


def _fields(schema: dict) -> dict[str, dict]:
    """Return the schemas of an object's fields, without constants and the fields that every object of OpenEnv has."""
    shared = ("metadata", "done", "reward")
    fields = {name: _resolve(field, schema) for name, field in (schema.get("properties") or {}).items()}
    return {name: field for name, field in fields.items() if name not in shared and "const" not in field}


def _resolve(field: dict, schema: dict) -> dict:
    """Return the schema of a field with its `$ref` (to an Enum, for instance) replaced by what it refers to."""
    where = field.get("$ref", "").removeprefix("#/$defs/")
    return {**schema.get("$defs", {}).get(where, {}), **field}


def _describe(fields: dict[str, dict]) -> str:
    """Return fields as text: `row (integer), mode (one of "a", "b")`."""
    return ", ".join(f"{name} ({_type(field)})" for name, field in fields.items()) or "no fields"


def _type(field: dict) -> str:
    if "enum" in field:
        return "one of " + ", ".join(json.dumps(value) for value in field["enum"])
    return field.get("type") or " or ".join(_type(kind) for kind in field.get("anyOf", [])) or "anything"


def _as_action(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _reasons(errors: Any) -> str:
    """Return pydantic's reasons as text: `column: Input should be a valid integer`."""
    reasons = [e for e in errors or [] if isinstance(e, dict)]
    return "; ".join(": ".join([".".join(map(str, e.get("loc", []))), str(e.get("msg"))]) for e in reasons)
