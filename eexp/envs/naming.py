"""Find a task of an environment: by its id, or by the name that a record from elsewhere gives it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from eexp.envs.base import Environment
from eexp.errors import InputError, UsageError

_GAME = "/game.tw-pddl"  # a path to a game of ALFWorld may end in the file or in its directory


class Tasks:
    """The tasks of an environment by name.

    Args:
        split: Only the tasks of this split; None takes those of all splits.
        template: How a task is called, made of its keys, such as "{level}/{seed}". None takes the environment's own
            way to find a task (`Environment.task_named`) or, where it has none, the task's id.
        names: The name in a record -> the name here; None where they are the same.

    Raises:
        UsageError: There is no such split, or the template does not fit the tasks.
    """

    def __init__(
        self,
        env: Environment,
        split: str | None = None,
        template: str | None = None,
        names: dict[str, str] | None = None,
    ):
        self.spec, self.names, self.split = env.spec, names, split
        self._tasks: dict[str, dict] = {}
        self._ambiguous: set[str] = set()
        if split:
            env.check_split(split)
        self._task_named = env.task_named if template is None and env.has("task_named") else None
        self._task_beginning = env.task_beginning
        if self._task_named:
            return
        template = template or "{id}"
        for task in _tasks_of(env, split):
            try:
                name = template.format_map(task)
            except (LookupError, ValueError, AttributeError, TypeError):
                raise UsageError(
                    f"--match {template!r} does not fit the tasks of {env.spec}: their keys are {', '.join(task)}"
                ) from None
            if self._tasks.setdefault(name, task) is not task:
                self._ambiguous.add(name)

    def find(self, name: str | None, beginnings: Iterable[str] = ()) -> dict:
        """Return the task that a record calls `name`; None where it names none.

        A task matches if its name is the whole of `name`, or the end of it after a "/" or "_"; the longest match wins.
        Where none has the name, the first observation may say which task it is (`Environment.task_beginning`).

        Args:
            beginnings: The first observation, in all forms that it may have in the environment.

        Raises:
            InputError: No task matches, or more than one.
        """
        try:
            return self._find_by_name(name)
        except InputError:
            task = next(filter(None, map(self._task_beginning, beginnings)), None)
            if task is None:
                raise
            return self._in_split(task)

    def _find_by_name(self, name: str | None) -> dict:
        if name is None:
            raise InputError("does not name its task; --task-key gives the key that does")
        own_name = name if self.names is None else self.names.get(name)
        if own_name is None:
            raise InputError(f"--map has no name for the task {name!r}")
        if self._task_named:
            return self._in_split(self._task_named(own_name))
        whole = own_name.removesuffix(_GAME)
        for end in [whole, *(whole[mark.end() :] for mark in re.finditer("[/_]", whole))]:
            if end in self._ambiguous:
                raise InputError(f"{self.spec} has several tasks {end!r}: name the split, or a better --match")
            if end in self._tasks:
                return self._tasks[end]
        example = f"; one is called {next(iter(self._tasks))!r}" if self._tasks else ""
        hint = f"{example}; --task-key, --map or --match say which is meant" if self._tasks else ""
        raise InputError(f"{self.spec} has no task for {own_name!r}{hint}")

    def _in_split(self, task: dict) -> dict:
        """Return a task. Raises InputError if it is not in the split that was given."""
        if self.split and task.get("split") != self.split:
            raise InputError(f"{self.spec}: task {task['id']} is not in {self.split}")
        return task


def _tasks_of(env: Environment, split: str | None) -> Iterator[dict]:
    for name in [split] if split else env.splits():
        yield from env.list_tasks(name)


def find_task(env: Environment, task_id: str | None, split: str | None = None) -> dict:
    """Return the task with an id, or the first one without an id, in any split unless one is named.

    Raises:
        UsageError: There is none.
    """
    for task in _tasks_of(env, split):
        if task_id in (None, task["id"]):
            return task
    raise UsageError(f"{env.spec} has no task {task_id!r}" if task_id else f"{env.spec} has no tasks")
