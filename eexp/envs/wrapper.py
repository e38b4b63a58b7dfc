"""An environment around another one: everything is passed on, and a subclass changes what it is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, ClassVar, TypeVar

from eexp.envs.base import Environment, Observation

Self = TypeVar("Self", bound="Wrapper")


class Wrapper(Environment):
    """Another environment, as it is. Closing this one closes it, too.

    Attributes:
        own_state: The names of the attributes with the state of an episode that is the wrapper's own. Their values are
            never changed in place, so that forks can share them.
    """

    own_state: ClassVar[tuple[str, ...]] = ()

    def __init__(self, world: Environment) -> None:
        self.world = world
        self.max_steps, self.in_process, self.light = world.max_steps, world.in_process, world.light
        self.depends_on_timing = world.depends_on_timing

    def splits(self) -> list[str]:
        return self.world.splits()

    def tasks(self, split: str) -> Iterator[dict]:
        return self.world.tasks(split)

    def task_named(self, name: str) -> dict:
        return self.world.task_named(name)

    def task_beginning(self, observation: str) -> dict | None:
        return self.world.task_beginning(observation)

    def reset(self, task: dict) -> Observation:
        return self.world.reset(task)

    def step(self, action: str) -> Observation:
        return self.world.step(action)

    def instruction(self) -> str:
        return self.world.instruction()

    def admissible(self) -> list[str] | None:
        return self.world.admissible()

    def expert(self) -> str | None:
        return self.world.expert()

    def kind_of(self, task: dict) -> str | None:
        return self.world.kind_of(task)

    def explain(self) -> str | None:
        return self.world.explain()

    def achieved(self, task: dict, actions: Sequence[str]) -> list[tuple[int, dict]]:
        return self.world.achieved(task, actions)

    def has(self, method: str) -> bool:
        return self.world.has(method)

    def why_no_copy(self) -> str | None:
        return self.world.why_no_copy()

    def fork(self: Self) -> Self:
        other = copy(self)
        other.world = self.world.fork()
        return other

    def save(self) -> Any:
        return self.world.save(), [getattr(self, name) for name in self.own_state]

    def restore(self, state: Any) -> None:
        inner, values = state
        self.world.restore(inner)
        for name, value in zip(self.own_state, values):
            setattr(self, name, value)

    def release(self, state: Any) -> None:
        self.world.release(state[0])

    def harmless(self, action: str) -> bool:
        return self.world.harmless(action)

    def action_equality(self) -> str:
        return self.world.action_equality()

    def mask(self, text: str) -> str:
        return self.world.mask(text)

    def close(self) -> None:
        self.world.close()
