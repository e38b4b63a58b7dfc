"""`scienceworld`: thirty kinds of science experiments in words (Wang et al. 2022, arXiv 2203.07540).

The package's simulator runs in a Java process of its own. Some things differ from the package's Python class, so
that a replay sees what was recorded, and soon (benchmarks/scienceworld_replay.py measures both):

- The JVM is started with `-XX:hashCode=2`. Without it the order in which things are listed changes between runs.
- `admissible` and `expert` put the simulator's random numbers back where they were. Both draw from those that
  decide where the bees fly: in the package, whoever lists the valid actions changes which flower bears fruit.
- `admissible` leaves out what the simulator would refuse: its list of valid actions has things in it that are out
  of reach, such as a cup in a closed cupboard; a third of the list is refused.
- A step asks for the observation, the score and whether it is over. The package's `step` computes every valid
  action as well, and its `reset` plays a step.
- A failed task scores 0 and is over (the simulator says -100 and goes on).

Options, as in `scienceworld?task=boil,find-plant&simplifications=openDoors`:
    task             names, or beginnings of names, of the kinds of task to have; all 30 by default
    simplifications  `easy` (the default), `none`, or the simulator's own names with commas between them
    max_steps        actions in an episode, 100 by default, as in the package
    memory           of the JVM, `512m` by default
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import option_error, parse_step_limit
from eexp.errors import EexpError, EnvironmentFailed, InputError
from eexp.processes.child import Child, ChildFailed, time_limit

SPLITS = {"train": "getVariationsTrain", "dev": "getVariationsDev", "test": "getVariationsTest"}
SIMPLIFICATIONS = (
    "teleportAction",
    "selfWateringFlowerPots",
    "openContainers",
    "openDoors",
    "noElectricalAction",
)

INSTALL = "ScienceWorld needs `pip install 'eexp[scienceworld]'` and Java 11 or newer (default-jre-headless)"
JVM = (
    "-XX:+UnlockExperimentalVMOptions",
    "-XX:hashCode=2",  # the same for every object: hash tables keep the order in which they were filled
    "-XX:+UseSerialGC",  # one thread and 100 MB less, and no slower
    "-XX:-UsePerfData",  # no files in /tmp
)

#: Seconds for one answer. The expert's way takes up to 20, and several times that on a machine with much else to do.
LIMIT = 300.0

#: What the simulator answers to an action it did not execute.
REFUSALS = ("No known action matches that input.", "Unknown action.", "Ambiguous request:")
#: What may name objects that are not at hand: going there at once, and the answer to a question.
_ANYWHERE = re.compile(r"teleport to |\d+$")
_TEMPERATURE = re.compile(r"-?\d+(?:\.\d+)?(?= degrees celsius)")


class ScienceWorld(Environment):
    """ScienceWorld, experiments of primary-school science. See the module's docstring for the options, all strings.

    Raises EexpError where the package or Java is missing, UsageError for an option that does not exist.
    """

    spec = "scienceworld"
    record_options = frozenset({"task", "simplifications", "max_steps"})

    def __init__(
        self,
        task: str = "",
        simplifications: str = "easy",
        max_steps: str = "100",
        memory: str = "512m",
    ):
        _check_installed()
        self._kinds = _kinds(task)
        self._simplifications = _simplifications(simplifications)
        self.max_steps = parse_step_limit("scienceworld", max_steps)
        if not re.fullmatch(r"[1-9]\d*[kmgKMG]?", memory):
            raise option_error("scienceworld", "memory", memory, "expected a number with k, m or g")
        self._memory = memory
        self._limit = time_limit(LIMIT)
        self._simulator: Simulator | None = None
        self._task: tuple[str, int, str] | None = None
        self._played: list[str] = []
        self._gold: list[str] | None = None

    def splits(self) -> list[str]:
        return list(SPLITS)

    def tasks(self, split: str) -> Iterator[dict]:
        """The first variation of every kind of task, then the second of every kind, as long as they last."""
        self.check_split(split)
        return self._by_turns({kind: None for kind in self._kinds}, split)

    def _by_turns(self, variations: dict[str, list[int] | None], split: str) -> Iterator[dict]:
        turn = 0
        while variations:
            for kind in list(variations):
                if variations[kind] is None:
                    variations[kind] = self._variations(kind, split)
                if turn >= len(variations[kind]):
                    del variations[kind]
                    continue
                number = variations[kind][turn]
                yield {
                    "id": f"{kind}/{number}",
                    "split": split,
                    "task": kind,
                    "variation": number,
                    "simplifications": self._simplifications,
                }
            turn += 1

    def kind_of(self, task: dict) -> str | None:
        """Return the task's own name, such as find-plant; its variations are the tasks."""
        return task.get("task")

    def _variations(self, kind: str, split: str) -> list[int]:
        self._call(Simulator.aside, "taskStr_$eq", kind)  # a Scala setter; `load` would do as well, slowly
        return sorted(self._call(Simulator.aside, SPLITS[split]))

    def reset(self, task: dict) -> Observation:
        """Load the task and look around.

        Raises InputError for a task that does not exist, EnvironmentFailed if the simulator fails.
        """
        self._task = None
        wanted = self._checked(task)
        said = self._call(Simulator.play, "load", *wanted, False)
        if said:
            raise InputError(" ".join(said.split()), "$.task")
        self._task, self._played, self._gold = wanted, [], None
        text = self._play("freeActionLook").rstrip()
        return Observation(text, score=0.0)  # until the first step the simulator has the last episode's score

    def _checked(self, task: dict) -> tuple[str, int, str]:
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
        """Every action that the simulator would accept, sorted; a few of them it answers by asking what is meant.

        After such a question these are the numbers to choose from: the simulator takes the next input as the
        choice, whatever it is.
        """
        self._check_loaded("admissible")
        return sorted(self._call(Simulator.admissible))

    def expert(self) -> str | None:
        """The next action of the simulator's own solution while the episode has followed it, else None."""
        if self._gold is None:
            self._check_loaded("expert")
            self._call(Simulator.aside, "load", *self._task, True)  # 0.3 s as a rule, up to 7 s
            self._gold = self._call(Simulator.aside, "getGoldActionSequence")
        n = len(self._played)
        return self._gold[n] if self._gold[:n] == self._played and n < len(self._gold) else None

    def mask(self, text: str) -> str:
        """Temperatures blanked out, and the lines sorted.

        Here neither varies. It is for what was recorded elsewhere, where things are listed in any order.
        """
        return "\n".join(sorted(_TEMPERATURE.sub("#", text).split("\n")))

    def close(self) -> None:
        if self._simulator is not None:
            self._simulator.end()
            self._simulator = None

    def _play(self, method: str, *args: Any) -> Any:
        self._check_loaded(method)
        return self._call(Simulator.play, method, *args)

    def _check_loaded(self, method: str) -> None:
        if self._task is None or not self._running():
            raise EnvironmentFailed(f"{self.spec}: {method}: no task is loaded; `reset` loads one")

    def _running(self) -> bool:
        return self._simulator is not None and self._simulator.usable

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call a method of the simulator, started if need be. Raises EnvironmentFailed, and then it is gone."""
        if not self._running():
            self._task = None
            self._simulator = Simulator(self._memory, self._limit)
        try:
            return method(self._simulator, *args)
        except ChildFailed as e:
            self.close()
            self._task = None
            raise EnvironmentFailed(f"{self.spec}: {args[0] if args else method.__name__}: {e}") from None


class Simulator:
    """A JVM with two of ScienceWorld's interfaces: one plays the episode, the other answers questions meanwhile.

    Raises EexpError where the JVM does not start; its methods raise ChildFailed where it does not answer.
    """

    def __init__(self, memory: str, limit: float):
        from py4j.java_gateway import GatewayParameters, find_jar_path
        from scienceworld.constants import JAR_PATH

        self._limit = limit
        # Not by the package's launcher: it takes no options for the JVM and lets any local user call in.
        command = [
            _java(),
            *JVM,
            f"-Xmx{memory}",
            "-classpath",
            os.pathsep.join((find_jar_path(), JAR_PATH)),
            "py4j.GatewayServer",
            "--die-on-broken-pipe",
            "--enable-auth",
            "0",
        ]
        self._complaints = tempfile.TemporaryFile()
        self._child = Child(command, stderr=self._complaints.fileno(), cwd=tempfile.gettempdir())
        try:
            port, token = int(self._child.read_line(limit)), self._child.read_line(limit).decode()
            with self._failures():
                self._connect(GatewayParameters(port=port, auth_token=token, read_timeout=limit))
        except (ChildFailed, ValueError) as e:
            self._child.end()
            raise EexpError(f"java: {self._complaint() or e}. {INSTALL}") from None

    def _connect(self, parameters: Any) -> None:
        from py4j.java_gateway import JavaGateway

        _quieten_py4j()
        gateway = JavaGateway(gateway_parameters=parameters)
        self._client, self._jvm = gateway._gateway_client, gateway.jvm
        # The simulator prints as it works. Nobody reads that pipe, and once full it would stop the simulator.
        self._jvm.System.setOut(self._jvm.java.io.PrintStream(os.devnull))
        interface = self._jvm.scienceworld.runtime.pythonapi.PythonInterface
        self._episode, self._aside = interface(), interface()
        self._random = _scala_object(self._jvm.scala.util, "Random")
        self._numbers = _scala_object(self._jvm.util, "UniqueIdentifier")

    @property
    def usable(self) -> bool:
        """Running, and ours: a fork of this process must start a simulator of its own."""
        if not self._child.usable:
            self._client.is_connected = False  # or py4j would talk, on our parent's socket, about objects it collects
        return self._child.usable

    def play(self, method: str, *args: Any) -> Any:
        """Call a method of the interface that plays the episode."""
        with self._failures():
            return getattr(self._episode, method)(*args)

    def aside(self, method: str, *args: Any) -> Any:
        """Call a method of the other interface, and leave the episode alone."""
        from py4j.java_collections import JavaList

        with self._failures(), self._undisturbed():
            answer = getattr(self._aside, method)(*args)
            return list(answer) if isinstance(answer, JavaList) else answer

    def admissible(self) -> set[str]:
        """The actions that the parser would match in the current state."""
        with self._failures(), self._undisturbed():
            return self._admissible()

    def _admissible(self) -> set[str]:
        listed = json.loads(self._episode.getValidActionObjectCombinationsJSON())["validActions"]
        at_hand = self._objects_at_hand()
        return {
            valid["action"]
            for valid in listed
            if at_hand.issuperset(valid["obj_ids"]) or _ANYWHERE.match(valid["action"])
        }

    def _objects_at_hand(self) -> set[int]:
        """The numbers of the objects among which the simulator's parser looks: in the room, and with the agent."""
        interface = self._episode.agentInterface().get()
        room, agent = interface.getAgentVisibleObjects(False)._2(), self._episode.agent().get()
        found = (interface.inputParser().getAllUniqueReferentsLUT(root, True, False).keys() for root in (room, agent))
        return {int(number) for numbers in found for number in numbers.mkString(" ").split()}

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Say in one line what went wrong."""
        from py4j.protocol import Py4JError, Py4JJavaError

        began = time.monotonic()
        try:
            yield
        except Py4JJavaError as e:
            raise ChildFailed(" ".join(str(e.java_exception).split())) from None
        except Py4JError as e:
            if time.monotonic() - began >= self._limit:
                raise ChildFailed(f"no answer within {self._limit:g} s (EEXP_ENV_TIMEOUT)") from None
            raise ChildFailed(f"java: {self._child.describe_end() or e} {self._complaint()}".rstrip()) from None

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Put back what everything in the JVM shares: the random numbers, and the count that numbers objects."""
        count, state = self._numbers.count(), self._random_state()
        yield
        getattr(self._numbers, "count_$eq")(count)
        self._random.setSeed(state ^ 0x5DEECE66D)  # java.util.Random keeps the seed it is given XORed with this

    def _random_state(self) -> int:
        """The state of the generator. Java shows it only in the serialised form, whose last field it is."""
        memory = self._jvm.java.io.ByteArrayOutputStream()
        stream = self._jvm.java.io.ObjectOutputStream(memory)
        stream.writeObject(self._random.self())
        stream.flush()
        return int.from_bytes(memory.toByteArray()[-9:-1], "big")

    def end(self) -> None:
        self._client.is_connected = False
        self._child.end()
        self._complaints.close()

    def _complaint(self) -> str:
        """What the JVM wrote to its standard error, in one line."""
        self._complaints.seek(0)
        lines = self._complaints.read(10_000).decode("utf-8", "replace").splitlines()
        return " ".join(line.strip() for line in lines if not line.startswith("Picked up "))[:300]


