"""`textworld`: games that TextWorld generated, from a directory (Côté et al. 2018, arXiv 1806.11532).

docs/environments/textworld.md has the options, and what differs from the package's environment: observations without
banner, prompt and status line, one command a step, none of the program, and scores from 0 to 1.

The expert follows the walkthrough in the game, without commands that would do nothing. Once another action was taken,
it follows TextWorld's tracking of the quests, which may know no next command after an action that cannot be undone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from copy import copy
from itertools import dropwhile
from pathlib import Path
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.envs.spec_options import parse_step_limit
from eexp.envs.worlds.checksums import checksum_of, refuse_changed
from eexp.errors import InputError, UsageError
from eexp.system.packages import installed_by

INSTALL = "TextWorld needs `pip install 'eexp[textworld]'`"
VARIABLE = "EEXP_TEXTWORLD_GAMES"

#: Commands of the program rather than the world. The game looks at no more than the first nine letters of a word.
_REFUSED = re.compile(
    r"(brief|disable|enable|long|normal|notify|nouns|o|oops|pronouns|q|quit|restart|restore|restrict|save|score|script|"
    r"short|undo|verbose|verify|version)\b|superbrie|transcrip|tw-|print_",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"[.,]|\bthen\b", re.IGNORECASE)
_LONGEST = 198  # bytes; the interpreter would cut it there

_DONE = re.compile(r"\[[^][]* - succeeded\]")
_STATUS = re.compile(r"\n>? *-= [^\n]*$")
_QUESTION = re.compile(r"You scored [^\n]* turns?\.\s*Would you like to RESTART.*", re.DOTALL)
_ROOM = re.compile(r"^-= ", re.MULTILINE)


class TextWorld(Environment):
    """TextWorld, generated text games: needs their files. docs/environments/textworld.md lists the options."""

    spec = "textworld"
    #: All its state is in the memory of this process, with one thread and no open file: a fork is an exact copy.
    in_process = True
    record_options = frozenset({"max_steps"})

    def __init__(self, games: str = "", max_steps: str = "100"):
        self.max_steps = parse_step_limit("textworld", max_steps)
        with installed_by(INSTALL):
            import textworld  # noqa: F401
        self._splits = _splits(games or os.environ.get(VARIABLE, ""))
        self._loaded: tuple[Path, str] | None = None  # the file and the checksum of the game
        self._game: Any = None  # the package's environment, in a TrackedGame
        self._start: Any = None  # the state at the beginning of the game, once it was reached
        self._spare: list[Any] = []  # more of them, with the same game loaded, for forks
        self._way: list[str] = []  # the rest of the walkthrough; empty once another action was taken
        self._now: Any = None  # the package's state after the last step

    def splits(self) -> list[str]:
        return list(self._splits)

    def tasks(self, split: str) -> Iterator[dict]:
        """Yield the games of a split in the order of their file names."""
        self.check_split(split)
        for file in self._splits[split]:
            yield {"id": f"{split}/{file.stem}", "split": split, "game": file.name, "checksum": _checksum(file)}

    def reset(self, task: dict) -> Observation:
        split, name = task.get("split"), task.get("game")
        file = next((file for file in self._splits.get(str(split), []) if file.name == name), None)
        if file is None:
            raise InputError(f"{self.spec} has no game {split}/{name}", "$.task.game")
        checksum = _checksum(file)
        refuse_changed(task, checksum, f"{file} has")
        if (file, checksum) != self._loaded:
            self._game, self._spare, self._start, self._loaded = _load(file), [], None, (file, checksum)
        if self._start is None:
            self._now = self._game.reset()
            self._way = self._ahead(self._game.rules.game.metadata.get("walkthrough") or [])
            self._start = self.save()
        else:
            self.restore(self._start)
        return self._observe(valid=True)

    def step(self, action: str) -> Observation:
        command = " ".join(action.split())
        way = self._way[1:] if self._way[:1] == [command] else []
        if self._over():
            return Observation("The game is over.", True, self._score(), valid=False, success=bool(self._now.won))
        if refusal := _refusal(command):
            self._way = []
            return Observation(refusal, score=self._score(), valid=False)
        self._now = self._game.step(command)
        self._way = self._ahead(way)
        return self._observe(valid=bool(_DONE.search(self._now.raw)))

    def _observe(self, valid: bool) -> Observation:
        over = self._over()
        success = bool(self._now.won) if over else None
        return Observation(_words(self._now.feedback), over, self._score(), valid, success)

    def _over(self) -> bool:
        return bool(self._now.won or self._now.lost)

    def _score(self) -> float:
        """Return the share of the game's points; in a game without points, 1 for winning it."""
        highest = self._game.rules.game.max_score
        if not highest:
            return float(self._now.won)
        return round(min(max(self._now.score / highest, 0.0), 1.0), 4)

    def instruction(self) -> str:
        return " ".join(self._game.rules.game.objective.split())

    def admissible(self) -> list[str]:
        """Return every command that changes or shows something here, sorted; the package's list."""
        return [] if self._over() else list(self._game.situation.commands)

    def expert(self) -> str | None:
        if self._over():
            return None
        return next(iter(self._way or self._game.situation.policy), None)

    def _ahead(self, way: list[str]) -> list[str]:
        """Return a walkthrough from its first possible command on: walkthroughs also open what is open already."""
        return list(dropwhile(lambda command: command not in self._game.situation.commands, way))

    # -- copies of the state -------------------------------------------------------------------------------------

    def save(self) -> Any:
        """Return the state of the episode, for `restore`."""
        parts = [_values(part) for part in _parts(self._game)]
        return self._loaded, _interpreter(self._game).get_state(), parts, self._way, self._now

    def restore(self, state: Any) -> None:
        """Go back to the state that `save` returned. Raises ValueError if another game was loaded since."""
        loaded, interpreter, parts, way, now = state
        if loaded != self._loaded:
            raise ValueError(f"the state is one of {loaded[0]}, which is not the game that is loaded")
        _continue_at(self._game, interpreter)
        for part, values in zip(_parts(self._game), parts):
            vars(part).update(values)
        self._way, self._now = way, now

    def fork(self) -> TextWorld:
        """Return a copy in the current state. Games that closed copies had loaded are used again."""
        assert self._loaded is not None, "reset comes first"
        fork = copy(self)
        fork._game = self._spare.pop() if self._spare else _load(self._loaded[0], self._game.rules)
        _continue_at(fork._game, _interpreter(self._game).get_state())
        for theirs, ours in zip(_parts(fork._game), _parts(self._game)):
            vars(theirs).update(_values(ours))
        return fork

    def close(self) -> None:
        if self._game is not None:
            self._spare.append(self._game)
            self._game = None


