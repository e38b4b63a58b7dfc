"""`appworld`: tasks in nine apps by programs (Trivedi et al. 2024, arXiv 2407.18901), from the package appworld.

The package runs in a Python of its own, since it pins versions of packages that are older than those that eexp and
others need. The program there is eexp/envs/worlds/appworld_process.py. Tasks and demonstrations are read from the data
by this process. docs/environments/appworld.md has the actions, the options, the expert, and what differs from AppWorld.

A fork is a fork of the episode's process, with its databases, variables and random numbers.
"""

from __future__ import annotations

import ast
import copy
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.logins import environment_without_keys
from eexp.envs.spec_options import option_error, parse_choice, parse_step_limit
from eexp.envs.worlds.checksums import digest_of, refuse_changed
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError
from eexp.records.equality import EXACT
from eexp.system.child import Child, ChildFailed, excerpt, time_limit

SPLITS = ("train", "dev", "test_normal", "test_challenge")
ROOT, PYTHON = "APPWORLD_ROOT", "EEXP_APPWORLD_PYTHON"
INSTALL = (
    "make an environment for it, `python3.11 -m venv DIR`, `DIR/bin/pip install appworld`, `DIR/bin/appworld install`, "
    "and name its Python: appworld?python=DIR/bin/python"
)
DOWNLOAD = "`appworld download data --root DIR` gets it, and appworld?root=DIR names it"
#: Seconds until the package is imported, which $EEXP_ENV_TIMEOUT does not change; and for one answer beside the time
#: of the code.
START, ANSWER = 300.0, 120.0

_PROGRAM = Path(__file__).with_name("appworld_process.py")
#: Prints the state of the installation: "", "installed" (without its apps) or "complete".
_PROBE = """
import importlib.util, os
found = importlib.util.find_spec("appworld")
apps = found and os.path.isdir(os.path.join(os.path.dirname(found.origin), "apps", "supervisor"))
print("complete" if apps else "installed" if found else "")
"""
_TASK_ID = re.compile(r"[0-9A-Za-z]+_[0-9]+")
_ADDRESS = re.compile(r"(?<= at )0x[0-9a-f]+")

_HOW = """\
You are the assistant of {first_name} {last_name} (email {email}, phone number {phone_number}) and do the task above \
in the apps, without asking back. It is {datetime}.

An action is Python code, of one line or several. It calls the APIs of the apps as apis.APP.API(argument=value), and \
print(...) shows what you want to read. Variables are kept for later actions.
- apis.api_docs.show_api_descriptions(app_name='APP') lists the APIs of an app.
- apis.api_docs.show_api_doc(app_name='APP', api_name='API') describes one, with its arguments.
- apis.supervisor.show_account_passwords() has the passwords for apis.APP.login(...), which answers with an \
access_token.
- Lists come in pages: page_index=1 is the second.
- apis.supervisor.complete_task(answer=...) says that the task is done. Give an answer only where the task asks for \
one, as short as can be."""


