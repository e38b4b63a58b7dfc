"""`exec:COMMAND`: an environment that is a program in any language, one JSON object a line.

A request is written to the program's standard input, and the program writes the answer to its standard output. Its
standard error is that of this process. docs/environments/programs.md is the reference of the protocol, and examples/
has two programs that speak it. Requests are compact, with `op` first and the free text last, so that a shell script can
parse them by patterns alone.

A program inherits the environment variables of this process, without the keys of model servers (eexp/envs/logins.py).

A program that dies, hangs or breaks the protocol costs the record it was working on: the next `reset` starts it anew.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
from msgspec import Meta, Struct

from eexp.envs.base import Environment, Observation
from eexp.envs.logins import environment_without_keys, with_logins
from eexp.errors import EexpError, EnvironmentFailed, UsageError
from eexp.records.types import Tool, explain
from eexp.system.child import Child, ChildFailed, NotStarted, excerpt, time_limit

PROTOCOL = 1
GRACE = 1.0  # seconds that a program may take to end by itself after `close`


class HelloAnswer(Struct):
    """The answer to `hello`: what the program is called and what it can do."""

    protocol: int
    splits: Annotated[list[str], Meta(min_length=1)]
    name: str = ""
    max_steps: Annotated[int, Meta(ge=1)] = Environment.max_steps
    expert: bool = False
    admissible: bool = False
    save: bool = False
    harmless: list[str] = []
    masks: list[str] = []
    action_equality: Literal["exact", "words"] = "exact"


class TasksAnswer(Struct):
    """The answer to `tasks`: the tasks, or how many there are if their ids are "SPLIT/0", "SPLIT/1", ..."""

    tasks: Annotated[int, Meta(ge=0)] | list[dict[str, Any]]


class StateAnswer(Struct):
    """The answer to `reset` and `step`: the state of the episode."""

    observation: str
    instruction: str = ""
    done: bool = False
    score: Annotated[float, Meta(ge=0, le=1)] | None = None
    valid: bool = True
    success: bool | None = None
    admissible: list[str] | None = None
    tools: list[Tool] | None = None

    def to_observation(self) -> Observation:
        """Return the answer as an Observation."""
        tools = None if self.tools is None else msgspec.to_builtins(self.tools)
        return Observation(self.observation, self.done, self.score, self.valid, self.success, tools=tools)


class AdmissibleAnswer(Struct):
    """The answer to `admissible`; null where the current state has no list."""

    admissible: list[str] | None


class ExpertAnswer(Struct):
    """The answer to `expert`; null where the program knows no action."""

    action: str | None


class SavedAnswer(Struct):
    """The answer to `save`: any value that the program understands when `restore` sends it back."""

    state: Any


class RestoredAnswer(Struct):
    """The answer to `restore`: an empty object."""


Answer = TypeVar("Answer", bound=Struct)


class Program(Environment):
    """The environment of `exec:COMMAND`. COMMAND is split as a shell would split it, and run without a shell."""

    def __init__(self, spec: str):
        self.spec = spec
        self._argv = _split(with_logins(spec))
        self._limit = time_limit()
        self._child: Child | None = None
        self._instruction = ""
        self._admissible: list[str] | None = None
        try:
            self._start()
        except EnvironmentFailed as e:
            raise EexpError(str(e)) from None

    def splits(self) -> list[str]:
        return list(self._hello.splits)

    def tasks(self, split: str) -> Iterator[dict]:
        self.check_split(split)
        self._ensure_running()
        answer = self._ask(TasksAnswer, "tasks", split=split)
        return self._with_split(answer, split)

    def _with_split(self, answer: TasksAnswer, split: str) -> Iterator[dict]:
        if isinstance(answer.tasks, int):
            yield from ({"id": f"{split}/{n}", "split": split} for n in range(answer.tasks))
            return
        for n, task in enumerate(answer.tasks):
            if not isinstance(task.get("id"), str):
                self._fail("answer to tasks", f"$.tasks[{n}].id: expected a string")
            yield {"id": task["id"], **task, "split": split}

    def reset(self, task: dict) -> Observation:
        self._ensure_running()
        state = self._ask(StateAnswer, "reset", task=task)
        self._instruction, self._admissible = state.instruction, state.admissible
        return state.to_observation()

    def step(self, action: str) -> Observation:
        state = self._ask(StateAnswer, "step", action=action)
        self._admissible = state.admissible
        return state.to_observation()

    def instruction(self) -> str:
        return self._instruction

    def admissible(self) -> list[str] | None:
        if self._admissible is None and self._hello.admissible:
            self._admissible = self._ask(AdmissibleAnswer, "admissible").admissible
        return None if self._admissible is None else list(self._admissible)

    def expert(self) -> str | None:
        return self._ask(ExpertAnswer, "expert").action if self._hello.expert else None

    def has(self, method: str) -> bool:
        if method in ("save", "restore"):
            return self._hello.save
        if method == "expert":
            return self._hello.expert
        return bool(self._harmless) if method == "harmless" else super().has(method)

    def save(self) -> tuple:
        return self._ask(SavedAnswer, "save").state, self._instruction, self._admissible

    def restore(self, state: tuple) -> None:
        self.restore_as_it_is(state)

    def restore_as_it_is(self, state: tuple) -> None:
        """Restore a state of any episode and process, as far as the program does."""
        program_state, self._instruction, self._admissible = state
        self._ask(RestoredAnswer, "restore", state=program_state)

    def harmless(self, action: str) -> bool:
        return any(pattern.fullmatch(action) for pattern in self._harmless)

    def action_equality(self) -> str:
        return self._hello.action_equality

    def mask(self, text: str) -> str:
        for pattern in self._masks:
            text = pattern.sub("*", text)
        return text

    def close(self) -> None:
        if self._child is not None:
            self._child.notify(_request("close"))
            self._child.end(GRACE)
            self._child = None

    def _ensure_running(self) -> None:
        if self._child is None or not self._child.usable:
            self._start()

    def _start(self) -> None:
        try:
            self._child = Child(self._argv, env=environment_without_keys())
            self._hello = self._ask(HelloAnswer, "hello", protocol=PROTOCOL)
        except (OSError, ValueError, NotStarted) as e:  # ValueError: a NUL byte in the command
            self._child = None
            reason = getattr(e, "strerror", None) or e
            raise UsageError(f"{self.spec}: cannot start {self._argv[0]!r}: {reason}") from None
        if self._hello.protocol != PROTOCOL:
            self._fail("answer to hello", f"$.protocol: {self._hello.protocol}; this eexp speaks {PROTOCOL}")
        self.max_steps = self._hello.max_steps
        self.__doc__ = self._hello.name
        self._masks = self._patterns("masks")
        self._harmless = self._patterns("harmless")

    def _patterns(self, key: str) -> list[re.Pattern]:
        try:
            return [re.compile(pattern) for pattern in getattr(self._hello, key)]
        except re.error as e:
            self._fail("answer to hello", f"$.{key}: {e.pattern!r} is no regular expression: {e}")

    def _ask(self, shape: type[Answer], op: str, **fields: Any) -> Answer:
        """Send a request and return the answer, which is of the type `shape`.

        Raises:
            EnvironmentFailed: The program failed or broke the protocol; in that case it was ended.
        """
        if self._child is None or not self._child.usable:
            raise EnvironmentFailed(f"{self.spec}: {op}: the program is not running; `reset` starts it")
        try:
            line = self._child.ask(_request(op, **fields), self._limit)
        except NotStarted:
            raise
        except ChildFailed as e:
            self._fail(op, str(e))
        try:
            answer = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._fail(f"answer to {op}", f"not JSON: {excerpt(line)}", line)
        if not isinstance(answer, dict):
            self._fail(f"answer to {op}", f"expected an object, got {excerpt(line)}", line)
        if "error" in answer:  # a regular answer: the program works and need not be started anew
            raise EnvironmentFailed(f"{self.spec}: {op}: {_one_line(answer['error'])}")
        try:
            return msgspec.convert(answer, shape)
        except msgspec.ValidationError as e:
            self._fail(f"answer to {op}", str(explain(str(e))), line)

    def _fail(self, what: str, message: str, line: bytes = b"") -> NoReturn:
        if self._child is not None:
            self._child.end()
            self._child = None
        evidence = {"answer": line[:2000].decode("utf-8", "replace")} if line else None
        raise EnvironmentFailed(f"{self.spec}: {what}: {message}", evidence=evidence)


def _split(spec: str) -> list[str]:
    try:
        argv = shlex.split(spec.removeprefix("exec:"))
    except ValueError as e:
        raise UsageError(f"{spec}: {e}") from None
    if not argv:
        raise UsageError(f"{spec!r} names no command; write exec:COMMAND")
    return argv


def _request(op: str, **fields: Any) -> bytes:
    text = json.dumps({"op": op, **fields}, ensure_ascii=False, separators=(",", ":"))
    # "backslashreplace" writes a lone surrogate as \udc80, which happens to be its escape in JSON.
    return text.encode("utf-8", "backslashreplace")


def _one_line(error: Any) -> str:
    text = error if isinstance(error, str) else json.dumps(error)
    return " ".join(text.split())[:500] or "an error without a message"
