"""`changed:KIND:ENV`: an environment whose interface differs from the one that an agent was trained with.

docs/environments/changed.md says what each kind changes. What a change does is drawn from the task's id, so the same
actions lead to the same observations, in a fork as in a replay, and the task stays solvable: `names` and `order` only
translate, `confirm` and `fail` ask for an action a second time, `dialog` and `split` for another action in between.
The score is ENV's own. What was done to an observation stands in its `interface`.
"""

from __future__ import annotations

import json
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
DIALOGS = 0.25  # the share of observations that a dialog covers
SPLIT = 0.5  # the share of observations with several parts that are shown in two

#: Environments whose observations are pages with numbered elements.
_PAGES = ("web", "miniwob")
#: Dialogs, each as its text and its button.
_DIALOGS = (
    ("This page uses cookies.", "Accept"),
    ("Subscribe to our newsletter?", "No, thanks"),
    ("How do you like it here?", "Not now"),
    ("A new version is available.", "Later"),
    ("Your session was extended.", "OK"),
    ("Have you seen our offers?", "Close"),
)
_CLOSE = {False: "close dialog", True: "click [0]"}  # the action that closes a dialog; on pages
_OTHER_PART = "show other part"


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

    def has(self, method: str) -> bool:
        # Another task has other changes, so the same actions may not solve it here.
        return method != "achieved" and self.world.has(method)

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


# -- something in the way ---------------------------------------------------------------------------------------------


class _InTheWay(Changed):
    """A change by which an observation takes another action before all of it can be read.

    Args:
        pages: Whether observations are pages with numbered elements.
    """

    def __init__(self, world: Environment, pages: bool = False) -> None:
        super().__init__(world)
        self.pages = pages
        self.max_steps = 2 * world.max_steps + 1  # at worst, one action more for every observation

    def task_beginning(self, observation: str) -> dict | None:
        """Return None: what an observation begins with is known only with the task."""
        return None

    def _refuse_functions(self, observation: Observation) -> None:
        if observation.tools is not None:
            raise EnvironmentFailed(f"{self.spec}: no function stands for {self.kind}; leave the tools to the text")


class Interrupted(_InTheWay):
    """The environment with a dialog before some observations. It has to be closed before anything else can be done."""

    kind = "dialog"
    own_state = ("_task_id", "_number", "_covered")

    def __init__(self, world: Environment, pages: bool = False) -> None:
        super().__init__(world, pages)
        self._number = 0  # actions taken so far, without those that are not valid or only ask
        self._covered: Observation | None = None  # the observation under the dialog; None while there is none

    def reset(self, task: dict) -> Observation:
        observation = super().reset(task)
        self._refuse_functions(observation)
        self._number = 0
        return self._shown(observation)

    def step(self, action: str) -> Observation:
        if self._covered is not None:
            if canonical(action) != canonical(_CLOSE[self.pages]):
                return self._dialog(self._covered, valid=False)
            observation, self._covered = self._covered, None
            return replace(observation, changed=True)
        harmless = self.world.harmless(action)
        observation = self.world.step(action)
        if harmless or not observation.valid:
            return observation
        self._number += 1
        return self._shown(observation)

    def _shown(self, observation: Observation) -> Observation:
        """Return an observation, or the dialog that covers it; none covers the end of an episode."""
        rng = random.Random(self._seed(str(self._number)))
        self._covered = observation if not observation.done and rng.random() < DIALOGS else None
        return observation if self._covered is None else self._dialog(observation)

    def _dialog(self, covered: Observation, valid: bool = True) -> Observation:
        text, button = random.Random(self._seed("words", str(self._number))).choice(_DIALOGS)
        if self.pages:
            shown = f"dialog {json.dumps(text)}\n  [0] button {json.dumps(button)}"
        else:
            shown = f"A dialog is in the way: {text} Close it first: {_CLOSE[False]}"
        unknown = None if covered.unknown is None else [(0, len(shown))] if valid else []
        standing = {"score": covered.score, "success": covered.success, "screenshot": covered.screenshot}
        return self._marked(Observation(shown, valid=valid, unknown=unknown, **standing), text)

    def admissible(self) -> list[str] | None:
        actions = self.world.admissible()
        return actions if self._covered is None or actions is None else [_CLOSE[self.pages]]

    def expert(self) -> str | None:
        action = self.world.expert()
        return action if self._covered is None or action is None else _CLOSE[self.pages]

    def harmless(self, action: str) -> bool:
        return self._covered is None and self.world.harmless(action)


_ELEMENT = re.compile(r"(?:^[ ]*|\| )(?:row )?\[(\d+)\] ", re.MULTILINE)  # that a line of a page begins with
_NAMED = re.compile(r"(?:click|hover|type|select) \[(\d+)\]")  # the element that an action names
_LINE_END = re.compile(r"\n(?=[^\n])")
_SENTENCE_END = re.compile(r"(?<=[.!?])[ \t]+(?=\S)")