class AppWorld(Environment):
    """AppWorld, tasks in apps by programs. docs/environments/appworld.md lists the options, all strings."""

    spec = "appworld"
    max_steps = 50
    record_options = frozenset({"expert", "admissible", "max_steps"})

    def __init__(
        self,
        root: str = "",
        python: str = "",
        expert: str = "statements",
        admissible: str = "none",
        timeout: str = "100",
        max_steps: str = "50",
    ) -> None:
        self._prints = parse_choice("appworld", "expert", expert, ("statements", "print")) == "print"
        self._lists = parse_choice("appworld", "admissible", admissible, ("none", "lookups")) == "lookups"
        if not re.fullmatch("[1-9][0-9]{0,4}", timeout):
            raise option_error("appworld", "timeout", timeout, "expected seconds, a whole number above 0")
        self._timeout = int(timeout)
        self.max_steps = parse_step_limit("appworld", max_steps)
        self._data = _data_directory(root)
        self._python = python or os.environ.get(PYTHON) or sys.executable
        _check_installed(self._python)
        self._limit = time_limit(self._timeout + ANSWER)
        self._process: _Process | None = None
        self._episode: int | None = None

    # -- tasks -------------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        return [split for split in SPLITS if (self._data / "datasets" / f"{split}.txt").is_file()]

    def tasks(self, split: str) -> Iterator[dict]:
        """Yield the tasks in the order of the data set's file."""
        self.check_split(split)
        for line in (self._data / "datasets" / f"{split}.txt").read_text(encoding="utf-8").splitlines():
            if name := line.partition(":")[0].strip():  # some lines have a tag after the id
                yield {"id": name, "split": split, "checksum": self._checksum(name)}

    def kind_of(self, task: dict) -> str | None:
        """Return the difficulty, 1 to 3; None where the data does not say."""
        file = self._directory(task) / "ground_truth" / "metadata.json"
        difficulty = json.loads(file.read_text(encoding="utf-8")).get("difficulty") if file.is_file() else None
        return None if difficulty is None else f"difficulty {difficulty}"

    def _directory(self, task: dict) -> Path:
        """Return the directory of a task. Raises InputError if there is none."""
        name = task.get("id")
        if not isinstance(name, str) or not _TASK_ID.fullmatch(name) or not self._specs_file(name).is_file():
            raise InputError(f"appworld has no task {name!r}", "$.task.id")
        return self._specs_file(name).parent

    def _specs_file(self, name: str) -> Path:
        return self._data / "tasks" / name / "specs.json"

    def _checksum(self, name: str) -> str:
        """Return the checksum of a task and its databases. Raises InputError if it has no files."""
        directory = self._directory({"id": name})
        return digest_of([directory / "specs.json", *sorted((directory / "dbs").iterdir())])[:16]

    def reset(self, task: dict) -> Observation:
        directory = self._directory(task)
        refuse_changed(task, self._checksum(task["id"]), f"{task['id']} has")
        self._end_episode()
        if self._process is None or not self._process.usable:
            self.close()
            self._process = _Process(self._python, self._data, self._timeout)
        facts = self._ask("begin", task=task["id"])
        self._episode = facts["episode"]
        specs = json.loads(self._specs_file(task["id"]).read_text(encoding="utf-8"))
        how = _HOW.format(**facts["supervisor"], datetime=facts["datetime"])
        self._instruction = f"{specs['instruction']}\n\n{how}"
        self._solution = solution_actions(directory / "ground_truth" / "compiled_solution.py", self._prints)
        self._judged = (directory / "ground_truth").is_dir()
        self._followed, self._strayed, self._over = 0, False, False
        self._listed: list[str] | None = None  # the look-ups of the current state, once they were asked for
        self._score = 0.0 if self._judged else None
        apps = [f"{name}: {about}" for name, about in facts["apps"].items()]
        return Observation("\n".join(["The apps:", *apps]), score=self._score)

    def instruction(self) -> str:
        """Return the task, for whom it is to be done, and how to act."""
        return self._instruction

    # -- acting ------------------------------------------------------------------------------------------------------

    def step(self, action: str) -> Observation:
        if self._episode is None:
            raise EnvironmentFailed(f"{self.spec}: step: no episode is running; `reset` starts one")
        if self._over:
            success = None if self._score is None else self._score == 1
            return Observation("The task is completed.", True, self._score, valid=False, success=success)
        self._listed = None
        answer = self._ask("execute", episode=self._episode, code=action)
        if self._followed < len(self._solution) and action == self._solution[self._followed]:
            self._followed += 1
        elif answer["changed"]:
            self._strayed = True
        success: bool | None = None
        if answer["completed"]:
            self._over = True
            if answer["tests"] is not None:
                self._score, success = answer["passed"] / max(answer["tests"], 1), answer["passed"] == answer["tests"]
        return Observation(
            answer["text"].rstrip(),
            self._over,
            self._score,
            valid=not answer["failed"],
            success=success,
            changed=answer["changed"] or None,
        )

    def admissible(self) -> list[str] | None:
        """Return calls that only read, tried in a fork; None unless `admissible=lookups`."""
        if not self._lists:
            return None
        if self._over:
            return []
        listed = self._listed
        if listed is None:
            listed = self._listed = self._ask("lookups", episode=self._episode)["lookups"]
        return list(listed)

    def expert(self) -> str | None:
        if self._over or self._strayed or self._followed >= len(self._solution):
            return None
        return self._solution[self._followed]

    def action_equality(self) -> str:
        return EXACT

    def mask(self, text: str) -> str:
        """Return a text without addresses of memory, which Python prints of objects: `<function ... at 0x7f...>`."""
        return _ADDRESS.sub("#", text)

    # -- the process -------------------------------------------------------------------------------------------------

    def fork(self) -> AppWorld:
        """Return a copy, whose episode is a fork of this one's process."""
        if self._episode is None or self._process is None:
            raise EnvironmentFailed(f"{self.spec}: fork: no episode is running; `reset` starts one")
        number = self._ask("fork", episode=self._episode)["episode"]
        fork = copy.copy(self)
        fork._episode = number
        self._process.users += 1
        return fork

    def close(self) -> None:
        self._end_episode()
        process, self._process = self._process, None
        if process is not None:
            process.users -= 1
            if not process.users:
                process.end()

    def _end_episode(self) -> None:
        number, self._episode = self._episode, None
        if number is not None and self._process is not None and self._process.usable:
            with suppress(EnvironmentFailed):  # then it has ended with all episodes
                self._ask("end", episode=number)

    def _ask(self, op: str, **fields: Any) -> dict:
        """Return the answer to a request. Raises EnvironmentFailed if it is an error, or does not come."""
        assert self._process is not None, "reset comes first"
        try:
            answer = self._process.ask({"op": op, **fields}, self._limit)
        except ChildFailed as e:
            raise EnvironmentFailed(f"{self.spec}: {op}: {e}") from None
        if "error" in answer:
            raise EnvironmentFailed(f"{self.spec}: {op}: {' '.join(str(answer['error']).split())[:500]}")
        return answer


