"""Run AppWorld in a Python of its own: the program that `appworld` (worlds/appworld.py) starts.

    PYTHON appworld_process.py ROOT TIMEOUT

ROOT is a directory for AppWorld's outputs, with AppWorld's folder `data` in it, TIMEOUT the seconds that the code of
one action may run. AppWorld pins old versions of packages, so PYTHON is as a rule not the one that runs eexp, and
this script imports nothing of eexp.

A request is one line of JSON on standard input, and so is its answer on standard output:

    {"op":"begin","task":ID}                      {"episode":1,"apps":{...},"supervisor":{...},"datetime":"..."}
    {"op":"execute","episode":1,"code":"..."}     {"text":"...","failed":false,"changed":true,"completed":false}
    {"op":"fork","episode":1}                     {"episode":2}
    {"op":"lookups","episode":1}                  {"lookups":["print(apis.supervisor.show_profile())",...]}
    {"op":"end","episode":2}                      {}

An answer to `execute` that completes the task has `passed` and `tests`, the numbers of tests of the evaluation; null
where the task has no ground truth. An answer may be `{"error":"..."}` instead. The first line, before any request, is
`{"version":"..."}`.

Every episode is a process of its own. This process imports AppWorld, plays nothing itself and is forked for every
episode, so each begins with the same memory: AppWorld keeps much in modules and classes (databases, random numbers, the
frozen clock, tokens that were logged out), and code that is executed may change any of it. A copy of an episode is a
fork of its process. AppWorld's own `save_state` would not do: it saves the databases, but neither the variables of the
code nor the random numbers. The process that forks has one thread: the client of the APIs has threads, and is closed
before a fork and opened anew by the next execution. A task is evaluated in a fork as well, since the evaluation sets
models and clock of its process, and look-ups are tried in one.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any

_MOST = 1 << 16  # bytes that are read at once
EXPERIMENT = "eexp"


def main(root: str, timeout: int) -> None:
    """Answer requests until standard input ends. The module's docstring explains the arguments."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _silence()
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != here]  # eexp's modules are not for AppWorld
    os.environ["APPWORLD_ROOT"] = root
    version = _import_appworld()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for the processes of episodes
    episodes = _Episodes(timeout, (requests, answers))
    _write(answers, {"version": version})
    for line in requests:
        try:
            answer = episodes.answer(json.loads(line))
        except Exception as e:
            answer = {"error": f"{type(e).__name__}: {e}"}
        _write(answers, answer)


def _silence() -> None:
    """Lead the standard input and output of this process to nothing."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _write(file: Any, answer: dict) -> None:
    file.write(json.dumps(answer).encode() + b"\n")
    file.flush()


def _import_appworld() -> str:
    """Import what every episode needs and fill AppWorld's caches; return its version."""
    import appworld.environment
    import appworld.evaluator
    from appworld.apps import get_all_apps
    from appworld.common.utils import import_apis_module, import_models_module
    from appworld.requester import _get_api_name_to_doc

    for app in get_all_apps():
        import_models_module(app)
        import_apis_module(app)
        _get_api_name_to_doc(app, include_private_apis=True)
    return appworld.__version__  # pyright: ignore[reportAttributeAccessIssue] -- not the module beside this one


class _Episodes:
    """The processes of all episodes, as the process that starts them sees them; they must not keep `files` open."""

    def __init__(self, timeout: int, files: tuple[Any, ...]):
        self._timeout, self._files = timeout, files
        self._sockets: dict[int, socket.socket] = {}
        self._last = 0

    def answer(self, request: dict) -> dict:
        """Return the answer to a request."""
        op = request["op"]
        if op == "begin":
            return self._begin(request["task"])
        if op == "fork":
            return self._fork(request["episode"])
        if op == "end":
            self._end(request["episode"])
            return {}
        return self._ask(request["episode"], request)

    def _begin(self, task: str) -> dict:
        mine, its = socket.socketpair()
        if os.fork() == 0:
            for file in (*self._files, mine, *self._sockets.values()):
                file.close()
            random.seed(0)  # until AppWorld seeds it; Python seeds it by chance in a fork
            _run(its, lambda: _Episode(task, self._timeout))
        its.close()
        number = self._add(mine)
        answer = self._ask(number, {"op": "facts"})
        if "error" not in answer:
            return {"episode": number, **answer}
        self._end(number)
        return answer

    def _fork(self, number: int) -> dict:
        mine, its = socket.socketpair()
        with its:
            answer = self._ask(number, {"op": "fork"}, its)
        if "error" in answer:
            mine.close()
            return answer
        return {"episode": self._add(mine)}

    def _add(self, connection: socket.socket) -> int:
        self._last += 1
        self._sockets[self._last] = connection
        return self._last

    def _end(self, number: int) -> None:
        """Close the connection to an episode, whose process then reads the end of the file and ends."""
        if connection := self._sockets.pop(number, None):
            connection.close()

    def _ask(self, number: int, request: dict, passed: socket.socket | None = None) -> dict:
        answer = None
        if connection := self._sockets.get(number):
            with suppress(OSError):
                _send(connection, request, passed)
                answer = _receive(connection)
        if answer is not None:
            return answer[0]
        self._end(number)
        return {"error": "the process of the episode has ended"}


