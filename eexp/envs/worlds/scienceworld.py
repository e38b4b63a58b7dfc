"""`scienceworld`: thirty kinds of science experiments in words (Wang et al. 2022, arXiv 2203.07540).

The package's simulator runs in a Java process of its own, through the package's interface but for what makes replays
differ or steps slow (benchmarks/scienceworld_replay.py measures both). docs/environments/scienceworld.md says what
differs from the package's Python class, and has the tasks and the options. A step requests the observation, the score
and whether the episode is over; the package's computes every valid action as well, and its `reset` plays a step.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import option_error, parse_step_limit
from eexp.errors import EexpError, EnvironmentFailed, InputError
from eexp.system.child import Child, ChildFailed, time_limit
from eexp.system.packages import installed_by

SPLITS = {"train": "getVariationsTrain", "dev": "getVariationsDev", "test": "getVariationsTest"}
SIMPLIFICATIONS = ("teleportAction", "selfWateringFlowerPots", "openContainers", "openDoors", "noElectricalAction")

INSTALL = "ScienceWorld needs `pip install 'eexp[scienceworld]'` and Java 11 or newer"
JVM = (
    "-XX:+UnlockExperimentalVMOptions",
    "-XX:hashCode=2",  # the same for every object: hash tables keep the order in which they were filled
    "-XX:+UseSerialGC",  # one thread and 100 MB less, and no slower
    "-XX:-UsePerfData",  # no files in /tmp
)

#: The Java classes that copy a state, made of the sources in recipes/scienceworld.
CLASSES = Path(__file__).parents[2] / "data" / "scienceworld" / "state.jar"
#: The singletons with variables that a step can change. A test finds them again, among all singletons.
SINGLETONS = ("util.UniqueIdentifier$", "util.UniqueTypeID$")

LIMIT = 300.0  # Seconds for one answer. The expert's solution takes up to 20, and several times that on a busy machine.

#: Beginnings of the simulator's answers to an action that it did not execute.
REFUSALS = ("No known action matches that input.", "Unknown action.", "Ambiguous request:")
#: Actions that may name objects out of reach: teleporting, and the answer to a question.
_ANYWHERE = re.compile(r"teleport to |\d+$")
_TEMPERATURE = re.compile(r"-?\d+(?:\.\d+)?(?= degrees celsius)")


class ScienceWorld(Environment):
    """ScienceWorld, experiments of primary-school science. docs/environments/scienceworld.md lists the options."""

    spec = "scienceworld"
    record_options = frozenset({"task", "simplifications", "max_steps"})

    def __init__(self, task: str = "", simplifications: str = "easy", max_steps: str = "100", memory: str = "512m"):
        _check_installed()
        self._kinds = _kinds(task)
        self._simplifications = _simplifications(simplifications)
        self.max_steps = parse_step_limit("scienceworld", max_steps)
        if not re.fullmatch(r"[1-9]\d*[kmgKMG]?", memory):
            raise option_error("scienceworld", "memory", memory, "expected a number with k, m or g")
        self._memory = memory
        self._limit = time_limit(LIMIT)
        self._simulator: Simulator | None = None
        self._episode: JvmEpisode | None = None
        self._task: tuple[str, int, str] | None = None
        self._played: list[str] = []
        self._gold: list[str] | None = None

    def splits(self) -> list[str]:
        return list(SPLITS)

    def tasks(self, split: str) -> Iterator[dict]:
        """Yield the first variation of every kind of task, then the second of every kind, and so on."""
        self.check_split(split)
        return self._by_turns([self._tasks_of(kind, split) for kind in self._kinds])

    def _by_turns(self, kinds: list[Iterator[dict]]) -> Iterator[dict]:
        while kinds:
            for tasks in list(kinds):
                if task := next(tasks, None):
                    yield task
                else:
                    kinds.remove(tasks)

    def _tasks_of(self, kind: str, split: str) -> Iterator[dict]:
        simplifications = self._simplifications
        for number in self._variations(kind, split):
            names = {"id": f"{kind}/{number}", "split": split, "task": kind}
            yield {**names, "variation": number, "simplifications": simplifications}

    def kind_of(self, task: dict) -> str | None:
        """Return the task's own name, such as find-plant; its variations are the tasks."""
        return task.get("task")

    def _variations(self, kind: str, split: str) -> list[int]:
        self._call(Simulator.aside, "taskStr_$eq", kind)  # a Scala setter; `load` would do the same, slowly
        return sorted(self._call(Simulator.aside, SPLITS[split]))

    def reset(self, task: dict) -> Observation:
        """Load a task and look around."""
        self._task = None
        arguments = self._checked(task)
        if self._running() is None or self._episode is None:
            self._episode = self._call(Simulator.new_episode)
        problem = self._call(Simulator.play, self._episode, "load", *arguments, False)
        if problem:
            raise InputError(" ".join(problem.split()), "$.task")
        self._task, self._played, self._gold = arguments, [], None
        # The simulator keeps the last episode's until an action is executed, which `task` and `help` are not.
        self._play("score_$eq", 0.0)
        self._play("isComplete_$eq", False)
        text = self._play("freeActionLook").rstrip()
        return Observation(text, score=0.0)

    def _checked(self, task: dict) -> tuple[str, int, str]:
        """Return the kind, variation and simplifications of a task. Raises InputError if one makes no sense."""
        kind, variation = task.get("task"), task.get("variation")
        simplifications = task.get("simplifications", self._simplifications)
        if kind not in _all_kinds():
            raise InputError(f"ScienceWorld has no task {kind!r}", "$.task.task")
        if type(variation) is not int or variation < 0:
            raise InputError(f"expected the number of a variation, got {variation!r}", "$.task.variation")
        if not isinstance(simplifications, str):
            raise InputError(f"expected a string, got {simplifications!r}", "$.task.simplifications")
        if "noElectricalAction" in simplifications and kind.startswith(("power-component", "test-conductivity")):
            raise InputError(f"{kind} cannot be solved with noElectricalAction", "$.task.simplifications")
        return kind, variation, simplifications

    def step(self, action: str) -> Observation:
        text = self._play("step", " ".join(action.split())).rstrip()
        self._played.append(action)
        score = self._play("getScore")  # 0 to 1 here, and -1 where the agent can no longer succeed
        done = score < 0 or self._play("getCompleted")
        success = True if score >= 1 else False if done else None
        score, valid = round(min(max(score, 0.0), 1.0), 4), not text.startswith(REFUSALS)
        return Observation(text, done=done, score=score, valid=valid, success=success)

    def instruction(self) -> str:
        return self._play("getTaskDescription")

    def admissible(self) -> list[str]:
        """Return every action that the simulator would accept, sorted.

        To a few of them it answers with a question about what is meant. Then the admissible actions are the numbers to
        choose from: the simulator takes the next input as the choice, whatever it is.
        """
        self._check_loaded("admissible")
        return sorted(self._call(Simulator.admissible, self._episode))

    def expert(self) -> str | None:
        """Return the next action of the simulator's own solution while the episode has followed it, else None."""
        gold = self._gold
        if gold is None:
            self._call(Simulator.aside, "load", *self._check_loaded("expert"), True)  # 0.3 s as a rule, up to 7 s
            gold = self._gold = self._call(Simulator.aside, "getGoldActionSequence")
        n = len(self._played)
        return gold[n] if gold[:n] == self._played and n < len(gold) else None

    def mask(self, text: str) -> str:
        """Return a text without temperatures and with its lines sorted.

        Here neither of the two varies; records from elsewhere may list things in any order.
        """
        return "\n".join(sorted(_TEMPERATURE.sub("#", text).split("\n")))

    def fork(self) -> ScienceWorld:
        """Return a copy, which lives in the same JVM. The JVM ends when all of them are closed."""
        self._check_loaded("fork")
        fork = copy.copy(self)
        fork._played, fork._episode = list(self._played), self._call(Simulator.copy, self._episode)
        assert self._simulator is not None  # it has just answered
        self._simulator.users += 1
        return fork

    def why_no_copy(self) -> str | None:
        return self._call(Simulator.why_no_copy)

    def close(self) -> None:
        simulator, self._simulator, self._episode, self._task = self._simulator, None, None, None
        if simulator is not None:
            simulator.users -= 1
            if not simulator.users:
                simulator.end()

    def _play(self, method: str, *args: Any) -> Any:
        self._check_loaded(method)
        return self._call(Simulator.play, self._episode, method, *args)

    def _check_loaded(self, method: str) -> tuple[str, int, str]:
        """Return the task that is loaded. Raises EnvironmentFailed if there is none."""
        if self._task is None or self._running() is None:
            raise EnvironmentFailed(f"{self.spec}: {method}: no task is loaded; `reset` loads one")
        return self._task

    def _running(self) -> Simulator | None:
        """Return the simulator if it is running."""
        return self._simulator if self._simulator is not None and self._simulator.usable else None

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call a method of the simulator, which is started if it is not running.

        Raises:
            EnvironmentFailed: The call failed. The simulator is ended then.
        """
        simulator = self._running()
        if simulator is None:
            self.close()
            simulator = self._simulator = Simulator(self._memory, self._limit)
        try:
            return method(simulator, *args)
        except ChildFailed as e:
            simulator.end()
            self.close()
            name = next((arg for arg in args if isinstance(arg, str)), method.__name__)
            raise EnvironmentFailed(f"{self.spec}: {name}: {e}") from None


@dataclass
class JvmEpisode:
    """An episode in the JVM.

    Its state is the interface together with the variables that all interfaces share (eexp.State), which can be copied;
    None where Java does not allow copies.
    """

    interface: Any  # that of the simulator which plays it
    state: Any


class Simulator:
    """A JVM with ScienceWorld's interfaces: one for each episode and its copies, another for questions beside them.

    The variables that all interfaces share are at any time those of one episode, the current one.

    The methods raise ChildFailed if the JVM does not answer.

    Args:
        memory: The most memory of the JVM, as its option -Xmx has it.
        limit: Seconds for one answer.

    Raises:
        EexpError: The JVM does not start.
    """

    users = 1  # how many environments use it

    def __init__(self, memory: str, limit: float):
        from py4j.java_gateway import GatewayParameters, find_jar_path
        from scienceworld.constants import JAR_PATH

        self._limit = limit
        # Not by the package's launcher: it takes no options for the JVM and lets any local user connect.
        command = [
            _java(),
            *JVM,
            *_options_of_version(),
            f"-Xmx{memory}",
            "-classpath",
            os.pathsep.join((find_jar_path(), JAR_PATH, str(CLASSES))),
            "py4j.GatewayServer",
            "--die-on-broken-pipe",
            "--enable-auth",
            "0",
        ]
        self._stderr = tempfile.TemporaryFile()
        self._child = Child(command, stderr=self._stderr.fileno(), cwd=tempfile.gettempdir())
        try:
            port, token = int(self._child.read_line(limit)), self._child.read_line(limit).decode()
            with self._failures():
                self._connect(GatewayParameters(port=port, auth_token=token, read_timeout=limit))
        except (ChildFailed, ValueError) as e:
            self._child.end()
            raise EexpError(f"java: {self._error_output() or e}. {INSTALL}") from None

    def _connect(self, parameters: Any) -> None:
        from py4j.java_gateway import JavaGateway

        _silence_py4j()
        gateway: Any = JavaGateway(gateway_parameters=parameters)
        self._client, self._jvm = gateway._gateway_client, gateway.jvm
        # The simulator prints while it works. That pipe is not read, and once it is full the simulator would stop.
        self._jvm.System.setOut(self._jvm.java.io.PrintStream(os.devnull))
        self._interface = self._jvm.scienceworld.runtime.pythonapi.PythonInterface
        self._aside = self._interface()
        self._current: JvmEpisode | None = None
        self._random = _scala_object(self._jvm.scala.util, "Random")
        self._numbers = _scala_object(self._jvm.util, "UniqueIdentifier")

    @property
    def usable(self) -> bool:
        """Whether it is running and belongs to this process; a fork of this process must start its own simulator."""
        if not self._child.usable:
            self._client.is_connected = False  # or py4j would use the parent's socket when it collects objects
        return self._child.usable

    def new_episode(self) -> JvmEpisode:
        """Return a new interface, with its state where Java allows copies."""
        reason = self.why_no_copy()
        with self._failures():
            interface = self._interface()
            return JvmEpisode(interface, None if reason else self._state_of(interface))

    def _state_of(self, interface: Any) -> Any:
        return self._jvm.eexp.State(interface, ",".join(SINGLETONS))

    def why_no_copy(self) -> str | None:
        """Return why episodes cannot be copied; None where they can."""
        return self._no_copy

    @cached_property
    def _no_copy(self) -> str | None:
        from py4j.protocol import Py4JJavaError

        with self._failures():
            try:
                self._jvm.Class.forName("sun.misc.Unsafe")  # of a module that a Java runtime may lack
                self._state_of(self._aside)
            except Py4JJavaError as e:
                return "Java does not allow it: " + " ".join(str(e.java_exception).split())
        return None

    def copy(self, episode: JvmEpisode) -> JvmEpisode:
        """Return an independent copy of an episode."""
        with self._failures():
            self._enter(episode)
            episode.state.leave()
            state = episode.state.copy()
            return JvmEpisode(state.episode(), state)

    def _enter(self, episode: JvmEpisode) -> None:
        """Make an episode the current one."""
        if self._current is not episode and episode.state is not None:
            if self._current is not None:
                self._current.state.leave()
            episode.state.enter()
            self._current = episode

    def play(self, episode: JvmEpisode, method: str, *args: Any) -> Any:
        """Call a method of the interface that plays an episode."""
        with self._failures():
            self._enter(episode)
            return getattr(episode.interface, method)(*args)

    def aside(self, method: str, *args: Any) -> Any:
        """Call a method of the other interface, and leave the episode alone."""
        from py4j.java_collections import JavaList

        with self._failures(), self._undisturbed():
            answer = getattr(self._aside, method)(*args)
            return list(answer) if isinstance(answer, JavaList) else answer

    def admissible(self, episode: JvmEpisode) -> set[str]:
        """Return the actions that the parser would match in the current state of an episode."""
        with self._failures():
            self._enter(episode)
            with self._undisturbed():
                return self._admissible(episode.interface)

    def _admissible(self, interface: Any) -> set[str]:
        listed = json.loads(interface.getValidActionObjectCombinationsJSON())["validActions"]
        reachable = self._reachable_objects(interface)
        return {
            valid["action"]
            for valid in listed
            if reachable.issuperset(valid["obj_ids"]) or _ANYWHERE.match(valid["action"])
        }

    def _reachable_objects(self, interface: Any) -> set[int]:
        """Return the numbers of the objects that the simulator's parser considers: in the room, and with the agent."""
        actor = interface.agentInterface().get()
        room, agent = actor.getAgentVisibleObjects(False)._2(), interface.agent().get()
        parser = actor.inputParser()
        tables = (parser.getAllUniqueReferentsLUT(root, True, False) for root in (room, agent))
        return {int(number) for table in tables for number in table.keys().mkString(" ").split()}

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn the errors of py4j into ChildFailed with a message of one line."""
        from py4j.protocol import Py4JError, Py4JJavaError

        start = time.monotonic()
        try:
            yield
        except Py4JJavaError as e:
            raise ChildFailed(" ".join(str(e.java_exception).split())) from None
        except Py4JError as e:
            if time.monotonic() - start >= self._limit:
                raise ChildFailed(f"no answer within {self._limit:g} s (EEXP_ENV_TIMEOUT)") from None
            raise ChildFailed(f"java: {self._child.describe_end() or e} {self._error_output()}".rstrip()) from None

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Restore what all interfaces in the JVM share: the random numbers, and the numbers of objects."""
        if self._current is not None:
            variables = self._current.state.variables()
            yield
            variables.enter()
        else:
            count, random = self._numbers.count(), self._random_state()
            yield
            getattr(self._numbers, "count_$eq")(count)
            self._random.setSeed(random ^ 0x5DEECE66D)  # java.util.Random keeps the seed it is given XORed with this

    def _random_state(self) -> int:
        """Return the state of the generator. Java shows it only in the serialised form, whose last field it is."""
        memory = self._jvm.java.io.ByteArrayOutputStream()
        stream = self._jvm.java.io.ObjectOutputStream(memory)
        stream.writeObject(self._random.self())
        stream.flush()
        return int.from_bytes(memory.toByteArray()[-9:-1], "big")

    def end(self) -> None:
        """End the JVM."""
        self._client.is_connected = False
        self._child.end()
        self._stderr.close()

    def _error_output(self) -> str:
        """Return what the JVM wrote to its standard error, in one line."""
        self._stderr.seek(0)
        lines = self._stderr.read(10_000).decode("utf-8", "replace").splitlines()
        return " ".join(line.strip() for line in lines if not line.startswith("Picked up "))[:300]