class _Process:
    """The program in AppWorld's Python, which has a process for every episode.

    Args:
        timeout: Seconds that the code of one action may run.

    Raises:
        EexpError: It does not start.
    """

    users = 1

    def __init__(self, python: str, data: Path, timeout: int):
        variables = environment_without_keys() | {"PYTHONHASHSEED": "0"}  # sets are printed in the same order
        self._stderr = tempfile.TemporaryFile()
        self._root, self._owner = tempfile.TemporaryDirectory(prefix="eexp-appworld-"), os.getpid()
        Path(self._root.name, "data").symlink_to(data)  # AppWorld writes its outputs beside it
        command = [python, str(_PROGRAM), self._root.name, str(timeout)]
        self._child = Child(command, stderr=self._stderr.fileno(), env=variables)
        try:
            self._child.read_line(START)
        except ChildFailed as e:
            self.end()
            raise EexpError(f"appworld: {python}: {self._last_words() or e}") from None

    @property
    def usable(self) -> bool:
        """Whether it was not ended."""
        return self._child.usable

    def ask(self, request: dict, limit: float) -> dict:
        """Return the answer to a request. Raises ChildFailed, after which it is ended, if there is none."""
        try:
            line = self._child.ask(json.dumps(request).encode(), limit)
        except ChildFailed:
            self.end()
            raise
        try:
            return json.loads(line)
        except ValueError:
            self.end()
            raise ChildFailed(f"not JSON: {excerpt(line)}") from None

    def end(self) -> None:
        """End it with the processes of all episodes. Safe to call twice."""
        self._child.end(grace=2.0)
        if os.getpid() == self._owner:  # a fork of this process has the same directory
            self._root.cleanup()

    def _last_words(self) -> str:
        """Return the last line of its standard error, where a traceback has its message."""
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


# -- files -----------------------------------------------------------------------------------------------------------


def _data_directory(root: str) -> Path:
    """Return AppWorld's folder `data`. Raises UsageError if there is none."""
    directory = root or os.environ.get(ROOT) or "."
    data = Path(directory).resolve() / "data"
    if not (data / "tasks").is_dir() or not (data / "datasets").is_dir():
        given = f"appworld?root={root}" if root else "appworld"
        raise UsageError(f"{given}: no data/tasks and data/datasets in {directory}; {DOWNLOAD}")
    return data


