"""`alfworld`: household tasks in words (Shridhar et al. 2021, arXiv 2010.03768), the text version, without THOR.

A game file holds expressions that the package evaluates as Python: play none that you do not trust. docs/environments/
alfworld.md has the options, and what differs from the package's environment.

The hand-coded expert has random numbers of its own, seeded by task and step, and gets the facts in a fixed order, so
that it does the same in every process. It gets `put` where the game has `move`: its memory of what it holds depends on
that word, and without it the expert never brings the second of two objects. In games from before version 0.4, which
have `put mug 1 in/on desk 1` for what is now `move mug 1 to desk 1`, its actions are translated into the old ones.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import parse_choice, parse_step_limit
from eexp.envs.worlds.checksums import checksum_of, refuse_changed
from eexp.errors import EexpError, InputError, UsageError
from eexp.system.packages import installed_by

INSTALL = "ALFWorld needs `pip install 'eexp[alfworld]'`"
VARIABLE = "ALFWORLD_DATA"
LAYOUT = "json_2.1.1"
SPLITS = ("train", "valid_seen", "valid_unseen")
EXPERTS = ("handcoded", "planner")

_TASK = re.compile(r"\s*Your task is to: (.*?)\s*$", re.DOTALL)
_WELCOME = re.compile(r"^-= .* =-\s*")
_ARRIVAL = re.compile(r"^You arrive at [^.]*\.\s*")
_PUT = re.compile(r"^You put the (.+?) in/on the (.+?)\.")
_OLD_COMMAND, _NEW_COMMAND = re.compile(r"^put (.+) in/on (.+)$"), re.compile(r"^move (.+) to (.+)$")


class AlfWorld(Environment):
    """ALFWorld, household tasks in text: needs its data. docs/environments/alfworld.md lists the options."""

    spec = "alfworld"
    #: All its state is in the memory of this process, with one thread and no open file: a fork is an exact copy.
    in_process = True
    record_options = frozenset({"expert", "max_steps"})

    def __init__(self, data: str = "", expert: str = "handcoded", max_steps: str = "50"):
        self._planner = parse_choice("alfworld", "expert", expert, EXPERTS) == "planner"
        self.max_steps = parse_step_limit("alfworld", max_steps)
        self._directory = _directory(data or os.environ.get(VARIABLE, ""))
        _check_installed(self._directory.parent)
        self._game: Any = None  # an eexp.envs.worlds.alfred.game.Game, with the package's names for things
        self._loaded: tuple[Path, str] | None = None
        self._now: Any = None  # the game's state after the last step
        self._agent: Any = None  # the package's hand-coded expert; None once it has given up
        self._agent_is_saved = False  # whether a saved state has the same one, which must then stay as it is
        self._shown = 0  # how many states the expert has been given
        self._unseen: list[tuple[Any, str]] = []  # (state, command that led to it) that it has not been given yet
        self._advice: str | None = None
        self._instruction = ""

    # -- games and tasks -----------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        return [split for split in SPLITS if (self._directory / split).is_dir()]

    def tasks(self, split: str) -> Iterator[dict]:
        """Yield the first game of every type of task, then the second of every type, and so on."""
        self.check_split(split)
        types: dict[str, list[Path]] = {}
        for file in sorted((self._directory / split).glob("*/*/game.tw-pddl")):
            task = file.parent.parent.name
            if "movable" not in task and "Sliced" not in task:
                types.setdefault(task.partition("-")[0], []).append(file)
        for file in filter(None, chain.from_iterable(zip_longest(*types.values()))):
            if _read(file).get("solvable"):
                game = f"{file.parent.parent.name}/{file.parent.name}"
                yield {"id": f"{split}/{game}", "split": split, "game": game, "checksum": _checksum(file)}

    def kind_of(self, task: dict) -> str | None:
        """Return the type of the task, such as pick_and_place_simple."""
        return str(task.get("game")).partition("-")[0] if task.get("game") else None

    def reset(self, task: dict) -> Observation:
        split, game = task.get("split"), task.get("game")
        file = self._directory / str(split) / str(game) / "game.tw-pddl"
        if (
            split not in SPLITS
            or not re.fullmatch(r"[^/]+/[^/]+", str(game))
            or ".." in str(game)
            or not file.is_file()
        ):
            raise InputError(f"{self.spec} has no game {split}/{game}", "$.task.game")
        checksum = _checksum(file)
        refuse_changed(task, checksum, f"{file} has")
        with _global_state_restored():
            if self._game is None:
                self._game = _environment(self._planner)
            if (file, checksum) != self._loaded:
                self._game.load(str(file))
                self._loaded = file, checksum
            self._now = self._game.reset()
            self._start_expert(file)
        return self._observe(valid=True)

    def step(self, action: str) -> Observation:
        command = " ".join(action.split())
        if self._now.won:
            return Observation("The task is over.", True, 1.0, valid=False, success=True)
        valid = command in self._now.admissible_commands
        self._now = self._game.step(command)[0]
        self._unseen.append((self._now, command))
        return self._observe(valid)

    def _observe(self, valid: bool) -> Observation:
        won = bool(self._now.won)
        text = _TASK.sub("", _WELCOME.sub("", self._now.feedback))
        return Observation(text.strip(), won, float(won), valid, won or None)

    def instruction(self) -> str:
        return self._instruction

    def mask(self, text: str) -> str:
        """Return a text without the arrival, and with `move` for `put`.

        Here neither of the two varies; records from elsewhere may lack arrivals or come from older games.
        """
        return _PUT.sub(r"You move the \1 to the \2.", _ARRIVAL.sub("", text))

    def admissible(self) -> list[str]:
        """Return every command that the game executes in the current state, sorted."""
        return [] if self._now.won else list(self._now.admissible_commands)

    # -- states --------------------------------------------------------------------------------------------------

    def save(self) -> tuple:
        self._agent_is_saved = True
        names = ("_loaded", "_now", "_instruction", "_agent", "_shown", "_advice")
        return self._game.unwrapped.save(), {name: vars(self)[name] for name in names}, tuple(self._unseen)

    def restore(self, state: tuple) -> None:
        game, episode, unseen = state
        self._game.unwrapped.restore(game)
        vars(self).update(episode)
        self._unseen = list(unseen)
        self._agent_is_saved = True

    # -- the expert ----------------------------------------------------------------------------------------------

    def _start_expert(self, file: Path) -> None:
        from alfworld.agents.expert import HandCodedTWAgent

        match = _TASK.search(self._now.feedback)
        self._instruction = match[1] if match else ""
        self._agent, self._unseen, self._advice = HandCodedTWAgent(max_steps=200), [], "look"
        self._shown, self._agent_is_saved = 0, False
        self._agent.reset(str(file))
        self._agent.observe(self._now.feedback)

    def expert(self) -> str | None:
        if self._now.won:
            return None
        if self._planner:
            return next(iter(self._game.unwrapped.plan()), None)
        if self._unseen and self._agent_is_saved:
            self._agent, self._agent_is_saved = deepcopy(self._agent), False
        while self._unseen and self._agent is not None:
            self._advise(*self._unseen.pop(0))
        return self._advice

    def _advise(self, state: Any, command: str) -> None:
        """Give the hand-coded expert one more state, and the command that led to it.

        Where its rules do not fit, it raises whatever Python raises there; it then has no advice for the rest of the
        episode.
        """
        from alfworld.agents.expert import HandCodedAgentFailed, HandCodedAgentTimeout

        assert self._loaded is not None, "reset comes first"
        self._shown += 1
        view = copy(state)
        view.facts = self._game.unwrapped.readable_facts(state)
        view.admissible_commands = [_OLD_COMMAND.sub(r"move \1 to \2", c) for c in state.admissible_commands]
        with _global_state_restored(seed=f"{self._loaded[0].parent}/{self._shown}"):
            try:
                action = self._agent.act(view, 0, state.won, re.sub(r"^move ", "put ", command))
            except (HandCodedAgentFailed, HandCodedAgentTimeout, IndexError, KeyError):
                self._agent = self._advice = None
                return
        forms = (action, _NEW_COMMAND.sub(r"put \1 in/on \2", action))
        self._advice = next((form for form in forms if form in state.admissible_commands), "look")  # as in the package


def _check_installed(data: Path) -> None:
    """Raise EexpError if the package is missing."""
    os.environ.setdefault(VARIABLE, str(data))  # without it, the package makes a directory in the user's home
    with installed_by(INSTALL):
        import alfworld.agents.environment.alfred_tw_env  # noqa: F401
        import textworld.envs.pddl  # noqa: F401


def _directory(data: str) -> Path:
    """Return the directory of the games. Raises UsageError if there are none."""
    if not data:
        raise UsageError(f"alfworld: name the directory of the data: alfworld?data=DIR, or {VARIABLE}=DIR")
    directory = Path(data) / LAYOUT
    if not any((directory / split).is_dir() for split in SPLITS):
        raise UsageError(f"alfworld?data={data}: no {LAYOUT}/train in it; `alfworld-download --data-dir DIR` fills one")
    return directory


def _environment(plans: bool) -> Any:
    """Return a game with the package's names for things; with `plans` its planner can be asked."""
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler

    from eexp.envs.worlds.alfred.game import Game

    return AlfredDemangler(Game(plans))


def _checksum(file: Path) -> str:
    """Return the checksum of a game and the data of its task."""
    return checksum_of(file, file.with_name("traj_data.json"))


def _read(file: Path) -> dict:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as e:
        raise EexpError(f"{file}: {e}") from None


@contextmanager
def _global_state_restored(seed: str = "") -> Iterator[None]:
    """Restore what the package changes for the whole process: the random numbers, seeded meanwhile, and `sys.argv`."""
    arguments, state = sys.argv, random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        sys.argv = arguments
        random.setstate(state)
