"""Tasks for the tools of an MCP server, which knows none: what to do, what is there at first, what counts as success.

Tasks are JSON Lines, one task a line:

    {"id": "greet", "instruction": "Write hello into a.txt.", "success": {"files": {"a.txt": "hello"}}}

docs/environments/mcp.md explains the keys.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Optional, Union

import msgspec
from msgspec import Meta, Struct

from eexp.envs.logins import environment_without_keys
from eexp.errors import EexpError, InputError
from eexp.prompts.calls import parse_call, parse_done
from eexp.records.jsonl import lines, loads
from eexp.records.task_file import TaskOfFile
from eexp.records.types import explain
from eexp.system.child import Child, ChildFailed, NotStarted

_EDGES = " \t\n.,;:!?\"'`"


class SuccessConditions(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What has to hold at the end of an episode; all of what is given."""

    files: Optional[dict[str, Optional[str]]] = None  # texts of files; None for a file that must not exist
    answer: Union[str, list[str], None] = None  # the words after `done:`, or several forms of them
    command: Optional[str] = None  # a program that ends with exit status 0


class McpTask(TaskOfFile, forbid_unknown_fields=True, omit_defaults=True):
    """One task."""

    id: Annotated[str, Meta(min_length=1)]
    instruction: str
    split: Annotated[str, Meta(min_length=1)] = "train"
    kind: Optional[str] = None  # by which results are broken down
    files: dict[str, str] = {}  # texts of files that are there at the beginning, beside those of the option `files`
    success: Optional[SuccessConditions] = None  # None where nothing tells
    expert: Optional[list[str]] = None  # a demonstration: its actions in order, of which `done` may be left out

    @property
    def calls(self) -> list[str]:
        """The demonstration without `done` at its end."""
        return [] if not self.expert else self.expert if parse_done(self.expert[-1]) is None else self.expert[:-1]

    @property
    def last_action(self) -> str:
        """The action that ends the demonstration."""
        return "done" if not self.expert or parse_done(self.expert[-1]) is None else self.expert[-1]


def read_tasks(path: str) -> dict[str, McpTask]:
    """Return the tasks of a file by their ids, in its order.

    Raises:
        EexpError: The file cannot be read, a line is no task, two tasks have the same id, or there is none.
    """
    tasks: dict[str, McpTask] = {}
    for file, number, line in lines([path]):
        try:
            task = _read_task(line)
            if task.id in tasks:
                raise InputError(f"another task has the id {task.id!r}", "$.id")
        except InputError as e:
            raise EexpError(f"{file}:{number}: {e}") from None
        tasks[task.id] = task
    if not tasks:
        raise EexpError(f"{path}: no task")
    return tasks


def _read_task(line: bytes) -> McpTask:
    try:
        task = msgspec.convert(loads(line), McpTask)
    except msgspec.ValidationError as e:
        raise explain(str(e)) from None
    success = task.success or SuccessConditions()
    for where, names in (("$.files", task.files), ("$.success.files", success.files or {})):
        for name in names:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or "\0" in name:
                raise InputError(f"expected names relative to the directory, got {name!r}", where)
    if success.command is not None and not _split_command(success.command, "$.success.command"):
        raise InputError("names no program", "$.success.command")
    for n, action in enumerate(task.calls):
        try:
            parse_call(action)
        except ValueError:
            raise InputError(f"expected a call, or done at the end, got {action!r}", f"$.expert[{n}]") from None
    return task


def _split_command(command: str, where: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as e:
        raise InputError(str(e), where) from None


# -- success ---------------------------------------------------------------------------------------------------------


def holds(conditions: SuccessConditions, directory: Path, shown: str, episode: dict[str, Any], limit: float) -> bool:
    """Return whether an episode ended in success.

    Args:
        conditions: What has to hold.
        directory: The episode's directory. What a command reads is written beside it.
        shown: The name of the directory that the agent saw, and may have written into files.
        episode: The id of the task as `task`, and the words after `done:` as `answer`.
        limit: Seconds that a command has.

    Raises:
        ChildFailed: The command cannot be run, or did not end in time.
    """
    for name, expected in (conditions.files or {}).items():
        text = _file_text(directory / name)
        if text is not None:
            text = text.replace(str(directory), shown)
        if (text is None or expected is None) and text != expected:
            return False
        if text is not None and expected is not None and text.rstrip() != expected.rstrip():
            return False
    if conditions.answer is not None:
        answers = [conditions.answer] if isinstance(conditions.answer, str) else conditions.answer
        if normalised_answer(episode["answer"]) not in map(normalised_answer, answers):
            return False
    return conditions.command is None or _command_succeeds(conditions.command, directory, episode, limit)


def _file_text(path: Path) -> str | None:
    """Return the text of a file; None where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def normalised_answer(text: str) -> str:
    """Return an answer in the form in which answers are compared: without case, blanks and punctuation around it."""
    return re.sub(r"\s+", " ", text).strip(_EDGES).casefold()


def _command_succeeds(command: str, directory: Path, episode: dict[str, Any], limit: float) -> bool:
    """Run a command in the directory, with the episode on its standard input; return whether its exit status is 0.

    What it writes to its standard output goes to the standard error of this process.
    """
    argv = [word.replace("{dir}", str(directory)) for word in shlex.split(command)]
    input_file = directory.with_name("episode.json")
    input_file.write_text(json.dumps(episode), encoding="utf-8")
    shell = ["sh", "-c", 'exec "$@" <"$0" >&2', str(input_file)]
    child = Child([*shell, *argv], cwd=str(directory), env=environment_without_keys())
    try:
        status = child.wait(limit)
    finally:
        child.end()
    if status in (126, 127):  # the shell's, where it could not execute the program
        raise NotStarted(f"cannot run {argv[0]!r}")
    if status is None:
        raise ChildFailed(f"{argv[0]!r} did not end within {limit:g} s (EEXP_ENV_TIMEOUT)")
    return status == 0