def _send(connection: socket.socket, message: dict, passed: socket.socket | None = None) -> None:
    data = json.dumps(message).encode() + b"\n"
    if passed is not None:
        sent = socket.send_fds(connection, [data], [passed.fileno()])
        data = data[sent:]
    connection.sendall(data)


def _receive(connection: socket.socket) -> tuple[dict, list[int]] | None:
    """Return the next message and the descriptors that were passed with it; None at the end."""
    data, descriptors = bytearray(), []
    while not data.endswith(b"\n"):  # JSON has no line end in it, and the next message waits for an answer
        part, passed, _, _ = socket.recv_fds(connection, _MOST, 1)
        descriptors += passed
        if not part:
            return None
        data += part
    return json.loads(data), descriptors


def _run(connection: socket.socket, begin: Callable[[], _Episode]) -> None:
    """Play an episode, as a process of its own. Does not return."""
    try:
        _serve(connection, begin)
    finally:
        os._exit(0)


def _serve(connection: socket.socket, begin: Callable[[], _Episode]) -> None:
    episode: _Episode | None = None
    while (received := _receive(connection)) is not None:
        request, descriptors = received
        try:
            if episode is None:
                episode = begin()
            if request["op"] == "fork":
                if episode.fork() == 0:
                    connection.close()
                    connection = socket.socket(fileno=descriptors[0])
                    continue
                os.close(descriptors[0])
                answer: dict = {}
            else:
                answer = episode.answer(request)
        except Exception as e:
            answer = {"error": f"{type(e).__name__}: {e}"}
        _send(connection, answer)