def _splits(games: str) -> dict[str, list[Path]]:
    """Return the games by folder of the directory: train, valid and test first, then the others by name."""
    if not games:
        raise UsageError(f"textworld: name the directory of the games: textworld?games=DIR, or {VARIABLE}=DIR")
    if not Path(games).is_dir():
        raise UsageError(f"textworld?games={games}: no such directory")
    usual = ("train", "valid", "test")
    folders = sorted(
        (path for path in Path(games).iterdir() if path.is_dir()),
        key=lambda path: (usual.index(path.name) if path.name in usual else len(usual), path.name),
    )
    files_of = {folder.name: sorted(folder.glob("*.z8")) for folder in folders}
    splits = {name: files for name, files in files_of.items() if files}
    if not splits:
        raise UsageError(f"textworld?games={games}: no games; they are expected as train/*.z8, test/*.z8 ...")
    return splits


def _checksum(file: Path) -> str:
    """Return the checksum of a game with its quests and walkthrough, without which the package knows only its text."""
    return checksum_of(file, file.with_suffix(".json"))


def _load(file: Path, rules: Any = None) -> Any:
    """Load a game; with its `rules` if it is loaded already."""
    from eexp.envs.worlds.textworld_tracking import TrackedGame

    return TrackedGame(str(file), rules)


def _refusal(command: str) -> str | None:
    """Return why a command is not passed to the game; None where it is.

    A backslash would be one of the interpreter's own keys.
    """
    if "\\" in command or not command.isascii() or not command.isprintable() or len(command) > _LONGEST:
        return "That is nothing that can be understood here."
    if _SEVERAL.search(command):
        return "One command at a time."
    if _REFUSED.match(command):
        return "That is not a command of this world."
    return None


def _words(feedback: str) -> str:
    """Return the game's answer without banner, objective, prompt, status line and the question at the end."""
    text = _QUESTION.sub("", _STATUS.sub("", feedback))
    if "$$$$" in text and (room := _ROOM.search(text)):
        text = text[room.start() :]
    text = re.sub(r"^ +(?=\*\*\* )", "", text, flags=re.MULTILINE)  # "The End" is centred
    return re.sub(r"\n\s*\n", "\n\n", text).strip()


def _interpreter(game: Any) -> Any:
    """Return the interpreter of the game file. Its state is memory, stack, registers and random numbers."""
    return game.unwrapped._jericho


def _continue_at(game: Any, state: Any) -> None:
    """Set the interpreter to a state, also one that an error in the game file has halted."""
    if _interpreter(game).frotz_lib.halted():
        game.reset()
    _interpreter(game).set_state(state)


def _parts(game: Any) -> list[Any]:
    """Return the package's wrappers, from the outermost to the environment around the interpreter."""
    parts = [game]
    while (inner := vars(parts[-1]).get("_wrapped_env")) is not None:
        parts.append(inner)
    return parts


def _values(part: Any) -> dict[str, Any]:
    """Return a wrapper's attributes, which a step replaces and never changes in place."""
    return {name: value for name, value in vars(part).items() if name not in ("_wrapped_env", "_jericho")}
