"""`babyai`: the levels of BabyAI (Chevalier-Boisvert et al. 2019, arXiv 1810.08272) in words, by the package minigrid.

The agent is in a maze of rooms with balls, boxes, keys and doors, and has a mission such as "put the red ball next to
the green box". It reads what is in its view, 7 cells wide and 7 deep, as the package's own agents see it: where things
are from where it stands, and which way it faces. Actions: turn left, turn right, go forward, pick up, drop, toggle (a
door, or a box, which that destroys), done. Things are picked up, dropped and toggled in the cell ahead.

An action is valid if it changes something, and these are the admissible ones. As in the package, every action takes one
of the steps that the level gives, and the mission is judged after it, whatever it was. Hence `done`, which changes
nothing: in a few episodes (of GoToObjDoor) the agent begins in front of what it shall go to, and the expert says so.

The expert is the package's bot. It plans from what it has seen in this episode, is told of every action, and mends its
plan when another one than its own was taken. Where it cannot, it has nothing to say for the rest of the episode: after
a box was opened, in the few levels that it does not solve (KeyInBox, PutNext...Carrying, and half of UnlockToUnlock),
and where its plan fails.

`explain` says what the part of the mission that is still open is about, and where in view that is. Unknown parts of an
observation are things and walls in cells that were never in view in the episode.

Option, as in `babyai?level=GoTo,Pickup`:
    level    names of levels, with commas between them; by default GoToLocal, PickupLoc, OpenDoor, PutNextLocal,
             UnlockLocalDist, FindObjS5

Splits, by seed, for each level: train 10,000 and test 1,000.

All of it happens in this process, in one thread: `os.fork` is an exact snapshot too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from copy import deepcopy
from functools import cache
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import option_error
from eexp.errors import EexpError, InputError
from eexp.records import canonical

INSTALL = "babyai needs `pip install 'eexp[babyai]'` and Python 3.11 or newer"

DEFAULT_LEVELS = "GoToLocal,PickupLoc,OpenDoor,PutNextLocal,UnlockLocalDist,FindObjS5"
SPLITS = {"train": range(10_000), "test": range(1_000_000, 1_001_000)}

#: What each of the package's actions is called here.
ACTIONS = {
    "turn left": "left",
    "turn right": "right",
    "go forward": "forward",
    "pick up": "pickup",
    "drop": "drop",
    "toggle": "toggle",
    "done": "done",
}
_WORDS = {theirs: ours for ours, theirs in ACTIONS.items()}
_COMPASS = ("east", "south", "west", "north")

#: How many subgoals the bot may add to its plan for one action. It needs ten, and sometimes goes round in circles.
_PLAN_LIMIT = 300


View = dict[tuple[int, int], Any]


class BabyAI(Environment):
    """BabyAI, mazes and missions in words. See the module's docstring.

    Raises EexpError where the package is missing, UsageError for a level that does not exist.
    """

    spec = "babyai"
    in_process = True
    light = True
    record_options = frozenset({"level"})
    max_steps = 10_000  # the level's own limit ends an episode long before: 64 in a single room, 2,880 at the most

    def __init__(self, level: str = DEFAULT_LEVELS) -> None:
        known = _levels()
        self._levels = list(dict.fromkeys(level.split(",")))
        for name in self._levels:
            if name not in known:
                raise option_error("babyai", "level", name, f"no such level; there are: {', '.join(known)}")

    # -- tasks ---------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        return list(SPLITS)

    def tasks(self, split: str) -> Iterator[dict]:
        """The first seed in every level, then the second in every level, and so on."""
        self.check_split(split)
        for seed in SPLITS[split]:
            for level in self._levels:
                yield {"id": f"{level}/{seed}", "split": split, "level": level, "seed": seed}

    def kind_of(self, task: dict) -> str | None:
        """Return the level."""
        return task.get("level")

    def reset(self, task: dict) -> Observation:
        level, seed = task.get("level"), task.get("seed")
        if not isinstance(level, str) or level not in _levels():
            raise InputError(f"babyai has no level {level!r}", "$.task.level")
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise InputError(f"expected a seed from 0 to {2**32 - 1}, got {seed!r}", "$.task.seed")
        with redirect_stdout(io.StringIO()):  # it prints when it has to draw a mission again
            self._world = _make(level)
            self._world.reset(seed=seed)
        self._over, self._score = False, 0.0
        self._viewed: set[tuple[int, int]] = set()  # cells of the grid that have been in view
        self._bot: Any = None
        self._ask_bot(None)
        text, unknown = self._describe()
        return Observation(text, score=0.0, success=False, unknown=unknown)

    def instruction(self) -> str:
        return self._world.mission

    # -- what can be seen ----------------------------------------------------------------------------------------

    def _describe(self) -> tuple[str, list[tuple[int, int]]]:
        """Write what is in view, find the parts of it in cells never in view before, and note that they have been."""
        view = self._view()
        text, unknown = f"You face {_COMPASS[self._world.agent_dir]}. You see ", []
        for i, (at, words) in enumerate([*_walls(view), *_things(view)] or [(None, "nothing")]):
            text += ", " * (i > 0)
            if at and self._cell(at) not in self._viewed:
                unknown.append((len(text), len(text) + len(words)))
            text += words
        self._viewed |= {self._cell(at) for at in view}
        return f"{text}. You carry {_named(self._world.carrying)}.", unknown

    def _cell(self, at: tuple[int, int]) -> tuple[int, int]:
        """Where in the grid lies what is `at` (steps ahead, steps to the right)."""
        world = self._world
        x, y = world.agent_pos + at[0] * world.dir_vec + at[1] * world.right_vec
        return int(x), int(y)

    def _view(self) -> View:
        """What the agent sees, by steps ahead and steps to the right (below 0: to the left), nearest first."""
        grid, visible = self._world.gen_obs_grid()
        side, depth = grid.width // 2, grid.height - 1
        cells = {
            (depth - j, i - side): grid.get(i, j)
            for i in range(grid.width)
            for j in range(grid.height)
            if visible[i, j] and (i, j) != (side, depth)
        }
        return dict(sorted(cells.items(), key=lambda at: (sum(map(abs, at[0])), at[0])))

    # -- acting --------------------------------------------------------------------------------------------------

    def admissible(self) -> list[str]:
        """The actions that change something."""
        return [] if self._over else [action for action in ACTIONS if self._refusal(action) is None]

    def _refusal(self, action: str) -> str | None:
        """Why the action would change nothing; None where it does."""
        world = self._world
        ahead, carried = world.grid.get(*world.front_pos), world.carrying
        there = f"the {ahead.color} {ahead.type}" if ahead is not None and ahead.type != "wall" else "the wall"
        match action:
            case "done":
                return "Nothing changes."
            case "go forward" if ahead is not None and not ahead.can_overlap():
                closed = ahead.type == "door"
                return f"{there.capitalize()} is {'closed' if closed else 'in the way'}."
            case "pick up" if ahead is None or not ahead.can_pickup():
                return "There is nothing to pick up ahead." if ahead is None else f"You cannot pick up {there}."
            case "pick up" if carried is not None:
                return f"You carry {_named(carried)} already."
            case "drop" if carried is None:
                return "You carry nothing."
            case "drop" if ahead is not None:
                return f"There is no room ahead: {there} is there."
            case "toggle" if ahead is None or ahead.type not in ("door", "box"):
                return "There is nothing to toggle ahead."
            case "toggle" if ahead.type == "door" and ahead.is_locked:
                fits = carried is not None and (carried.type, carried.color) == ("key", ahead.color)
                return None if fits else f"{there.capitalize()} is locked, and you do not carry its key."
        return None

    def step(self, action: str) -> Observation:
        if self._over:
            return Observation("The episode is over.", True, self._score, valid=False, success=self._score == 1.0)
        action = canonical(action)
        if action not in ACTIONS:
            known = ", ".join(ACTIONS)
            return Observation(f"You can do one of these: {known}.", score=0.0, valid=False, success=False)
        refused = self._refusal(action)
        taken = self._world.actions[ACTIONS[action]]
        _, reward, ended, late, _ = self._world.step(taken)
        success = bool(ended and reward > 0)
        self._over, self._score = bool(ended or late), float(success)
        text, unknown = self._describe()
        if refused:
            text, moved = f"{refused} {text}", len(refused) + 1
            unknown = [(start + moved, end + moved) for start, end in unknown]
        if self._over:
            text += " The mission is done." if success else " The mission has failed." if ended else " Time is up."
        else:
            self._ask_bot(taken)
        return Observation(text, self._over, self._score, valid=refused is None, success=success, unknown=unknown)

    # -- what a thought may say ----------------------------------------------------------------------------------

    def explain(self) -> str | None:
        """Say what the open part of the mission needs next, where in view that lies, and what is in the way ahead."""
        if self._over:
            return None
        clause = _open_clause(self._world.instrs)
        if not hasattr(clause, "desc_move"):
            verb = {"OpenInstr": "open", "GoToInstr": "go to", "PickupInstr": "pick up"}[type(clause).__name__]
            about = clause.desc
        elif any((carried := self._world.carrying) is thing for thing in clause.desc_move.obj_set):
            verb, about = f"drop the {_plain(carried)} next to", clause.desc_fixed
        else:
            verb, about = "pick up", clause.desc_move
        ahead = self._world.grid.get(*self._world.front_pos)
        if ahead is None or ahead.can_overlap() or any(ahead is thing for thing in about.obj_set):
            return f"Needed: {verb} {self._whereabouts(about)}"
        obstacle = "a wall" if ahead.type == "wall" else f"the {_plain(ahead)}"
        return f"Needed: {verb} {self._whereabouts(about)} In the way ahead: {obstacle}."

    def _whereabouts(self, description: Any) -> str:
        """Say which thing in view fits, the nearest, and where it is; of a locked door, where its key is, too."""
        matches = {id(thing) for thing in description.obj_set}
        view = self._view()
        at = next((at for at, thing in view.items() if id(thing) in matches), None)
        if at is None:
            name = " ".join(filter(None, (description.color, description.type or "object")))
            return f"the {name}, which is not in view."
        thing = view[at]
        place = f"the {_plain(thing)} {_place(*at)}."
        carried = self._world.carrying
        if thing.type != "door" or not thing.is_locked or _plain(carried) == f"{thing.color} key":
            return place
        key = next((at for at, other in view.items() if _plain(other) == f"{thing.color} key"), None)
        return f"{place} It is locked, and the {thing.color} key {f'is {_place(*key)}' if key else 'is not in view'}."

    def fork(self) -> BabyAI:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        # In one go, for the bot's plan holds things of the world. What never changes is shared.
        world = self._world
        walls = (cell for cell in world.grid.grid if cell is not None and cell.type == "wall")
        kept = {id(x): x for x in (*walls, world.spec, world.action_space, world.observation_space)}
        copy._viewed = set(self._viewed)
        copy._world, copy._bot = deepcopy((world, self._bot), kept)
        return copy

    # -- the expert ----------------------------------------------------------------------------------------------

    def expert(self) -> str | None:
        """The bot's action; None where it has lost its way."""
        return None if self._over or self._bot is None else _WORDS[self._advice]

    def _ask_bot(self, taken: Any) -> None:
        """Tell the bot what was done, which it must be after every action; `taken` is None at the beginning."""
        from minigrid.utils.baby_ai_bot import BabyAIBot

        if self._bot is None and taken is not None:
            return
        try:
            if taken is None:
                self._bot = BabyAIBot(self._world)
                self._bot.stack = _Plan(self._bot.stack)
            self._bot.stack.added = 0
            self._advice = self._bot.replan(taken).name
        except Exception:  # failed assertions and all that follows when a plan no longer fits the world
            self._bot = None