def _check_installed(python: str) -> None:
    """Raise EexpError if a Python does not have the package with its apps; UsageError if it cannot be run."""
    try:
        probe = subprocess.run([python, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=60)
    except (OSError, ValueError, subprocess.TimeoutExpired) as e:
        reason = getattr(e, "strerror", None) or e
        raise option_error("appworld", "python", python, f"cannot be run: {reason}") from None
    match probe.stdout.strip():
        case "complete":
            return
        case "installed":
            raise EexpError(f"appworld: {python} has the package without its apps; run its `appworld install`")
        case _:
            raise EexpError(f"appworld: {python} has no package appworld; {INSTALL}")


# -- the expert ------------------------------------------------------------------------------------------------------


def solution_actions(file: Path, prints: bool) -> tuple[str, ...]:
    """Return the actions of a solution; none where the data has none.

    Args:
        file: The program, with a function `solution(apis, requester)`.

    Raises:
        EnvironmentFailed: It is not such a program.
    """
    if not file.is_file():
        return ()
    source = file.read_text(encoding="utf-8")
    try:
        program = ast.parse(source)
    except SyntaxError as e:
        raise EnvironmentFailed(f"appworld: {file}: {e}") from None
    solve = next((it for it in program.body if isinstance(it, ast.FunctionDef) and it.name == "solution"), None)
    if solve is None:
        raise EnvironmentFailed(f"appworld: {file}: no function `solution`")
    body = [it for it in solve.body if not _is_text(it)]
    if body and isinstance(body[-1], ast.Return) and body[-1].value is None:
        body.pop()
    header = [_code(source, it) for it in _needed([it for it in program.body if it is not solve], body)]
    if not _can_be_cut(body):
        return ("\n".join([*header, _code_without_types(solve), "solution(apis, requester)"]),)
    actions = [_action(source, statement, prints) for statement in body]
    return tuple(["\n".join([*header, *actions[:1]]), *actions[1:]])


def _needed(header: list[ast.stmt], body: list[ast.stmt]) -> list[ast.stmt]:
    """Return those statements of a program's top that set a name which the body uses, or they use themselves.

    What is left out are as a rule AppWorld's own classes, which only the types of the arguments name.
    """
    needed, found = list(body), -1
    while found < len(needed):
        found = len(needed)
        used = {node.id for it in needed for node in ast.walk(it) if isinstance(node, ast.Name)}
        needed += [it for it in header if it not in needed and _names_set(it) & used]
    return [it for it in header if it in needed]


def _can_be_cut(body: list[ast.stmt]) -> bool:
    """Return whether the statements of a function do the same one by one, outside of it."""
    nodes = _own_nodes(ast.Module(body, []))
    return not any(isinstance(it, (ast.Return, ast.Nonlocal, ast.Global, ast.Yield)) for it in nodes)


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes in a function, but none in functions and classes that it defines, except for `nonlocal`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield from (it for it in ast.walk(child) if isinstance(it, ast.Nonlocal))
            continue
        yield child
        yield from _own_nodes(child)


def _names_set(statement: ast.stmt) -> set[str]:
    """Return the names that a statement at the top of a program binds."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    return set(_names_stored(statement))


def _names_stored(node: ast.AST) -> list[str]:
    """Return the names that are set anywhere in a part of a program."""
    names = [it for it in ast.walk(node) if isinstance(it, ast.Name) and isinstance(it.ctx, ast.Store)]
    return [it.id for it in names]


def _is_text(statement: ast.stmt) -> bool:
    """Return whether a statement does nothing: a text, such as a docstring, or `pass`."""
    if isinstance(statement, ast.Pass):
        return True
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _action(source: str, statement: ast.stmt, prints: bool) -> str:
    """Return the code of a statement, and of one that prints the variables that it sets if `prints`."""
    code = _code(source, statement)
    if not prints or not isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        return code
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = [name for target in targets for name in _names_stored(target)]
    return f"{code}\nprint({', '.join(dict.fromkeys(names))})" if names else code


def _code(source: str, statement: ast.stmt) -> str:
    """Return the code of a statement of a program as it is written, without its indentation."""
    lines = source.splitlines()[statement.lineno - 1 : statement.end_lineno]
    text = textwrap.dedent("\n".join(lines))
    with suppress(SyntaxError):
        if ast.dump(ast.parse(text)) == ast.dump(ast.Module([statement], [])):
            return text
    return ast.unparse(statement)  # a text of several lines in it, for instance, has lost its own indentation


def _code_without_types(function: ast.FunctionDef) -> str:
    """Return the code of a function without the types of its arguments and its result."""
    function = copy.deepcopy(function)
    function.returns = None
    for argument in function.args.args:
        argument.annotation = None
    return ast.unparse(function)
