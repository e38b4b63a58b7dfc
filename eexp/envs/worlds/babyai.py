"""`babyai`: the levels of BabyAI (Chevalier-Boisvert et al. 2019, arXiv 1810.08272) in words, by the package minigrid.

docs/environments/babyai.md has the levels, the observations, the actions and the splits. The expert is the package's
bot. It plans from what it has observed in this episode, gets every action, and repairs its plan when another action
than its own was taken. Where it cannot, it knows no action for the rest of the episode.

All its state is in this process, with one thread: a fork is an exact copy, too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from copy import copy, deepcopy
from functools import cache
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import option_error
from eexp.errors import InputError
from eexp.records.record import canonical
from eexp.system.packages import installed_by

INSTALL = "babyai needs `pip install 'eexp[babyai]'` and Python 3.11 or newer"

DEFAULT_LEVELS = "GoToLocal,PickupLoc,OpenDoor,PutNextLocal,UnlockLocalDist,FindObjS5"
SPLITS = {"train": range(10_000), "test": range(1_000_000, 1_001_000)}

#: The actions, and the package's names for them.
ACTIONS = {
    "turn left": "left",
    "turn right": "right",
    "go forward": "forward",
    "pick up": "pickup",
    "drop": "drop",
    "toggle": "toggle",
    "done": "done",
}
_ACTION_OF = {package_name: action for action, package_name in ACTIONS.items()}
_COMPASS = ("east", "south", "west", "north")

#: How many subgoals the bot may add to its plan for one action. It needs ten; without a limit it may loop forever.
_PLAN_LIMIT = 300

Cell = tuple[int, int]  # in a view: steps ahead, steps to the right; in the grid: column, row
View = dict[Cell, Any]


class BabyAI(Environment):
    """BabyAI, mazes and missions in words. docs/environments/babyai.md lists the options."""

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
        """Yield the first seed in every level, then the second in every level, and so on."""
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
        with redirect_stdout(io.StringIO()):  # the package prints when it has to draw a mission again
            self._world = _make(level)
            self._world.reset(seed=seed)
        self._over, self._score = False, 0.0
        self._viewed: set[Cell] = set()  # cells of the grid that have been in view
        self._bot: Any = None
        self._ask_bot(None)
        text, unknown = self._describe()
        return Observation(text, score=0.0, success=False, unknown=unknown)

    def instruction(self) -> str:
        return self._world.mission

    # -- what can be seen ----------------------------------------------------------------------------------------

    def _describe(self) -> tuple[str, list[tuple[int, int]]]:
        """Describe the view, and note its cells as viewed.

        Returns:
            The text, and (start, end) of the parts about cells that were never in view before.
        """
        view = self._view()
        text, unknown = f"You face {_COMPASS[self._world.agent_dir]}. You see ", []
        for i, (at, words) in enumerate([*_walls(view), *_things(view)] or [(None, "nothing")]):
            text += ", " * (i > 0)
            if at and self._cell(at) not in self._viewed:
                unknown.append((len(text), len(text) + len(words)))
            text += words
        self._viewed |= {self._cell(at) for at in view}
        return f"{text}. You carry {_named(self._world.carrying)}.", unknown

    def _cell(self, at: Cell) -> Cell:
        """Return the cell of the grid for a cell of the view."""
        world = self._world
        x, y = world.agent_pos + at[0] * world.dir_vec + at[1] * world.right_vec
        return int(x), int(y)

    def _view(self) -> View:
        """Return what the agent sees, by steps ahead and steps to the right (below 0: to the left), nearest first."""
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
        """Return the actions that change something."""
        return [] if self._over else [action for action in ACTIONS if self._refusal(action) is None]

    def _refusal(self, action: str) -> str | None:
        """Return why an action would change nothing; None where it changes something."""
        world = self._world
        ahead: Any = world.grid.get(*world.front_pos)
        carried: Any = world.carrying
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
            case "toggle" if ahead is not None and ahead.type == "door" and ahead.is_locked:
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
        refusal = self._refusal(action)
        package_action = self._world.actions[ACTIONS[action]]
        _, reward, ended, late, _ = self._world.step(package_action)
        success = bool(ended and reward > 0)
        self._over, self._score = bool(ended or late), float(success)
        text, unknown = self._describe()
        if refusal:
            text, shift = f"{refusal} {text}", len(refusal) + 1
            unknown = [(start + shift, end + shift) for start, end in unknown]
        if self._over:
            text += " The mission is done." if success else " The mission has failed." if ended else " Time is up."
        else:
            self._ask_bot(package_action)
        return Observation(text, self._over, self._score, valid=refusal is None, success=success, unknown=unknown)

    # -- thoughts ------------------------------------------------------------------------------------------------

    def explain(self) -> str | None:
        """Return what the open part of the mission needs next, where in view that is, and what is in the way ahead."""
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
        """Return the nearest thing in view that fits a description and its place; for a locked door, its key, too."""
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
        fork = copy(self)
        # Both in one copy, because the bot's plan refers to things of the world. What never changes is shared.
        world = self._world
        walls = (cell for cell in world.grid.grid if cell is not None and cell.type == "wall")
        shared = {id(x): x for x in (*walls, world.spec, world.action_space, world.observation_space)}
        fork._viewed = set(self._viewed)
        fork._world, fork._bot = deepcopy((world, self._bot), shared)
        return fork

    # -- the expert ----------------------------------------------------------------------------------------------

    def expert(self) -> str | None:
        """Return the bot's action; None where its plan has failed."""
        return None if self._over or self._bot is None else _ACTION_OF[self._advice]

    def _ask_bot(self, last_action: Any) -> None:
        """Get the bot's next action. It has to be called after every action, which the bot's plan depends on."""
        from minigrid.utils.baby_ai_bot import BabyAIBot

        if self._bot is None and last_action is not None:
            return
        try:
            if last_action is None:
                self._bot = BabyAIBot(self._world)
                self._bot.stack = _Subgoals(self._bot.stack)
            bot: Any = self._bot
            bot.stack.added = 0
            self._advice = bot.replan(last_action).name
        except Exception:  # failed assertions, and whatever else follows when a plan no longer fits the world
            self._bot = None


