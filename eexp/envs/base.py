"""The environment contract: what a stage may ask of an environment.

A class with `splits`, `tasks`, `reset` and `step` can be branched, executed and evaluated in. All other methods are
optional, and each of them adds something: `fork` (or `save` and `restore`, or `in_process`) cheap branches, `expert`
demonstrations, `admissible` alternatives without a model, `explain` thoughts, `harmless` branches in place, `mask`
comparisons in a world with noise, `action_equality` alternatives that differ in case alone, `kind_of` results by kind
of task, `task_named` tasks that need no list, `task_beginning` tasks of recorded trajectories, and `achieved` hindsight
demonstrations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eexp.errors import EnvironmentFailed, UsageError, environment_errors, short

STEP_LIMIT = 300.0  # seconds that a step may take, where neither the environment nor the user gives a limit

#: The ways to fork an environment (eexp/envs/forking.py), the best one first, and the choice among them.
FORK_WAYS = ("state", "process", "replay")
FORK_AUTO = "auto"


@dataclass
class Observation:
    """What the agent reads after `reset` and `step`, and how the episode stands."""

    text: str  # what the policy reads
    done: bool = False  # whether the episode is over
    score: float | None = None  # from 0 to 1; None where the environment gives none
    valid: bool = True  # False where the environment refused the action. Its message is then the text.
    #: The environment's own judgement, which is believed. None while it cannot tell; where it is None,
    #: only a score of 1 counts as success, also before the episode ends (`records.succeeded`).
    success: bool | None = None
    #: (start, end) of the parts of the text that nothing before in the episode determines, such as what lies in a room
    #: that was never entered, in characters; None where the environment cannot tell.
    unknown: list[tuple[int, int]] | None = None
    #: True where the action changed the state although the text may repeat the one before, such as a second `Got 1
    #: log`. None where the texts tell.
    changed: bool | None = None
    screenshot: str | None = None  # the file of a picture of what was observed; None where none was kept
    #: The functions that an action may call from here on, as OpenAI's schemas: `{"type": "function", "function":
    #: {"name", "description", "parameters": JSON Schema}}`. `reset` gives them where there are any, and `step` where
    #: they differ from before; None leaves them as they are.
    tools: list[dict] | None = None
    interface: dict | None = None  # what a `changed:` environment did to this observation, by the kind of change
    imagined: str | None = None  # the fingerprint of the world model that wrote this observation; None where none did

    def outcome(self) -> dict:
        """Return the observation as the `outcome` of a record."""
        fields = {"observation": self.text, "done": self.done, "score": self.score, "valid": self.valid}
        fields |= {} if self.success is None else {"success": self.success}
        return fields | self.annotations()

    def annotations(self) -> dict:
        """Return the keys of a record that say more of the observation, as far as the environment says it."""
        unknown = None if self.unknown is None else [list(part) for part in self.unknown]
        notes = {"unknown": unknown, "changed": self.changed, "screenshot": self.screenshot, "tools": self.tools}
        notes |= {"interface": self.interface, "imagined": self.imagined}
        return {key: value for key, value in notes.items() if value is not None}

    def at_beginning(self) -> Observation:
        """Return the observation without its functions: those of the first one stand in the trajectory itself."""
        return replace(self, tools=None)


class Environment(ABC):
    """An environment in which one episode is played at a time. Use as a context manager.

    The parameters of its constructor are the options of its spec, as strings.

    Raises:
        UsageError: An option makes no sense, or names what does not exist.
        EexpError: It cannot start: a package is missing, a file cannot be read, or there is no such server.
        NoRoom: Its server is full.
    """

    spec: str = ""  # the spec that opens this environment again, as written into records
    max_steps: int = 50  # how many actions an episode may take, unless the caller says otherwise
    #: Whether all its state is in the memory of this process and one thread works on it, C libraries included: a fork
    #: of the process is then an exact copy. Files, sockets, threads and child processes that `step` uses rule it out.
    in_process: bool = False
    #: Whether many instances may live in one process side by side, sharing nothing that changes, and a step of each
    #: takes next to no time and cannot hang: `eexp eval` then plays many episodes in its own process. C libraries often
    #: keep something global. Any other environment gets a process for each instance.
    light: bool = False
    #: Whether its observations may depend on how fast this machine is, as those of pages do, whose scripts take their
    #: time. `eexp expert` then plays every trajectory a second time, and refuses one that goes differently.
    depends_on_timing: bool = False
    #: The options of the spec (`name?key=value`) that a record alone may set, since they only choose among tasks and
    #: rules. All others, such as a path, need the same spec on the command line.
    record_options: frozenset[str] = frozenset()

    @abstractmethod
    def splits(self) -> list[str]:
        """Return the names of the task splits; the first is the one to train on."""

    @abstractmethod
    def tasks(self, split: str) -> Iterator[dict]:
        """Yield the tasks of a split in a fixed order: `{"id": str, ...whatever reset needs...}`.

        Stages take them from `list_tasks`, which has checked that there is such a split.
        """

    def list_tasks(self, split: str) -> Iterator[dict]:
        """Return the tasks of a split, each with the name of the split as `split` where it has none.

        Raises:
            UsageError: There is no such split.
            EnvironmentFailed: `tasks` raises an unexpected error, or yields something without an id.
        """
        with environment_errors(f"{self.spec}: splits"):
            self.check_split(split)
        return self._checked_tasks(split)

    def _checked_tasks(self, split: str) -> Iterator[dict]:
        where = f"{self.spec}: tasks"
        with environment_errors(where):
            for n, task in enumerate(self.tasks(split)):
                if not isinstance(task, dict) or not isinstance(task.get("id"), str):
                    raise EnvironmentFailed(f"{where}: task {n} of {split} has no id that is a string: {short(task)}")
                yield task if "split" in task else {**task, "split": split}

    def task_named(self, name: str) -> dict:
        """Return the task that a record from elsewhere calls `name`, where the name alone says which task it is.

        Leave it out where only the list of tasks can tell; `eexp import` then looks for the name in that list. It may
        be called after `close`, too.

        Raises:
            InputError: No task here has this name.
        """
        raise NotImplementedError(f"{self.spec} lists its tasks")

    def task_beginning(self, observation: str) -> dict | None:
        """Return the task that begins with this observation; None if the observation alone does not say which it is.

        `eexp import` asks where no task here has the name that a record gives. It may be called after `close`, too.
        """
        return None

    @abstractmethod
    def reset(self, task: dict) -> Observation:
        """Start the task from its beginning. The same task always starts the same way.

        Raises:
            InputError: There is no such task, or what it is made of has changed since the record was made.
        """

    @abstractmethod
    def step(self, action: str) -> Observation:
        """Execute one action. Any text is allowed; an action that makes no sense gets an answer with `valid` false."""

    def instruction(self) -> str:
        """Return what the current task asks for, in words. Call it after `reset`."""
        return ""

    def admissible(self) -> list[str] | None:
        """Return every action that the current state accepts, in a fixed order; None if they cannot be listed."""
        return None

    def expert(self) -> str | None:
        """Return the expert's action in the current state; None if there is no expert or it knows no action."""
        return None

    def explain(self) -> str | None:
        """Return what is known and what the task still needs, in words, for a reflection on the current state.

        It may say only what the agent can know: what it has observed in this episode, and general knowledge of such a
        world. None where there is nothing to say.
        """
        return None

    def achieved(self, task: dict, actions: Sequence[str]) -> list[tuple[int, dict]]:
        """Return the tasks that a sequence of actions solves, for hindsight demonstrations (`eexp relabel`).

        Each is a task that `reset` takes, of a form that this environment has, and the number of actions that come
        before its beginning: 0 for a task that begins as `task` does. The last action solves it. The answer depends on
        the arguments alone, and the current episode stays as it is.

        Args:
            task: The task in which the actions were taken.
            actions: All actions from the beginning of the task, at least one.
        """
        return []

    def fork(self) -> Environment:
        """Return an independent copy in the current state. Leave it out if a state can only be reached by replay."""
        raise NotImplementedError(f"{self.spec} cannot fork")

    def save(self) -> Any:
        """Return the current state for `restore`. Cheaper than `fork` where most of an environment need not be copied.

        A state may be restored any number of times.
        """
        raise NotImplementedError(f"{self.spec} cannot save")

    def restore(self, state: Any) -> None:
        """Go back to the state that `save` returned."""
        raise NotImplementedError(f"{self.spec} cannot restore")

    def release(self, state: Any) -> None:
        """Let go of a state that `save` returned, which will not be restored again. Optional; here it does nothing."""

    def why_no_copy(self) -> str | None:
        """Return why `fork` and `save` do not work here, although the class has them; None where they do."""
        return None

    def has(self, method: str) -> bool:
        """Return whether the environment has an optional method, such as `fork`, or `save` and with it `restore`."""
        return getattr(type(self), method) is not getattr(Environment, method)

    def harmless(self, action: str) -> bool:
        """Return whether the action only asks: executed in place, it leaves the state exactly as it is."""
        return False

    def kind_of(self, task: dict) -> str | None:
        """Return the kind of a task, by which results are broken down; None where there are no kinds.

        It depends on the task alone and leaves the current episode as it is.
        """
        kind = task.get("kind")
        return None if kind is None else str(kind)

    def action_equality(self) -> str:
        """Return when two actions are the same, however `step` answers them: "words" or "exact".

        With "words", case, outer punctuation and runs of blanks make no difference. With "exact", as for calls, code
        and commands of a shell, every character does, but for blanks around an action. It is the same in all states.
        """
        from eexp.records.equality import WORDS

        return WORDS

    def mask(self, text: str) -> str:
        """Return an observation without its truly random parts, for comparing two observations."""
        return text

    def close(self) -> None:
        """Release processes and memory. Safe to call twice."""

    def check_split(self, split: str) -> None:
        """Raise UsageError, naming the splits that exist, if `split` does not exist."""
        if split not in self.splits():
            raise UsageError(f"{self.spec} has no split {split!r}; it has: {', '.join(self.splits())}")

    def __enter__(self) -> Environment:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
