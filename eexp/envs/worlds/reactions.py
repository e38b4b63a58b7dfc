"""`reactions`: a hidden table of what turns into what, which demonstrations show in part and experience shows further.

Each substance turns into others by seven operations: `boil zodusk` may give tamim. One table holds for all tasks, and
no text tells it, so an agent solves an unseen task only if it knows what operations lead to. The expert knows the table
and takes a shortest way. docs/environments/reactions.md has the splits, the options, and what demonstrations suffice
for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import option_error, parse_choice
from eexp.errors import InputError
from eexp.records.record import canonical

#: Changed whenever a task, a text or a rule changes, so that old records are not mixed with new ones.
WORLD = "reactions-1"

SUBSTANCES = 36
OPERATIONS = 7
STEPS = 2  # operations between the two substances of a task, and most operations of an episode
TRAIN = 48
NOTHING, RUIN = 0.1, 0.2  # shares of the table that change nothing, and that leave ash
FIRST_TABLE_FOR_BASES = 1000


@dataclass(frozen=True)
class Words:
    """How a table is put into words."""

    operations: tuple[str, ...]  # their names
    action: str  # with {operation} and {thing}
    instruction: str  # with {thing}
    holding: str  # what is observed, with {thing}
    nothing: str  # what is observed where an operation changes nothing, with {thing}
    ruined: str  # the thing from which nothing can be made


#: All names, in a fixed order: those before FOR_STUDIES are for the tables of studies, the others for those of bases.
NAMES = [
    a + b + c + d
    for a in "bdfgklmnprstvz"
    for b in "aeou"
    for c in "dgklmnrstv"
    for d in ("al", "ex", "im", "o", "usk")
]
random.Random(f"{WORLD}/names").shuffle(NAMES)
NAMES = NAMES[:800]
FOR_STUDIES = 200

WORDS = {
    "substances": Words(
        ("boil", "burn", "dry", "freeze", "grind", "melt", "salt"),
        "{operation} {thing}",
        "Make {thing}.",
        "You hold {thing}.",
        "Nothing happens. You hold {thing}.",
        "ash",
    ),
    "program": Words(
        ("Add", "Edit", "Find", "Next", "Open", "Save", "Sort"),
        "press {operation} in {thing}",
        "Get to {thing}.",
        "You are in {thing}.",
        "Nothing happens. You are in {thing}.",
        "an error",
    ),
}

#: What an operation makes of a thing: (thing, operation) -> thing, by their numbers. RUINED is never left.
Table = dict[tuple[int, int], int]
RUINED = -1


@lru_cache(maxsize=64)
def table_of(number: int) -> Table:
    """Return a table: each operation makes another substance of a thing, changes nothing, or ruins it."""
    rng = random.Random(f"{WORLD}/table/{number}")
    table: Table = {}
    for thing in range(SUBSTANCES):
        others = [other for other in range(SUBSTANCES) if other != thing]
        for operation, other in enumerate(rng.sample(others, OPERATIONS)):
            table[thing, operation] = _result(rng, thing, other)
    return table


def _result(rng: random.Random, thing: int, other: int) -> int:
    chance = rng.random()
    return thing if chance < NOTHING else RUINED if chance < NOTHING + RUIN else other


@lru_cache(maxsize=64)
def shifted_table(number: int, share: float) -> Table:
    """Return a table of which a share is drawn again."""
    rng, table = random.Random(f"{WORLD}/shift/{number}/{share}"), dict(table_of(number))
    for thing, operation in table:
        if rng.random() < share:
            table[thing, operation] = _result(rng, thing, rng.choice([t for t in range(SUBSTANCES) if t != thing]))
    return table


@lru_cache(maxsize=64)
def names_of(number: int) -> tuple[str, ...]:
    """Return the names of a table's things."""
    names = NAMES[FOR_STUDIES:] if number >= FIRST_TABLE_FOR_BASES else NAMES[:FOR_STUDIES]
    return tuple(random.Random(f"{WORLD}/names/{number}").sample(names, SUBSTANCES))


def shortest_way(table: Table, start: int, goal: int, most: int) -> list[int] | None:
    """Return the operations of a shortest way, the first one in their order; None if it is longer than `most`."""
    ways: dict[int, list[int]] = {start: []}
    frontier = [start]
    while frontier and len(ways[frontier[0]]) < most:
        reached = []
        for thing in frontier:
            for operation in range(OPERATIONS):
                following = table[thing, operation]
                if following != RUINED and following not in ways:
                    ways[following] = [*ways[thing], operation]
                    reached.append(following)
        frontier = reached
    return ways.get(goal)


@lru_cache(maxsize=64)
def tasks_of(number: int) -> tuple[tuple[int, int], ...]:
    """Return all tasks of a table in a random order: what is held at first, and what is to be made, STEPS away."""
    table = table_of(number)
    pairs = [
        (start, goal)
        for start in range(SUBSTANCES)
        for goal in range(SUBSTANCES)
        if len(shortest_way(table, start, goal, STEPS) or []) == STEPS
    ]
    random.Random(f"{WORLD}/tasks/{number}").shuffle(pairs)
    return tuple(pairs)