class _Episode:
    """A task that is played in this process; the code of one action may run for `timeout` seconds."""

    def __init__(self, task: str, timeout: int):
        from appworld.apps.model_lib import get_direct_cached_sqlite3_connection
        from appworld.common.path_store import path_store
        from appworld.environment import AppWorld

        self._judged = os.path.isdir(os.path.join(path_store.data, "tasks", task, "ground_truth"))
        world = self._world = AppWorld(
            task_id=task, experiment_name=EXPERIMENT, load_ground_truth=self._judged, timeout_seconds=timeout
        )
        get_direct_cached_sqlite3_connection.cache_clear()  # files of SQLite must not stay open in a fork
        self._save_state = world._save_state
        world._save_state = world.save_logs = lambda *_: None  # both write files after every execution
        self._run_cell = world._shell_run_cell
        world._shell_run_cell = self._run_and_note
        self._failed = True
        self._state = self._fingerprint()

    def answer(self, request: dict) -> dict:
        """Return the answer to a request that is not `fork`."""
        match request["op"]:
            case "facts":
                return self.facts()
            case "lookups":
                return self.lookups()
            case _:
                return self.execute(request["code"])

    def facts(self) -> dict:
        """Return what the agent is told at the beginning."""
        task, supervisor = self._world.task, self._world.task.supervisor
        names = ("first_name", "last_name", "email", "phone_number")
        return {
            "apps": dict(task.app_descriptions),
            "supervisor": {name: supervisor[name] for name in names},
            "datetime": task.datetime.isoformat(),
        }

    def execute(self, code: str) -> dict:
        """Execute code; return its output and how the episode stands."""
        if self._client.portal is None:
            self._client.__enter__()
        self._failed = True  # unless the code is run, and does not fail
        text = self._world.execute(code).encode("utf-8", "replace").decode()  # no half characters
        before, self._state = self._state, self._fingerprint()
        answer = {"text": text, "failed": self._failed, "changed": self._state != before, "completed": False}
        if self._state[0] != before[0] and self._world.task_completed():
            answer |= {"completed": True, **self._evaluate()}
        return answer

    def _run_and_note(self, code: str) -> Any:
        result = self._run_cell(code)
        self._failed = result is None or not result.success
        return result

    def fork(self) -> int:
        """Fork this process; return 0 in the copy, else the id of its process."""
        self._close_client()
        random_numbers = random.getstate()
        if pid := os.fork():
            return pid
        random.setstate(random_numbers)  # Python seeds its generator anew in a fork
        return 0

    @property
    def _client(self) -> Any:
        return self._world.requester.client

    def _close_client(self) -> None:
        """End the threads of the client of the APIs, which would not be there in a fork."""
        if self._client.portal is not None:
            self._client.__exit__(None, None, None)

    def _fingerprint(self) -> tuple:
        """Return what changes with the databases, the random numbers and the variables of the code."""
        from appworld.apps.model_lib import CachedDBHandler

        changes = [(path, len(tracker.changes)) for path, (_, tracker) in CachedDBHandler.cache.items()]
        variables = self._world.shell.user_ns
        values = [(name, _pickled(value)) for name, value in variables.items() if not name.startswith("_")]
        return sorted(changes), hash(random.getstate()), values

    def _evaluate(self) -> dict:
        """Return how many tests of the task's evaluation pass, and how many there are."""
        if not self._judged:
            return {"passed": None, "tests": None}
        tracker = self._in_fork(self._evaluated_here)
        return {"passed": tracker["passed"], "tests": tracker["tests"]}

    def _evaluated_here(self) -> dict:
        from appworld.evaluator import evaluate_task

        self._save_state(self._world.output_db_home_path_on_disk)  # the evaluation reads it
        tracker = evaluate_task(self._world.task_id, EXPERIMENT, save_report=False)
        return {"passed": tracker.pass_count, "tests": tracker.num_tests}

    def lookups(self) -> dict:
        """Return calls that read something and are accepted in this state, sorted."""
        return self._in_fork(self._lookups_here)

    def _lookups_here(self) -> dict:
        self._client.__enter__()
        accepted = []
        for code in self._possible_lookups():
            self._failed = True
            self._world.execute(code)
            accepted += [] if self._failed else [code]
        return {"lookups": sorted(accepted)}

    def _possible_lookups(self) -> Iterator[str]:
        """Yield calls of APIs by the method GET that need no argument but a token which a variable holds."""
        from appworld.requester import _get_api_name_to_doc

        tokens: dict[str, str] = {}
        for name, value in list(self._world.shell.user_ns.items()):
            if isinstance(value, dict):
                name, value = f"{name}['access_token']", value.get("access_token")
            if not name.startswith("_") and (app := _app_of_token(value)):
                tokens.setdefault(app, name)
        for app in self._world.task.app_descriptions:
            yield f"print(apis.api_docs.show_api_descriptions(app_name={app!r}))"
            for api, doc in _get_api_name_to_doc(app).items():
                needed = {parameter["name"] for parameter in doc["parameters"] if parameter["required"]}
                if doc["method"] == "GET" and not needed:
                    yield f"print(apis.{app}.{api}())"
                elif doc["method"] == "GET" and needed == {"access_token"} and app in tokens:
                    yield f"print(apis.{app}.{api}(access_token={tokens[app]}))"

    def _in_fork(self, function: Callable[[], dict]) -> dict:
        """Return what a function returns in a fork of this process, which ends with it."""
        readable, writable = os.pipe()
        if self.fork() == 0:
            try:
                os.close(readable)
                with os.fdopen(writable, "wb") as pipe:
                    try:
                        answer = function()
                    except BaseException as e:
                        answer = {"error": f"{type(e).__name__}: {e}"}
                    _write(pipe, answer)
            finally:
                os._exit(0)
        os.close(writable)
        with os.fdopen(readable, "rb") as pipe:
            data = pipe.read()
        answer = json.loads(data) if data else {"error": "a fork has ended without an answer"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def _app_of_token(value: Any) -> str | None:
    """Return the app that a token is for, a JSON Web Token with `APP+USER` as its subject; None for anything else."""
    if not isinstance(value, str) or value.count(".") != 2:
        return None
    part = value.split(".")[1]
    try:
        return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["sub"].partition("+")[0]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _pickled(value: Any) -> Any:
    """Return what changes with a value: its pickle; its id where it has none."""
    if isinstance(value, (ModuleType, FunctionType, type)):
        return id(value)
    try:
        return pickle.dumps(value)
    except Exception:
        return id(value)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
