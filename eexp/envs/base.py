"""The environment contract: what a stage may ask of a world.

Write a class with `tasks`, `reset` and `step` and it can be branched, executed and evaluated in. `fork` (or `save` and
`restore`, or `in_process`), `expert`, `admissible`, `explain`, `harmless`, `mask`, `kind_of` and `task_named` are
optional, and each one that is there buys something: cheap branches, demonstrations, alternatives without a model,
thoughts, trust in a noisy world, results by kind of task, tasks that need no list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from eexp.errors import UsageError


@dataclass
class Observation:
    """What the agent gets to see, and how the episode stands.

    text: what the policy reads. done: the episode is over. score: 0 to 1. valid: false where the environment refused
    the action (its message is then the text). success: judged by the environment; None while it cannot tell.
    unknown: (start, end) of the parts of the text that nothing before in the episode determines, such as what lies in a
    room that was never entered; None where the environment cannot tell.
    """

    text: str
    done: bool = False
    score: float | None = None
    valid: bool = True
    success: bool | None = None
    unknown: list[tuple[int, int]] | None = None

    def outcome(self) -> dict:
        """As the `outcome` of a record."""
        made = {"observation": self.text, "done": self.done, "score": self.score, "valid": self.valid}
        made |= {} if self.success is None else {"success": self.success}
        return made | self.unknown_parts()

    def unknown_parts(self) -> dict:
        """As the `unknown` of a record, which is left out where the environment cannot tell."""
        return {} if self.unknown is None else {"unknown": [list(part) for part in self.unknown]}


class Environment(ABC):
    """One world in which one episode is played at a time."""

    #: The spec that opens this environment again, as written into records.
    spec: str = ""
    #: How many actions an episode may take, unless the caller says otherwise.
    max_steps: int = 50
    #: Whether all its state is in the memory of this process and one thread works on it, C libraries included: a fork
    #: of the process is then an exact copy. Files, sockets, threads and child processes that `step` uses rule it out.
    in_process: bool = False
    #: Whether many may live in one process side by side, sharing nothing that changes, and a step of each takes no time
    #: to speak of and cannot hang: `eexp eval` then plays many episodes in its own process. C libraries often keep
    #: something global. All others get a process each.
    light: bool = False
    #: The options of the spec (`name?key=value`) that a record alone may set, since they only choose among tasks and
    #: rules. All others, such as a path, need the same spec on the command line.
    record_options: frozenset[str] = frozenset()

    @abstractmethod
    def splits(self) -> list[str]:
        """The names of the task splits; the first is the one to train on."""

    @abstractmethod
    def tasks(self, split: str) -> Iterator[dict]:
        """The tasks of a split in a fixed order: `{"id": str, "split": split, ...whatever reset needs...}`.

        Raises UsageError for a split that does not exist.
        """

    def task_named(self, name: str) -> dict:
        """Return the task that a record from elsewhere calls `name`, where the name alone says which one it is.

        Where this is left out, `eexp import` looks for the name in the list of all tasks. Is asked after `close`, too.

        Raises InputError for a name that is of no task here.
        """
        raise NotImplementedError(f"{self.spec} lists its tasks")

    @abstractmethod
    def reset(self, task: dict) -> Observation:
        """Start the task from its beginning. The same task always starts the same way."""

    @abstractmethod
    def step(self, action: str) -> Observation:
        """Execute one action. Anything may be asked; what makes no sense gets an answer with `valid` false."""

    def instruction(self) -> str:
        """What the current task asks for, in words. Call after `reset`."""
        return ""

    def admissible(self) -> list[str] | None:
        """Every action the current state accepts, in a fixed order; None where the environment cannot list them."""
        return None

    def expert(self) -> str | None:
        """The expert's action in the current state; None where there is none or it has nothing to say."""
        return None

    def explain(self) -> str | None:
        """Say in words what is known and what the task still needs, for a reflection on the current state.

        Only what the agent can know: what it has seen in this episode, and what anybody knows of such a world. None
        where there is nothing to say.
        """
        return None

    def fork(self) -> Environment:
        """An independent copy in the current state. Leave it out where only replaying can reach a state again."""
        raise NotImplementedError(f"{self.spec} cannot fork")

    def save(self) -> object:
        """The current state, for `restore`: cheaper than `fork` where most of an environment need not be copied."""
        raise NotImplementedError(f"{self.spec} cannot save")

    def restore(self, state: object) -> None:
        """Go back to what `save` returned, any number of times."""
        raise NotImplementedError(f"{self.spec} cannot restore")

    def has(self, method: str) -> bool:
        """Whether an optional method is there: `fork`, or `save` and with it `restore`."""
        return getattr(type(self), method) is not getattr(Environment, method)

    def harmless(self, action: str) -> bool:
        """Whether the action only asks: executed in place, it leaves the state exactly as it is."""
        return False

    def kind_of(self, task: dict) -> str | None:
        """Return the kind of a task, by which results are broken down; None where there are no kinds.

        Follows from the task alone and leaves the current episode as it is.
        """
        kind = task.get("kind")
        return None if kind is None else str(kind)

    def mask(self, text: str) -> str:
        """The observation with what is truly random in it blanked out, for comparing two of them."""
        return text

    def close(self) -> None:
        """Give back processes and memory. Safe to call twice."""

    def check_split(self, split: str) -> None:
        """Raise UsageError, naming those that exist, if `split` does not."""
        if split not in self.splits():
            raise UsageError(f"{self.spec} has no split {split!r}; it has: {', '.join(self.splits())}")

    def __enter__(self) -> Environment:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