class _LostError(Exception):
    """The bot goes round in circles."""


class _Plan(list):
    """The bot's stack of subgoals, which may grow only so much at once."""

    added = 0

    def append(self, subgoal: Any) -> None:
        self.added += 1
        if self.added > _PLAN_LIMIT:
            raise _LostError
        super().append(subgoal)


def _named(thing: Any) -> str:
    if thing is None:
        return "nothing"
    words = f"{thing.color} {thing.type}"
    if thing.type == "door":
        words = f"{'open' if thing.is_open else 'locked' if thing.is_locked else 'closed'} {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plain(thing: Any) -> str:
    """Its colour and kind; "" for nothing."""
    return "" if thing is None or thing.type == "wall" else f"{thing.color} {thing.type}"


def _open_clause(instruction: Any) -> Any:
    """Find the clause of a mission that comes next: of "a, then b" and the like, the one that is not done."""
    while hasattr(instruction, "instr_a"):
        first, second = instruction.instr_a, instruction.instr_b
        if type(instruction).__name__ == "AfterInstr":  # "a after you b"
            instruction = first if instruction.b_done == "success" else second
        else:
            instruction = second if instruction.a_done == "success" else first
    return instruction


def _walls(view: View) -> list[tuple[tuple[int, int], str]]:
    """Where the nearest wall ahead, to the left and to the right is, of those that can be seen, and its words."""
    walls = [at for at, thing in view.items() if thing is not None and thing.type == "wall"]
    ahead = next((at for at in walls if at[1] == 0), None)
    left = next((at for at in walls if at[0] == 0 and at[1] < 0), None)
    right = next((at for at in walls if at[0] == 0 and at[1] > 0), None)
    return [(at, f"a wall {_place(*at)}") for at in (ahead, left, right) if at is not None]