class Halved(_InTheWay):
    """The environment with some observations in two parts, of which one is shown at a time.

    On pages, only elements of the part that is shown can be acted on.
    """

    kind = "split"
    own_state = ("_task_id", "_whole", "_parts", "_part", "_read")

    def __init__(self, world: Environment, pages: bool = False) -> None:
        super().__init__(world, pages)
        self._whole = Observation("")  # the latest observation that was no refusal
        self._parts: tuple[list[Piece], ...] = ()  # two, or none where it is shown as a whole
        self._part = 0  # the number of the part that is shown
        self._read = False  # whether both were

    def reset(self, task: dict) -> Observation:
        observation = super().reset(task)
        self._refuse_functions(observation)
        return self._shown(observation)

    def step(self, action: str) -> Observation:
        if self._parts and canonical(action) == canonical(_OTHER_PART):
            self._part, self._read = 1 - self._part, True
            return replace(self._shown_part(), changed=True)
        if (element := self._elsewhere(action)) is not None:
            text = f"There is no [{element}] in this part of the page: {_OTHER_PART}"
            standing = {"score": self._whole.score, "success": self._whole.success}
            return Observation(text, valid=False, unknown=None if self._whole.unknown is None else [], **standing)
        harmless = self.world.harmless(action)
        observation = self.world.step(action)
        return self._shown(observation) if observation.valid and not harmless else observation

    def _shown(self, observation: Observation) -> Observation:
        self._whole, self._part, self._read = observation, 0, False
        self._parts = () if observation.done else self._halves(observation.text)
        return self._shown_part() if self._parts else observation

    def _halves(self, text: str) -> tuple[list[Piece], ...]:
        """Return the pieces of the two parts of a text; none where it is shown as a whole.

        A page has its first line in both, and is parted between lines; any other text after a sentence of its one line.
        """
        if random.Random(self._seed(text)).random() >= SPLIT:
            return ()
        ends = [match.span() for match in _LINE_END.finditer(text)]
        head = [Piece(0, ends[0][1])] if self.pages and ends else []
        if len(ends) <= len(head) and not self.pages:
            ends = [match.span() for match in _SENTENCE_END.finditer(text)]
        ends = ends[len(head) :]
        if not ends:
            return ()
        (end, start), begin = ends[(len(ends) - 1) // 2], head[0].end if head else 0
        return [*head, Piece(begin, end)], [*head, Piece(start, len(text))]

    def _shown_part(self) -> Observation:
        text, part = self._whole.text, self._part + 1
        hint = f"(Part {part} of 2. The rest: {_OTHER_PART})"
        pieces = [*self._parts[self._part], Piece(len(text), len(text), f"\n{hint}")]
        shown = put_together(text, pieces)
        observation = replace(self._whole, text=shown, unknown=moved(self._whole.unknown, pieces))
        return self._marked(observation, part)

    def _elements(self, part: int) -> set[str]:
        return set(_ELEMENT.findall(put_together(self._whole.text, self._parts[part])))

    def _elsewhere(self, action: str) -> str | None:
        """Return the number of the element that an action names, if it is in the part that is not shown."""
        named = _NAMED.match(action.strip()) if self.pages and self._parts else None
        if named is None or named[1] in self._elements(self._part):
            return None
        return named[1] if named[1] in self._elements(1 - self._part) else None

    def admissible(self) -> list[str] | None:
        actions = self.world.admissible()
        if actions is None or not self._parts:
            return actions
        return [*(action for action in actions if self._elsewhere(action) is None), _OTHER_PART]

    def expert(self) -> str | None:
        action = self.world.expert()
        if action is None or not self._parts:
            return action
        if self.pages and not action.startswith("stop"):  # what is not named need not be read
            return action if self._elsewhere(action) is None else _OTHER_PART
        return action if self._read else _OTHER_PART

    def harmless(self, action: str) -> bool:
        is_own = canonical(action) == canonical(_OTHER_PART) or self._elsewhere(action) is not None
        return not is_own and self.world.harmless(action)


# -- opening ---------------------------------------------------------------------------------------------------------

#: The changes that take no file, by the name of their kind.
_WITHOUT_FILE = {change.kind: change for change in (Reordered, Confirmed, Failing)}
#: Those of them that look different on pages.
_IN_THE_WAY = {change.kind: change for change in (Interrupted, Halved)}


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
    if kind in _IN_THE_WAY:
        return _IN_THE_WAY[kind](world, pages=name in _PAGES)
    head, equals, file = kind.partition("=")
    built_in = _SYNONYMS / f"{name}.toml"
    if head != Renamed.kind or bool(equals) != bool(file):
        known = ", ".join([Renamed.kind, f"{Renamed.kind}=FILE", *_WITHOUT_FILE, *_IN_THE_WAY])
        raise UsageError(f"changed:{kind}: unknown kind of change; known: {known}")
    if not file and not (re.fullmatch(r"\w+", name) and built_in.is_file()):
        raise UsageError(
            f"changed:names: eexp has no synonyms for {name}; write some into a file: changed:names=FILE:ENV"
        )
    return Renamed(world, read_synonyms(file or built_in), file)