class Reactions(Environment):
    """A hidden table of reactions. docs/environments/reactions.md lists the options."""

    spec = "reactions"
    in_process = True
    light = True
    max_steps = STEPS
    record_options: ClassVar[frozenset[str]] = frozenset({"table", "words", "shift"})

    def __init__(self, table: str = "0", words: str = "substances", shift: str = "0") -> None:
        name = type(self).spec
        if not table.isdecimal() or len(table) > 9:
            raise option_error(name, "table", table, "expected a number")
        self.words = WORDS[parse_choice(name, "words", words, WORDS)]
        try:
            self.shift = float(shift)
        except ValueError:
            self.shift = -1.0
        if not 0 <= self.shift <= 1:
            raise option_error(name, "shift", shift, "expected a share from 0 to 1")
        given = {"table": (table, "0"), "words": (words, "substances"), "shift": (shift, "0")}
        options = "&".join(f"{key}={value}" for key, (value, default) in given.items() if value != default)
        self.spec = f"{name}?{options}" if options else name
        self.number = int(table)
        self.names = names_of(self.number)
        self.table = table_of(self.number)
        self.thing = self.goal = 0
        self.over = True

    def splits(self) -> list[str]:
        return ["train", "test"]

    def tasks(self, split: str) -> Iterator[dict]:
        self.check_split(split)
        pairs = tasks_of(self.number)
        for i in range(len(pairs[:TRAIN]) if split == "train" else len(pairs[TRAIN:])):
            yield {"id": f"{split}/{i}", "split": split, "world": WORLD}

    def reset(self, task: dict) -> Observation:
        if task.get("world", WORLD) != WORLD:
            raise InputError(f"made for world {task['world']!r}, this is {WORLD!r}", "$.task.world")
        split, _, name = str(task.get("id", "")).partition("/")
        pair = self._pair(split, name)
        if pair is None:
            raise InputError(f"{self.spec} has no task {task.get('id')!r}", "$.task.id")
        shifted = self.shift and split == "test"
        self.table = shifted_table(self.number, self.shift) if shifted else table_of(self.number)
        self.thing, self.goal = pair
        self.over = False
        return self._observe(self.words.holding)

    def _pair(self, split: str, name: str) -> tuple[int, int] | None:
        """Return the start and the goal of a task, by its number or by their names ("zodusk/rorex"); else None."""
        pairs = tasks_of(self.number)
        pairs = {"train": pairs[:TRAIN], "test": pairs[TRAIN:]}.get(split, ())
        if name.isdecimal() and len(name) <= 9 and int(name) < len(pairs):
            return pairs[int(name)]
        start, _, goal = name.partition("/")
        if not pairs or start == goal or start not in self.names or goal not in self.names:
            return None
        return self.names.index(start), self.names.index(goal)

    def instruction(self) -> str:
        return self.words.instruction.format(thing=self.names[self.goal])

    def _name(self, thing: int) -> str:
        return self.words.ruined if thing == RUINED else self.names[thing]

    def _observe(self, text: str, valid: bool = True) -> Observation:
        done = self.thing == self.goal
        self.over = done or self.thing == RUINED
        text = text.format(thing=self._name(self.thing))
        return Observation(text, done=self.over, score=float(done), valid=valid, success=done)

    def _action(self, operation: int) -> str:
        return self.words.action.format(operation=self.words.operations[operation], thing=self._name(self.thing))

    def admissible(self) -> list[str]:
        return [] if self.over else [self._action(operation) for operation in range(OPERATIONS)]

    def step(self, action: str) -> Observation:
        if self.over:
            return self._observe("It is over. " + self.words.holding, valid=False)
        actions = [canonical(self._action(operation)) for operation in range(OPERATIONS)]
        if canonical(action) not in actions:
            return self._observe("That cannot be done here. " + self.words.holding, valid=False)
        following = self.table[self.thing, actions.index(canonical(action))]
        if following == self.thing:
            return replace(self._observe(self.words.nothing), changed=False)
        self.thing = following
        return self._observe(self.words.holding)

    def expert(self) -> str | None:
        """Return the first operation of a shortest way to the goal."""
        way = None if self.over else shortest_way(self.table, self.thing, self.goal, SUBSTANCES)
        return self._action(way[0]) if way else None

    def achieved(self, task: dict, actions: Sequence[str]) -> list[tuple[int, dict]]:
        """Return the tasks to make what is held at the end, from each of the last STEPS things held before it."""
        world = copy(self)
        world.reset(task)
        held = [world.thing]
        for action in actions:
            world.over = False  # the path may go on after the goal of its own task
            if not world.step(action).valid or world.thing == RUINED:
                return []
            held.append(world.thing)
        split, end = str(task["id"]).partition("/")[0], self.names[held[-1]]
        return [
            (since, {"id": f"{split}/{self.names[held[since]]}/{end}", "split": split, "world": WORLD})
            for since in range(max(0, len(actions) - STEPS), len(actions))
            if len({*held[since:]}) == len(held[since:])
        ]

    def fork(self) -> Reactions:
        return copy(self)