def _scala_object(package: Any, name: str) -> Any:
    return getattr(getattr(package, f"{name}$"), "MODULE$")


def _check_installed() -> None:
    with installed_by(INSTALL):
        import py4j.java_gateway  # noqa: F401
        import scienceworld.constants  # noqa: F401
    if not shutil.which(_java()):
        raise EexpError(f"no {_java()!r} found. {INSTALL}")


def _options_of_version() -> list[str]:
    """Return the options that the installed version of Java needs, so that states can be copied by sun.misc.Unsafe."""
    java = shutil.which(_java())
    try:
        release = (Path(os.path.realpath(java or "")).parents[1] / "release").read_text()
    except (OSError, IndexError):
        return []
    version = re.search(r'JAVA_VERSION="(\d+)', release)
    return ["--sun-misc-unsafe-memory-access=allow"] if version and int(version[1]) >= 23 else []


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    return os.path.join(home, "bin", "java") if home else "java"


def _all_kinds() -> list[str]:
    from scienceworld.constants import ID2TASK

    return list(ID2TASK.values())


def _kinds(option: str) -> list[str]:
    """Return the kinds of task that names, or beginnings of names, stand for, in the package's order."""
    known, chosen = _all_kinds(), set()
    for part in option.split(","):
        matches = [part] if part in known else [kind for kind in known if kind.startswith(part)]
        if not matches:
            raise option_error("scienceworld", "task", part, f"no such task; there are: {', '.join(known)}")
        chosen.update(matches)
    return [kind for kind in known if kind in chosen]


def _simplifications(option: str) -> str:
    """Return the option `simplifications` as the simulator expects it.

    The simulator ignores names that it does not know, so they are checked here.
    """
    if option in ("easy", "none"):
        return option.removesuffix("none")
    for part in option.split(","):
        if part not in SIMPLIFICATIONS:
            known = ", ".join(("easy", "none", *SIMPLIFICATIONS))
            raise option_error("scienceworld", "simplifications", part, f"no such simplification; there are: {known}")
    return option


def _silence_py4j() -> None:
    """Silence py4j, which logs each failed call with a traceback, sometimes to the root logger.

    The errors of this module report the failure in one line.
    """
    logging.getLogger("py4j").setLevel(logging.CRITICAL + 1)
    root = logging.getLogger()
    root.removeFilter(_not_from_py4j)
    root.addFilter(_not_from_py4j)


def _not_from_py4j(record: logging.LogRecord) -> bool:
    return record.module != "java_gateway"