class _PlanTooLong(Exception):
    """Error raised when the bot adds subgoals without end."""


class _Subgoals(list):
    """The bot's stack of subgoals, with a limit on how many are added for one action."""

    added = 0

    def append(self, subgoal: Any) -> None:
        self.added += 1
        if self.added > _PLAN_LIMIT:
            raise _PlanTooLong
        super().append(subgoal)


def _named(thing: Any) -> str:
    """Return a thing with its article, colour and kind, for a door also its state; "nothing" for None."""
    if thing is None:
        return "nothing"
    words = f"{thing.color} {thing.type}"
    if thing.type == "door":
        words = f"{'open' if thing.is_open else 'locked' if thing.is_locked else 'closed'} {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _plain(thing: Any) -> str:
    """Return the colour and kind of a thing; "" for a wall and for None."""
    return "" if thing is None or thing.type == "wall" else f"{thing.color} {thing.type}"


def _open_clause(instruction: Any) -> Any:
    """Return the clause of a mission that comes next: in "a, then b" and the like, the one that is not done."""
    while hasattr(instruction, "instr_a"):
        first, second = instruction.instr_a, instruction.instr_b
        if type(instruction).__name__ == "AfterInstr":  # "a after you b"
            instruction = first if instruction.b_done == "success" else second
        else:
            instruction = second if instruction.a_done == "success" else first
    return instruction


def _walls(view: View) -> list[tuple[Cell, str]]:
    """Return (cell, description) of the nearest visible wall ahead, to the left and to the right."""
    walls = [at for at, thing in view.items() if thing is not None and thing.type == "wall"]
    ahead = next((at for at in walls if at[1] == 0), None)
    left = next((at for at in walls if at[0] == 0 and at[1] < 0), None)
    right = next((at for at in walls if at[0] == 0 and at[1] > 0), None)
    return [(at, f"a wall {_place(*at)}") for at in (ahead, left, right) if at is not None]


def _things(view: View) -> list[tuple[Cell, str]]:
    """Return (cell, description) of everything in view but walls."""
    things = ((at, thing) for at, thing in view.items() if thing is not None and thing.type != "wall")
    return [(at, f"{_named(thing)} {_place(*at)}") for at, thing in things]


def _place(ahead: int, right: int) -> str:
    """Return a place in words: `2 steps ahead and 1 to the left`."""
    parts = [f"{ahead} {'step' if ahead == 1 else 'steps'} ahead"] if ahead else []
    if right:
        sideways = "" if ahead else " step" if abs(right) == 1 else " steps"
        parts.append(f"{abs(right)}{sideways} to the {'left' if right < 0 else 'right'}")
    return " and ".join(parts)


@cache
def _levels() -> dict[str, str]:
    """Return the levels: name -> the name they are registered under. Raises EexpError if the package is missing."""
    with installed_by(INSTALL), redirect_stdout(io.StringIO()):  # pygame prints a greeting
        import gymnasium
        import minigrid  # noqa: F401
    matches = (re.fullmatch(r"BabyAI-(\w+)-v\d+", name) for name in gymnasium.registry)
    return {match[1]: match[0] for match in matches if match}


def _make(level: str) -> Any:
    import gymnasium

    return gymnasium.make(_levels()[level], disable_env_checker=True).unwrapped