def _things(view: View) -> list[tuple[tuple[int, int], str]]:
    """Where everything else in view is, and its words."""
    seen = ((at, thing) for at, thing in view.items() if thing is not None and thing.type != "wall")
    return [(at, f"{_named(thing)} {_place(*at)}") for at, thing in seen]


def _place(ahead: int, right: int) -> str:
    """`2 steps ahead and 1 to the left`."""
    parts = [f"{ahead} {'step' if ahead == 1 else 'steps'} ahead"] if ahead else []
    if right:
        sideways = "" if ahead else " step" if abs(right) == 1 else " steps"
        parts.append(f"{abs(right)}{sideways} to the {'left' if right < 0 else 'right'}")
    return " and ".join(parts)


@cache
def _levels() -> dict[str, str]:
    """The names of the levels, and what they are registered as."""
    try:
        with redirect_stdout(io.StringIO()):  # pygame greets
            import gymnasium
            import minigrid  # noqa: F401
    except ImportError as e:
        raise EexpError(f"{e}. {INSTALL}") from None
    found = (re.fullmatch(r"BabyAI-(\w+)-v\d+", name) for name in gymnasium.registry)
    return {match[1]: match[0] for match in found if match}


def _make(level: str) -> Any:
    import gymnasium

    return gymnasium.make(_levels()[level], disable_env_checker=True).unwrapped