def _scala_object(package: Any, name: str) -> Any:
    return getattr(getattr(package, f"{name}$"), "MODULE$")


def _check_installed() -> None:
    try:
        import py4j.java_gateway  # noqa: F401
        import scienceworld.constants  # noqa: F401
    except ImportError as e:
        raise EexpError(f"{e}. {INSTALL}") from None
    if not shutil.which(_java()):
        raise EexpError(f"no {_java()!r} found. {INSTALL}")


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    return os.path.join(home, "bin", "java") if home else "java"


def _all_kinds() -> list[str]:
    from scienceworld.constants import ID2TASK

    return list(ID2TASK.values())


def _kinds(chosen: str) -> list[str]:
    """The names that `chosen` stands for, in the package's order. A part of it is a name or how some begin."""
    known, found = _all_kinds(), set()
    for part in chosen.split(","):
        matches = [part] if part in known else [kind for kind in known if kind.startswith(part)]
        if not matches:
            raise option_error("scienceworld", "task", part, f"no such task; there are: {', '.join(known)}")
        found.update(matches)
    return [kind for kind in known if kind in found]


def _simplifications(chosen: str) -> str:
    """As the simulator wants them: it ignores names that it does not know, so they are checked here."""
    if chosen in ("easy", "none"):
        return chosen.removesuffix("none")
    for part in chosen.split(","):
        if part not in SIMPLIFICATIONS:
            known = ", ".join(("easy", "none", *SIMPLIFICATIONS))
            raise option_error("scienceworld", "simplifications", part, f"no such simplification; there are: {known}")
    return chosen


def _quieten_py4j() -> None:
    """py4j logs each failed call with a traceback, some to the root logger. We say it in one line ourselves."""
    logging.getLogger("py4j").setLevel(logging.CRITICAL + 1)
    root = logging.getLogger()
    root.removeFilter(_not_from_py4j)
    root.addFilter(_not_from_py4j)


def _not_from_py4j(record: logging.LogRecord) -> bool:
    return record.module != "java_gateway"
