"""`mcp:COMMAND?tasks=FILE`: the tools of an MCP server (modelcontextprotocol.io), with tasks of yours.

COMMAND starts a server that speaks the protocol over its standard input and output. It is split as a shell would split
it, and run without a shell. docs/environments/mcp.md has the options, the actions, and what a branch begins with, which
depends on where the server keeps its state.

Every episode has a directory of its own, in which the server runs, and {dir} in COMMAND stands for it. It begins as a
copy of the directory that the option `files` names. Its path is another one in each process, so agents see it as
/workspace, in answers as in arguments.

Tools that the server declares read-only (`readOnlyHint`) are harmless: they are executed in place. Answers that the
server marks as errors are not valid. A server that ends, hangs or breaks the protocol costs the record it was working
on, and the message ends with the last line of its standard error, which is not shown otherwise.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from eexp.envs.base import Environment, Observation
from eexp.envs.bridges.mcp_tasks import SuccessConditions, holds, read_tasks
from eexp.envs.bridges.mcp_tools import McpTool, answer_text, read_tools
from eexp.envs.logins import environment_without_keys, with_logins
from eexp.envs.spec_options import option_error, parse_choice, parse_step_limit
from eexp.errors import EexpError, EnvironmentFailed, UsageError
from eexp.prompts.calls import Call, parse_call, parse_done
from eexp.records.equality import EXACT
from eexp.records.task_file import TasksOfFile
from eexp.system.child import Child, ChildFailed, time_limit
from eexp.system.directories import copy_contents, empty

if TYPE_CHECKING:
    from eexp.envs.bridges.mcp_client import McpSession

INSTALL = "mcp needs `pip install 'eexp[mcp]'`"
WORKSPACE = "/workspace"  # the name of an episode's directory as agents see it
SERVER, FILES, STATELESS = "server", "files", "stateless"
HOW = (
    "Act by calling tools, one in every step, with literal arguments by name, such as name(number=1, text='a'). When "
    "you have done all that is asked, answer: done. Where an answer is asked for, end with it: done: ANSWER"
)
_WORKSPACE = re.compile(rf"(?<![\w.-]){WORKSPACE}(?![\w-])")
#: Dates with times, as in ISO 8601 and as JavaScript writes them.
_TIMES = (
    re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?"),
    re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d{4} \d\d:\d\d:\d\d( GMT[+-]\d{4}( \([^)]*\))?)?"),
)

Result = TypeVar("Result")


@dataclass(frozen=True)
class _SavedMcpState:
    """What `save` returns."""

    episode: object  # that the state belongs to
    directory: Path  # a copy of the episode's
    followed: int | None  # how many calls of the demonstration were made; None once it was left
    end: Observation | None  # the last observation, if the episode is over


class MCP(Environment):
    """A server of the Model Context Protocol as a child process. docs/environments/mcp.md lists the options."""

    def __init__(
        self,
        command: str,
        tasks: str = "",
        files: str = "",
        state: str = SERVER,
        tools: str = "short",
        mask: str = "",
        max_steps: str = "50",
    ) -> None:
        self.spec = f"mcp:{command}"
        if find_spec("mcp") is None:
            raise EexpError(INSTALL)
        self._argv = _split_command(self.spec, with_logins(command))
        if not tasks:
            raise UsageError(f"{self.spec}: name a file of tasks: mcp:COMMAND?tasks=FILE")
        if not os.path.isfile(tasks):
            raise option_error(self.spec, "tasks", tasks, "no such file")
        if files and not os.path.isdir(files):
            raise option_error(self.spec, "files", files, "no such directory")
        self._template = Path(files).resolve() if files else None
        self._state = parse_choice(self.spec, "state", state, (SERVER, FILES, STATELESS))
        self._listing = parse_choice(self.spec, "tools", tools, ("short", "full", "schema"))
        try:
            self._masks = [*_TIMES, *([re.compile(mask)] if mask else [])]
        except re.error as e:
            raise option_error(self.spec, "mask", mask, f"no regular expression: {e}") from None
        self.max_steps = parse_step_limit(self.spec, max_steps)
        self._tasks = TasksOfFile(read_tasks(tasks).values())
        self._limit = time_limit()
        self._root: Path | None = None  # holds the directory of the episode and copies of it
        self._keeper: Child | None = None
        self._session: McpSession | None = None
        self._tools: dict[str, McpTool] = {}
        self._episode: object = None
        self._saved = 0  # how many states were saved

    # -- tasks -------------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        return self._tasks.splits()

    def tasks(self, split: str) -> Iterator[dict]:
        self.check_split(split)
        return self._tasks.of_split(split)

    def task_named(self, name: str) -> dict:
        return self._tasks.named(name)

    def reset(self, task: dict) -> Observation:
        self._task = self._tasks.find(task)
        self._demonstration = [parse_call(call) for call in self._task.calls]
        self._followed: int | None = 0  # how many calls of the demonstration were made; None once it was left
        self._end: Observation | None = None
        self._episode = object()
        self._remove_saved()
        self._begin(self._fill_at_first)
        return Observation("Nothing was called yet.", tools=[tool.as_function() for tool in self._tools.values()])

    def instruction(self) -> str:
        """Return the task's own instruction, how to act, what the server says of itself, and the tools."""
        assert self._session is not None, "reset comes first"
        parts = [self._task.instruction, HOW]
        if self._template or self._task.files or any("{dir}" in word for word in self._argv):
            parts.append(f"Your files are in {WORKSPACE}.")
        parts.append(self._shown(self._session.instructions.strip()))
        if self._listing != "schema":
            parts += ["Tools:", *(tool.described(full=self._listing == "full") for tool in self._tools.values())]
        return "\n".join(filter(None, parts))

    # -- acting ------------------------------------------------------------------------------------------------------

    def step(self, action: str) -> Observation:
        if self._end is not None:
            return Observation("The episode is over.", True, self._end.score, False, self._end.success)
        action = action.strip()
        words = parse_done(action)
        if words is not None:
            return self._finish(words)
        try:
            call = parse_call(action)
        except ValueError as e:
            return Observation(f"{e}, nor done.", valid=False)
        tool = self._tools.get(call[0])
        if tool is None:
            return Observation(f"There is no tool {call[0]!r}; there are: {', '.join(self._tools)}.", valid=False)
        try:
            arguments = tool.arguments(call)
        except ValueError as e:
            return Observation(f"{e}.", valid=False)
        observation = self._call_tool(tool.server_name, arguments)
        self._follow(call, changes=observation.valid and not tool.read_only)
        return observation

    def _call_tool(self, name: str, arguments: dict[str, Any]) -> Observation:
        from eexp.envs.bridges.mcp_client import CallRefused

        arguments = self._meant(arguments)
        try:
            result = self._ask("step", lambda session: session.call(name, arguments))
        except CallRefused as e:
            return Observation(self._shown(str(e)), valid=False)
        return Observation(self._shown(answer_text(result)), valid=not result.get("isError"))

    def _finish(self, words: str) -> Observation:
        """End the episode."""
        success = self._task.success
        reached = None if success is None else self._judge(success, words)
        score = None if reached is None else float(reached)
        self._end = Observation("The episode is over.", True, score, success=reached)
        return self._end

    def _judge(self, success: SuccessConditions, words: str) -> bool:
        if self._session is None:
            raise EnvironmentFailed(f"{self.spec}: done: the server is not running; `reset` starts it")
        try:
            return holds(success, self._directory, WORKSPACE, {"task": self._task.id, "answer": words}, self._limit)
        except (ChildFailed, OSError) as e:
            raise EnvironmentFailed(f"{self.spec}: success of task {self._task.id!r}: {e}") from None

    def expert(self) -> str | None:
        """Return the next action of the task's demonstration; None where it has none, or once it was left.

        Calls that only read and calls that were refused do not leave it.
        """
        if self._task.expert is None or self._followed is None or self._end is not None:
            return None
        return [*self._task.calls, self._task.last_action][self._followed]

    def _follow(self, call: Call, changes: bool) -> None:
        """Note a call, for the expert; `changes`: whether it may have changed the server's state."""
        if self._is_next(call):
            self._followed = (self._followed or 0) + 1
        elif changes:
            self._followed = None

    def harmless(self, action: str) -> bool:
        """Return whether the action calls a tool that the server declares read-only.

        The demonstration's next call is none: it would take the expert further.
        """
        try:
            call = parse_call(action.strip())
        except ValueError:
            return False
        return call[0] in self._tools and self._tools[call[0]].read_only and not self._is_next(call)

    def _is_next(self, call: Call) -> bool:
        """Return whether a call is the demonstration's next."""
        return self._followed is not None and call in self._demonstration[self._followed : self._followed + 1]

    def action_equality(self) -> str:
        return EXACT

    def mask(self, text: str) -> str:
        for pattern in self._masks:
            text = pattern.sub("*", text)
        return text

    # -- names of the directory ----------------------------------------------------------------------------------------

    def _shown(self, text: str) -> str:
        """Return a text of the server as agents see it."""
        return text.replace(str(self._directory), WORKSPACE)

    def _meant(self, value: Any) -> Any:
        """Return an argument of an agent as the server needs it."""
        if isinstance(value, str):
            return _WORKSPACE.sub(str(self._directory), value)
        if isinstance(value, list):
            return [self._meant(item) for item in value]
        return (
            {self._meant(key): self._meant(item) for key, item in value.items()} if isinstance(value, dict) else value
        )

    # -- states ------------------------------------------------------------------------------------------------------

    def why_no_copy(self) -> str | None:
        if self._state != SERVER:
            return None
        return "the server is not said to keep its state in files: state=files, or state=stateless"

    def save(self) -> _SavedMcpState:
        if reason := self.why_no_copy():
            raise EnvironmentFailed(f"{self.spec}: save: {reason}")
        if self._session is None:
            raise EnvironmentFailed(f"{self.spec}: save: the server is not running; `reset` starts it")
        self._saved += 1
        directory = self._directory.with_name(f"saved-{self._saved}")
        self._on_disk("save", lambda: copy_contents(self._directory, directory))
        return _SavedMcpState(self._episode, directory, self._followed, self._end)

    def restore(self, state: _SavedMcpState) -> None:
        if state.episode is not self._episode or not state.directory.is_dir():
            raise EnvironmentFailed(f"{self.spec}: restore: the state belongs to an episode that is over")
        self._followed, self._end = state.followed, state.end
        self._begin(lambda directory: copy_contents(state.directory, directory))

    def release(self, state: _SavedMcpState) -> None:
        shutil.rmtree(state.directory, ignore_errors=True)

    def _remove_saved(self) -> None:
        """Remove the saved states of the episode before, of which none can be restored any more."""
        for directory in self._root.glob("saved-*") if self._root else ():
            shutil.rmtree(directory, ignore_errors=True)

    def _fill_at_first(self, directory: Path) -> None:
        """Put the files into a directory with which the task begins."""
        if self._template:
            copy_contents(self._template, directory)
        for name, text in self._task.files.items():
            file = directory / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self._meant(text), encoding="utf-8")

    # -- the server --------------------------------------------------------------------------------------------------

    @property
    def _directory(self) -> Path:
        """The directory of the episode, which has the same path for as long as this environment is open."""
        assert self._root is not None, "reset comes first"
        return self._root / "files"

    def _begin(self, fill: Callable[[Path], None]) -> None:
        """Let a server begin with the files that `fill` puts into its directory."""
        if self._root is None:
            self._root = self._make_root()
        if self._state != STATELESS:
            self._end_server()
        self._on_disk("reset", lambda: empty(self._directory))
        self._on_disk("reset", lambda: fill(self._directory))
        if self._session is None:
            self._start_server()

    def _make_root(self) -> Path:
        """Return a new directory, which is removed when this environment is closed or this process ends in any way."""
        root = Path(os.path.realpath(tempfile.mkdtemp(prefix="eexp-mcp-")))
        self._keeper = Child(["cat"], directory=str(root))
        (root / "files").mkdir()
        return root

    def _start_server(self) -> None:
        from eexp.envs.bridges.mcp_client import McpSession

        argv = [word.replace("{dir}", str(self._directory)) for word in self._argv]
        with open(self._error_file, "wb") as errors:
            child = Child(argv, stderr=errors.fileno(), cwd=str(self._directory), env=environment_without_keys())
        try:
            self._session = McpSession(child, self._limit)
            self._tools = read_tools(self._session.list_tools())
        except (ChildFailed, ValueError) as e:  # ValueError: tools that cannot be told apart
            self._fail("start", str(e))

    def _ask(self, what: str, request: Callable[[McpSession], Result]) -> Result:
        if self._session is None:
            raise EnvironmentFailed(f"{self.spec}: {what}: the server is not running; `reset` starts it")
        try:
            return request(self._session)
        except ChildFailed as e:
            self._fail(what, str(e))

    def _on_disk(self, what: str, change: Callable[[], None]) -> None:
        try:
            change()
        except (OSError, shutil.Error) as e:
            self._fail(what, f"the files of the episode: {' '.join(str(e).split())[:300]}")

    def _fail(self, what: str, message: str) -> NoReturn:
        self._end_server()
        last_line = self._last_error_line()
        hint = f"; the last line of its standard error: {last_line}" if last_line else ""
        raise EnvironmentFailed(f"{self.spec}: {what}: {message}{hint}")

    @property
    def _error_file(self) -> Path:
        return self._directory.with_name("stderr")

    def _last_error_line(self) -> str:
        """Return the last line that the server wrote to its standard error."""
        with suppress(OSError):
            with open(self._error_file, "rb") as errors:
                errors.seek(max(0, os.path.getsize(self._error_file) - 4096))
                lines = self._shown(errors.read().decode("utf-8", "replace")).split("\n")
            return next((" ".join(line.split())[:200] for line in reversed(lines) if line.strip()), "")
        return ""

    def _end_server(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def close(self) -> None:
        self._end_server()
        if self._keeper is not None:
            self._keeper.end()
            self._keeper = self._root = None


def _split_command(spec: str, command: str) -> list[str]:
    """Return the words of COMMAND. Names of files of the working directory become absolute: the server's is another."""
    try:
        argv = shlex.split(command)
    except ValueError as e:
        raise UsageError(f"{spec}: {e}") from None
    if not argv:
        raise UsageError("mcp: names no command; write mcp:COMMAND?tasks=FILE")
    program, *arguments = argv
    if shutil.which(program) is None:
        raise UsageError(f"{spec}: cannot start {program!r}: no such program")
    arguments = [
        os.path.abspath(word) if os.path.isfile(word) or ("/" in word and os.path.exists(word)) else word
        for word in arguments
    ]
    return [os.path.abspath(program) if "/" in program else program, *arguments]
