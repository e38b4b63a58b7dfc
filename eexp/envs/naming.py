"""Which task of an environment a record from elsewhere is about, by what it calls it."""

from __future__ import annotations

import re

from eexp.envs.base import Environment
from eexp.errors import InputError, UsageError

_GAME = "/game.tw-pddl"  # a path to a game of ALFWorld may end in the file or in its directory


class Tasks:
    """The tasks of an environment by name.

    split: those of one split, or of all. template: how a task is called, made of its keys, such as "{level}/{seed}";
    None: as the environment itself finds it (`Environment.task_named`), or else by its id. names: what a record calls a
    task -> how it is called here; None where they are the same.
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
        self._twice: set[str] = set()
        if split:
            env.check_split(split)
        self._task_named = env.task_named if template is None and env.has("task_named") else None
        if self._task_named:
            return
        template = template or "{id}"
        for task in (task for one in ([split] if split else env.splits()) for task in env.tasks(one)):
            try:
                name = template.format_map(task)
            except (LookupError, ValueError, AttributeError, TypeError):
                raise UsageError(
                    f"--match {template!r} does not fit the tasks of {env.spec}: their keys are {', '.join(task)}"
                ) from None
            if self._tasks.setdefault(name, task) is not task:
                self._twice.add(name)

    def find(self, name: str) -> dict:
        """The task that a record calls `name`: exactly so, or as the end of it after / or _, the longest first.

        Raises InputError where there is none, or more than one.
        """
        wanted = name if self.names is None else self.names.get(name)
        if wanted is None:
            raise InputError(f"--map has no name for the task {name!r}")
        if self._task_named:
            task = self._task_named(wanted)
            if self.split and task.get("split") != self.split:
                raise InputError(f"{self.spec}: task {task['id']} is not in {self.split}")
            return task
        whole = wanted.removesuffix(_GAME)
        for end in [whole, *(whole[mark.end() :] for mark in re.finditer("[/_]", whole))]:
            if end in self._twice:
                raise InputError(f"{self.spec} has several tasks {end!r}: name the split, or a better --match")
            if end in self._tasks:
                return self._tasks[end]
        some = f"; one is called {next(iter(self._tasks))!r}" if self._tasks else ""
        raise InputError(f"{self.spec} has no task for {wanted!r}{some}")
