"""`changed:KIND:ENV`: an environment whose interface differs from the one that an agent was trained with.

docs/environments/changed.md says what each kind changes. What a change does is drawn from the task's id, so the same
actions lead to the same observations, in a fork as in a replay, and the task stays solvable: `names` and `order` only
translate, `confirm` and `fail` ask for an action a second time. The score is ENV's own. What was done to an observation
stands in its `interface`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.pieces import Piece, moved, put_together
from eexp.envs.reordering import reordered
from eexp.envs.wrapper import Wrapper
from eexp.errors import EnvironmentFailed, InputError, UsageError
from eexp.records.record import canonical, seed_of
from eexp.records.toml_file import read_toml

_SYNONYMS = Path(__file__).parents[1] / "data" / "synonyms"  # one file for each environment that has built-in ones
_WORD = re.compile(r"\w+(?:-\w+)*")

CONFIRMED = 0.5  # the share of verbs that have to be confirmed
FAILING = 0.25  # the share of actions that have no effect the first time


class Changed(Wrapper):
    """Another environment with a change in its interface.

    Args:
        world: The environment as it is. Closing this one closes it, too.
    """

    kind = ""
    own_state = ("_task_id",)

    def __init__(self, world: Environment) -> None:
        super().__init__(world)
        self.spec = f"changed:{self.kind}:{world.spec}"
        self._task_id = ""

    def reset(self, task: dict) -> Observation:
        observation = self.world.reset(task)
        self._task_id = str(task.get("id"))
        return observation

    def _seed(self, *parts: str) -> int:
        return seed_of("changed", self.kind, self._task_id, *parts)

    def _marked(self, observation: Observation, what: Any) -> Observation:
        """Return an observation that says what this change did to it."""
        return replace(observation, interface={**(observation.interface or {}), self.kind: what})


# -- other words -----------------------------------------------------------------------------------------------------


class Renamed(Changed):
    """The environment with other names. See `read_synonyms`.

    A name and the word that stands for it change places, in what the agent reads and in its actions. So nothing gets
    lost, and an action in the old words names something that the environment does not have.
    """

    kind = "names"
    own_state = ("_task_id", "_other_word")

    def __init__(self, world: Environment, synonyms: Mapping[str, list[str]], file: str = "") -> None:
        super().__init__(world)
        self.synonyms = synonyms
        self.spec = f"changed:{self.kind}{f'={file}' if file else ''}:{world.spec}"
        self._other_word: dict[str, str] = {}  # in both directions

    def reset(self, task: dict) -> Observation:
        observation = super().reset(task)
        rng = random.Random(self._seed())
        drawn = {name: rng.choice(words) for name, words in self.synonyms.items()}
        self._other_word = drawn | {word: name for name, word in drawn.items()}
        return self._translated(observation)

    def step(self, action: str) -> Observation:
        return self._translated(self.world.step(self._swap(action)))

    def instruction(self) -> str:
        return self._swap(self.world.instruction())

    def admissible(self) -> list[str] | None:
        actions = self.world.admissible()
        return None if actions is None else [self._swap(action) for action in actions]

    def expert(self) -> str | None:
        action = self.world.expert()
        return None if action is None else self._swap(action)

    def explain(self) -> str | None:
        notes = self.world.explain()
        return None if notes is None else self._swap(notes)

    def harmless(self, action: str) -> bool:
        return self.world.harmless(self._swap(action))

    def mask(self, text: str) -> str:
        return self._swap(self.world.mask(self._swap(text)))

    def task_beginning(self, observation: str) -> dict | None:
        """Return None: what the words of an observation stand for is known only with the task."""
        return None

    def _translated(self, observation: Observation) -> Observation:
        if observation.tools is not None:
            raise EnvironmentFailed(f"{self.spec}: names of functions are not changed; leave the tools to the text")
        pieces, renamed = self._pieces(observation.text)
        text, unknown = put_together(observation.text, pieces), moved(observation.unknown, pieces)
        observation = replace(observation, text=text, unknown=unknown)
        return self._marked(observation, renamed) if renamed else observation

    def _swap(self, text: str) -> str:
        return put_together(text, self._pieces(text)[0])

    def _pieces(self, text: str) -> tuple[list[Piece], dict[str, str]]:
        """Return the pieces of a text with its words exchanged, and the words that were: before -> after."""
        pieces: list[Piece] = []
        renamed: dict[str, str] = {}
        position = 0
        for match in _WORD.finditer(text):
            word = self._other_word.get(match[0].lower())
            if word is None or (word := in_the_case_of(match[0], word)) is None:
                continue
            pieces += [Piece(position, match.start()), Piece(*match.span(), word)]
            position = match.end()
            renamed[match[0].lower()] = word.lower()
        return [*pieces, Piece(position, len(text))], renamed


def in_the_case_of(word: str, other: str) -> str | None:
    """Return `other` in lower case, with a capital or in capitals, as `word` is; None where it is none of them."""
    for change in (str.lower, str.capitalize, str.upper):
        if change(word) == word:
            return change(other)
    return None


def read_synonyms(file: str | Path) -> dict[str, list[str]]:
    """Return the synonyms of a TOML file: name -> the words of which one stands for it in a task.

    Raises:
        EexpError: The file cannot be read.
        InputError: It is no such file, or a word stands there twice, so that it could not be translated back.
    """
    table = read_toml(file)
    if not table:
        raise InputError(f'{file}: names nothing; a line of it is: kitchen = ["galley", "scullery"]')
    place_of: dict[str, str] = {}
    for name, words in table.items():
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise InputError(f"{file}: {name}: expected a list of words")
        for word in [name, *words]:
            if not _WORD.fullmatch(word) or len(word) < 2 or not _keeps_its_case(word):
                raise InputError(f"{file}: {name}: {word!r} is not one word of two or more small letters")
            if word in place_of:
                raise InputError(f"{file}: {name}: {word!r} stands at {place_of[word]} already")
            place_of[word] = name
    return table


def _keeps_its_case(word: str) -> bool:
    """Return whether a word in small letters can be found again from its other forms."""
    return word.islower() and word.capitalize().lower() == word.upper().lower() == word


# -- another order ---------------------------------------------------------------------------------------------------


class Reordered(Changed):
    """The environment with the parts of its observations, and its admissible actions, in another order."""

    kind = "order"

    def reset(self, task: dict) -> Observation:
        return self._shuffled(super().reset(task))

    def step(self, action: str) -> Observation:
        return self._shuffled(self.world.step(action))

    def admissible(self) -> list[str] | None:
        actions = self.world.admissible()
        return None if actions is None else sorted(actions, key=self._seed)

    def task_beginning(self, observation: str) -> dict | None:
        """Return None: the order of an observation is known only with the task."""
        return None

    def _shuffled(self, observation: Observation) -> Observation:
        pieces = reordered(observation.text, self._seed)
        elsewhere = sum(piece != in_order for piece, in_order in zip(pieces, sorted(pieces)))
        text, unknown = put_together(observation.text, pieces), moved(observation.unknown, pieces)
        observation = replace(observation, text=text, unknown=unknown)
        return self._marked(observation, elsewhere) if elsewhere else observation


# -- more actions ----------------------------------------------------------------------------------------------------


class _Delayed(Changed):
    """A change by which some actions, the first time, have an answer instead of their effect."""

    own_state = ("_task_id", "_before")

    def __init__(self, world: Environment) -> None:
        super().__init__(world)
        self.max_steps = 2 * world.max_steps  # at worst, every action is needed twice
        self._before = Observation("")  # the world's latest answer to an action that it accepted

    def reset(self, task: dict) -> Observation:
        self._before = super().reset(task)
        return self._before

    def _pass_on(self, action: str) -> Observation:
        observation = self.world.step(action)
        if observation.valid:
            self._before = observation
        return observation

    def _instead(self, text: str, what: str) -> Observation:
        """Return the answer to an action that did not reach the world; `what`: for the record."""
        unknown = None if self._before.unknown is None else [(0, len(text))]
        standing = {"score": self._before.score, "success": self._before.success}
        return self._marked(Observation(text, unknown=unknown, changed=True, **standing), what)

    def _has_effect(self, action: str) -> bool:
        """Return whether the world would accept the action and not take it for a question.

        Where the world can neither be copied nor list its actions, every action that is no question counts.
        """
        if self.world.harmless(action):
            return False
        listed = self.world.admissible()
        if listed is not None and action in listed:
            return True
        if self.world.why_no_copy() is None and self.world.has("fork"):
            with self.world.fork() as fork:
                return fork.step(action).valid
        if self.world.why_no_copy() is None and self.world.has("save"):
            state = self.world.save()
            valid = self.world.step(action).valid
            self.world.restore(state)
            self.world.release(state)
            return valid
        return listed is None


class Confirmed(_Delayed):
    """The environment with some verbs that have to be confirmed: the action takes effect when it is repeated."""

    kind = "confirm"
    own_state = (*_Delayed.own_state, "_pending")

    def __init__(self, world: Environment) -> None:
        super().__init__(world)
        self._pending = ""  # the action that was asked about and not repeated yet

    def reset(self, task: dict) -> Observation:
        self._pending = ""
        return super().reset(task)

    def step(self, action: str) -> Observation:
        if not self._has_effect(action):
            return self._pass_on(action)
        if canonical(action) != self._pending and self._asks_about(verb := _verb(action)):
            self._pending = canonical(action)
            return self._instead(f"Are you sure? Repeat the action to confirm it: {' '.join(action.split())}", verb)
        self._pending = ""
        return self._pass_on(action)

    def _asks_about(self, verb: str) -> bool:
        return random.Random(self._seed(verb)).random() < CONFIRMED


def _verb(action: str) -> str:
    """Return the first word of an action, in small letters."""
    match = _WORD.search(canonical(action))
    return match[0] if match else ""


class Failing(_Delayed):
    """The environment with some actions that have no effect the first time."""

    kind = "fail"
    own_state = (*_Delayed.own_state, "_failed")

    def __init__(self, world: Environment) -> None:
        super().__init__(world)
        self._failed: frozenset[str] = frozenset()  # the actions that have failed in this episode

    def reset(self, task: dict) -> Observation:
        self._failed = frozenset()
        return super().reset(task)

    def step(self, action: str) -> Observation:
        name = canonical(action)
        if name not in self._failed and self._fails(name) and self._has_effect(action):
            self._failed |= {name}
            return self._instead(f"That did not work this time: {' '.join(action.split())}", name)
        return self._pass_on(action)

    def _fails(self, action: str) -> bool:
        return random.Random(self._seed(action)).random() < FAILING


# -- opening ---------------------------------------------------------------------------------------------------------

#: The changes that take no file, by the name of their kind.
_WITHOUT_FILE = {change.kind: change for change in (Reordered, Confirmed, Failing)}


def change(world: Environment, kind: str, name: str) -> Changed:
    """Return `world` with a change of its interface.

    Args:
        world: The environment as it is.
        kind: KIND of a spec, such as `order` or `names=FILE`.
        name: The name of the environment, without wrappers and options. It decides which synonyms are built in.

    Raises:
        UsageError: There is no such kind, or no built-in synonyms for this environment.
        EexpError: The file of synonyms cannot be read.
        InputError: It makes no sense.
    """
    if kind in _WITHOUT_FILE:
        return _WITHOUT_FILE[kind](world)
    head, equals, file = kind.partition("=")
    built_in = _SYNONYMS / f"{name}.toml"
    if head != Renamed.kind or bool(equals) != bool(file):
        known = ", ".join([Renamed.kind, f"{Renamed.kind}=FILE", *_WITHOUT_FILE])
        raise UsageError(f"changed:{kind}: unknown kind of change; known: {known}")
    if not file and not (re.fullmatch(r"\w+", name) and built_in.is_file()):
        raise UsageError(
            f"changed:names: eexp has no synonyms for {name}; write some into a file: changed:names=FILE:ENV"
        )
    return Renamed(world, read_synonyms(file or built_in), file)
