"""`agentgym:URL?env=NAME`: the environment servers of AgentGym (Xi et al. 2024, arXiv 2406.04151) over their HTTP.

A server holds many environments. POST /create makes one and gives its id, POST /reset starts a task in it, POST /step
takes an action. What differs from server to server is in KINDS, read from the source of each
(github.com/WooooDyy/AgentGym, agentenv-*/*/server.py). Without `env`, the protocol is the one that AgentGym's guide to
adding an environment describes: `id`, `data_idx`, `observation`.

An action is what the server executes, "get 1 oak log". AgentGym's own clients cut it out of "Thought: ... Action: ..."
before they send it, and that part is the policy's here (eexp/prompts). What else a client does with an action, or adds
to an observation, is part of its kind, too: AgentTraj-L was recorded with these clients, and can so be replayed.

A server says with status 200 that something went wrong, `{"error": ...}`. It does not say which actions were refused:
that is told by the words it uses, or by the actions it lists. It does not say how many tasks it has either, so the
options do:

    train, test    numbers of tasks, `0-99`, or a file of AgentGym's item ids, `[{"item_id": "textcraft_12"}, ...]`
    max_steps      50

Without `train` and `test`, tasks can still be played by their number, as in what others recorded: AgentTraj-L calls
them textcraft_12.

There is no snapshot and no expert. TextCraft's list of crafting commands is noise in part: every reset there lengthens
the lists that it draws from, which all its environments share, as they share the generator. So which recipes are shown
beside those needed depends on what was played before, and `mask` leaves them out; what can be crafted does not. Its
tasks come in the order of a dict and a folder, which another machine may have otherwise.

Wordle's server takes the words of /filtered_vocab. To any other it says "invalid word" and counts a guess, so nothing
is refused there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Optional

import msgspec
from msgspec import Struct

from eexp.envs.base import Environment, Observation
from eexp.envs.bridges.server import Server
from eexp.envs.spec_options import Numbers, check_disjoint, option_error, parse_numbers, parse_step_limit
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError
from eexp.records import canonical


def _plain(action: str) -> str:
    """The first line of an action, without any character but letters, digits, commas and blanks."""
    line = action.strip().partition("\n")[0]
    return " ".join(re.sub(r"[^A-Za-z0-9, ]+", "", line).split())


def _unfenced(action: str) -> str:
    """What an action holds between "```sql" and "```"; all of it where there is no such fence."""
    return action.rpartition("```sql")[2].partition("```")[0].strip()


@dataclass(frozen=True)
class Kind:
    """How one of the servers differs from the others.

    how: what can be done, where the server does not say it. goal: finds the goal in the first observation.
    refusal: finds the words for an action that did nothing. noise: finds what is random in an observation.
    greeting: finds what AgentGym's client says before the first observation. sent: what its client makes of an action.
    number: what /reset calls the task; also: what else it wants. handle: what requests call the environment's id.
    look: whether the first observation has to be asked for. moves: whether /available_actions lists what can be done in
    every state. page: whether it has to be asked for what can be done in this one. words: whether the actions are the
    words of /filtered_vocab, spelled with blanks. percent: whether the score is in `score`, from 0 to 100.
    """

    how: str = ""
    goal: str = ""
    refusal: str = ""
    noise: str = ""
    greeting: str = ""
    sent: Callable[[str], str] = str
    number: str = "data_idx"
    also: dict[str, Any] = field(default_factory=dict)
    handle: str = "id"
    look: bool = False
    moves: bool = False
    page: bool = False
    words: bool = False
    percent: bool = False


GUIDE = Kind()
KINDS = {
    "textcraft": Kind(
        how="`get 2 oak log` takes a basic item, `craft 4 oak planks using 1 oak log` follows one of the crafting "
        "commands, `inventory` lists what you have.",
        goal=r"Goal: (.+)",
        refusal=r"Could not |Wrong item format",
        noise=r"(?s)(?<=Crafting commands:\n).*?(?=\n+Goal: |\Z)",
        sent=_plain,
    ),
    "alfworld": Kind(goal=r"Your task is to: (.+)", number="game", also={"world_type": "Text"}),
    "babyai": Kind(goal=r"Your goal: (.+)", sent=_plain),
    "sciworld": Kind(refusal=r"No known action matches that input|Unknown action|Ambiguous request", percent=True),
    "maze": Kind(
        how="Find the goal: move up, move down, move left or move right. A position is a row and a column.",
        greeting=r"(?s)\AYour objective is to reach the goal.*?current environment state:\s*",
        number="game",
        moves=True,
    ),
    "wordle": Kind(
        how="Guess the hidden word within six guesses: five letters with blanks between them. The answer has a letter "
        "for each of them. g: it is right; y: it is in another place; b: it is not in the word. A word that is not "
        "among these is invalid, and costs a guess:",
        greeting=r"(?s)\AWelcome to the game of Wordle\..*?```(?P<words>.*?)```.*",
        number="seed",
        words=True,
    ),
    "webshop": Kind(
        how="search[words] where there is a search bar, click[what is on the page].",
        goal=r"Instruction: \[SEP\] (.+?) \[SEP\]",
        number="session_id",
        handle="env_idx",
        look=True,
        page=True,
    ),
    "sqlgym": Kind(
        how="An action is one SQL statement.",
        sent=_unfenced,
        number="item_id",
        handle="env_idx",
        look=True,
    ),
}

#: What the BabyAI server adds to every observation, a list in JSON.
_LISTED = re.compile(r"\nAvailable actions: (\[.*\])\s*$")
#: An action with which BabyAI's server lists the others.
_CHECK = "check available actions"
#: What Wordle's server says first; its client says the words and the rules instead.
_WORDLE_STARTS = "Let's start Wordle!"


class _Created(Struct):
    id: int


class _State(Struct):
    """What /reset and /step answer; which of it is there depends on the server."""

    observation: Optional[str] = None
    state: Optional[str] = None
    task_description: str = ""
    reward: Optional[float] = None
    score: Optional[float] = None
    done: bool = False
    available_actions: Optional[list[str]] = None


class _Page(Struct):
    """What can be done on a page of WebShop."""

    has_search_bar: bool
    clickables: list[str]


class AgentGym(Environment):
    """An environment of its own on one of AgentGym's servers. See the module's docstring.

    Raises UsageError for options that make no sense, EexpError where the server does not create an environment.
    """

    def __init__(self, url: str, env: str = "", train: str = "", test: str = "", max_steps: str = "50") -> None:
        self.spec = f"agentgym:{url}"
        if env and env not in KINDS:
            known = ", ".join(KINDS)
            raise option_error(self.spec, "env", env, f"no such server; known: {known}; leave it out for your own")
        self._name, self._kind = env or "task", KINDS.get(env, GUIDE)
        self.max_steps = parse_step_limit(self.spec, max_steps)
        given = {"train": train, "test": test}
        self._splits = {split: _numbers(self.spec, split, said) for split, said in given.items() if said}
        check_disjoint(self.spec, self._splits)
        self._server = Server(self.spec, url)
        self._handle: int | None = None
        self._always: list[str] | None = None  # what can be done in every state, where the server lists that
        try:
            self._create()
        except EnvironmentFailed as e:
            raise EexpError(str(e)) from None

    # -- tasks -------------------------------------------------------------------------------------------------------

    def splits(self) -> list[str]:
        if not self._splits:
            raise UsageError(f"{self.spec}: say which tasks there are: train=0-99&test=100-149, say")
        return list(self._splits)

    def tasks(self, split: str) -> Iterator[dict]:
        self.check_split(split)
        return (self._task(n, split) for n in self._splits[split])

    def _task(self, number: int, split: str | None) -> dict:
        return {"id": f"{self._name}/{number}", **({"split": split} if split else {}), "data_idx": number}

    def task_named(self, name: str) -> dict:
        """The task whose number `name` ends in, as AgentGym's item ids do: textcraft_12, lmrlgym_maze_3.

        Raises InputError where there is none, where the name is of another kind, and where no split has that number.
        """
        found = re.fullmatch(r"(?:(?P<data>.*)[/_])?(?P<number>\d{1,9})", name)
        if not found:
            raise InputError(f"{self.spec} has no task for {name!r}: expected a number last, as in {self._name}_0")
        kind, number = (found["data"] or "").rpartition("_")[2], int(found["number"])
        if self._name in KINDS and kind in KINDS and kind != self._name:
            raise InputError(f"{self.spec} has no task for {name!r}, which is one of env={kind}")
        split = next((split for split, numbers in self._splits.items() if number in numbers), None)
        if self._splits and split is None:
            raise InputError(f"{self.spec}: task {number} is not in {' or '.join(self._splits)}")
        return self._task(number, split)

    def reset(self, task: dict) -> Observation:
        number = task.get("data_idx")
        if type(number) is not int or number < 0:
            raise InputError(f"expected the number of a task, got {number!r}", "$.task.data_idx")
        if self._handle is None:
            self._create()
        asked = {self._kind.number: number, **self._kind.also}
        if self._kind.look:  # their /reset answers an outdated text; AgentGym's clients ask again, too
            self._post("/reset", Any, **asked)
            self._at = _State(observation=self._get("/observation", str))
        else:
            self._at = self._post("/reset", _State, **asked)
        self._always = self._list_always()
        self._listed = self._list_at_hand()
        text = self._text()
        found = re.search(self._kind.goal, text) if self._kind.goal else None
        goal = self._at.task_description or (found[1] if found else "")
        words = ", ".join(self._always or []) if self._kind.words else ""
        self._instruction = "\n".join(filter(None, [goal, self._kind.how, words]))
        self._score = self._seen_score()
        return Observation(text, score=self._score)

    def instruction(self) -> str:
        return self._instruction

    # -- acting ------------------------------------------------------------------------------------------------------

    def step(self, action: str) -> Observation:
        if self._handle is None:
            raise EnvironmentFailed(f"{self.spec}: /step: no episode is running; `reset` starts one")
        if self._at.done:  # most servers answer with an error
            return Observation("The episode is over.", True, self._score, valid=False, success=self._succeeded())
        listed, sent = self._listed, self._kind.sent(action)
        self._at = self._post("/step", _State, action=sent)
        self._listed = self._list_at_hand()
        text, self._score = self._text(), self._seen_score()
        valid = not (self._kind.refusal and re.match(self._kind.refusal, text))
        if listed is not None and not self._kind.words:
            valid = canonical(sent) in {canonical(a) for a in [*listed, _CHECK]}
        success = self._succeeded() if self._at.done else None
        return Observation(text, self._at.done, self._score, valid=valid, success=success)

    def admissible(self) -> list[str] | None:
        """What the server lists; None where it lists nothing, and on a page of WebShop that can be searched."""
        if self._at.done:
            return []
        if self._kind.page:
            page = self._get("/available_actions", _Page)
            return None if page.has_search_bar else [f"click[{it}]" for it in page.clickables]
        return None if self._listed is None else list(self._listed)

    def mask(self, text: str) -> str:
        """Without what is random, and without what AgentGym's client says first, which is for records made with it."""
        if self._kind.noise:
            text = re.sub(self._kind.noise, "*", text)
        greeting = re.match(self._kind.greeting, text) if self._kind.greeting else None
        if greeting is None:
            return text
        if not self._kind.words:
            return text[greeting.end() :]
        words = {"".join(line.split()) for line in greeting["words"].splitlines()} - {""}
        return _WORDLE_STARTS if words == {"".join(word.split()) for word in self._always or []} else text

    def _list_always(self) -> list[str] | None:
        """What can be done in every state: directions, or words; None where it is not the same in all of them."""
        if self._kind.words:  # right after a reset; later the server lists only those that fit its answers
            return [" ".join(word) for word in self._get("/filtered_vocab", list[str])]
        return self._get("/available_actions", list[str]) if self._kind.moves else None

    def _list_at_hand(self) -> list[str] | None:
        """The admissible actions, if they came along with the observation or are always the same."""
        if self._always is not None:
            return self._always
        if self._at.available_actions is not None:
            return self._at.available_actions
        found = _LISTED.search(self._text())
        return json.loads(found[1]) if found else None

    def _text(self) -> str:
        text = self._at.observation if self._at.observation is not None else self._at.state
        if text is None:
            self._fail("the answer has no observation")
        return text

    def _seen_score(self) -> float | None:
        """What was won, from 0 to 1; None where the reward is of another scale."""
        if self._kind.percent:
            return round(min(max(self._at.score or 0.0, 0.0), 100.0) / 100, 4)  # a failure counts -100
        won = self._at.reward
        if won is not None and self._kind is not GUIDE:
            won = max(won, 0.0)  # Maze takes a point off where time is up
        return won if won is not None and 0 <= won <= 1 else None

    def _succeeded(self) -> bool | None:
        if self._score is None:
            return None
        # BabyAI's reward shrinks with every step, and its server ends an episode only when the mission is done.
        return self._score > 0 if self._name == "babyai" else self._score == 1.0

    # -- the server --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._release()
        self._server.close()

    def _create(self) -> None:
        made = self._server.post("/create", int | _Created)
        self._handle = made if isinstance(made, int) else made.id

    def _post(self, path: str, shape: Any, **body: Any) -> Any:
        return self._ask(self._server.post, path, shape, body)

    def _get(self, path: str, shape: Any) -> Any:
        return self._ask(self._server.get, path, shape, {})

    def _ask(self, how: Any, path: str, shape: Any, said: dict) -> Any:
        try:
            return how(path, shape, **{self._kind.handle: self._handle}, **said)
        except EnvironmentFailed:
            self._release()  # it may be anything that is wrong: the next reset gets an environment of its own
            raise

    def _fail(self, message: str) -> NoReturn:
        self._release()
        raise EnvironmentFailed(f"{self.spec}: {message}")

    def _release(self) -> None:
        """Let the server forget the environment; not all of them can."""
        if self._handle is not None:
            self._server.notify("/close", **{self._kind.handle: self._handle})
            self._handle = None


class _Item(Struct):
    item_id: str


def _numbers(name: str, split: str, said: str) -> Numbers:
    if not said.endswith(".json"):
        return parse_numbers(name, split, said)
    try:
        items = msgspec.json.decode(Path(said).read_bytes(), type=list[_Item])
        return list(dict.fromkeys(int(item.item_id.rpartition("_")[2]) for item in items))
    except OSError as e:
        raise option_error(name, split, said, e.strerror or str(e)) from None
    except (msgspec.MsgspecError, ValueError):
        raise option_error(name, split, said, "expected a list of item ids, each with its number last") from None
