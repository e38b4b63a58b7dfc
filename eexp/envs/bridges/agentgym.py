"""`agentgym:URL?env=NAME`: environment servers of AgentGym (Xi et al. 2024, arXiv 2406.04151), over HTTP.

A server holds many environments. POST /create makes one and returns its id, POST /reset starts a task in it, POST /step
takes an action. The differences between the servers are in SERVER_KINDS, which was written from the source of each
(github.com/WooooDyy/AgentGym, agentenv-*/*/server.py). Without `env`, the protocol is the one that AgentGym's guide to
adding an environment describes: `id`, `data_idx`, `observation`. docs/environments/agentgym.md has the options.

AgentGym's own clients cut the action out of "Thought: ... Action: ..." before they send it; here the policy does that
(eexp/prompts). Whatever else a client does with an action, or adds to an observation, is part of the server's kind:
AgentTraj-L was recorded with these clients, and can so be replayed.

A server reports a failure with status 200, `{"error": ...}`. It does not report which actions were refused: that shows
in its words, or in the actions it lists. Which recipes TextCraft shows beside those needed depends on what was played
before on the server, and `mask` leaves them out.
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
from eexp.envs.spec_options import Numbers, check_disjoint, option_error, parse_step_limit, parse_task_numbers
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError
from eexp.records.equality import EXACT
from eexp.records.record import canonical


def _plain(action: str) -> str:
    """Return the first line of an action, with letters, digits, commas and blanks only."""
    line = action.strip().partition("\n")[0]
    return " ".join(re.sub(r"[^A-Za-z0-9, ]+", "", line).split())


def _unfenced(action: str) -> str:
    """Return the part of an action between "```sql" and "```"; the whole action where there is no such fence."""
    return action.rpartition("```sql")[2].partition("```")[0].strip()


@dataclass(frozen=True)
class ServerKind:
    """The differences of one kind of server from the others. Patterns are regular expressions."""

    how: str = ""  # how to act, for the instruction, where the server does not say it
    goal: str = ""  # pattern of the goal in the first observation
    refusal: str = ""  # pattern of the beginning of an answer to an action that did nothing
    noise: str = ""  # pattern of the random part of an observation
    greeting: str = ""  # pattern of the text that AgentGym's client adds before the first observation
    sent: Callable[[str], str] = str  # what AgentGym's client makes of an action before it sends it
    number: str = "data_idx"  # the field of /reset for the number of the task
    also: dict[str, Any] = field(default_factory=dict)  # other fields that /reset needs
    handle: str = "id"  # the field of every request for the environment's id
    look: bool = False  # whether the first observation has to be requested after /reset
    moves: bool = False  # whether /available_actions lists the actions that are possible in every state
    page: bool = False  # whether /available_actions has to be requested for the actions that are possible in this state
    words: bool = False  # whether the actions are the words of /filtered_vocab, spelled with blanks
    code: bool = False  # whether an action is code, in which every character counts
    percent: bool = False  # whether the score is in `score`, from 0 to 100


GUIDE = ServerKind()
SERVER_KINDS = {
    "textcraft": ServerKind(
        how="`get 2 oak logs` takes a basic item, `craft 4 oak planks using 1 oak logs` follows one of the crafting "
        "commands, `inventory` lists what you have.",
        goal=r"Goal: (.+)",
        refusal=r"Could not |Wrong item format",
        noise=r"(?s)(?<=Crafting commands:\n).*?(?=\n+Goal: |\Z)",
        sent=_plain,
    ),
    "alfworld": ServerKind(goal=r"Your task is to: (.+)", number="game", also={"world_type": "Text"}),
    "babyai": ServerKind(goal=r"Your goal: (.+)", sent=_plain),
    "sciworld": ServerKind(
        refusal=r"No known action matches that input|Unknown action|Ambiguous request", percent=True
    ),
    "maze": ServerKind(
        how="Find the goal: move up, move down, move left or move right. A position is a row and a column.",
        greeting=r"(?s)\AYour objective is to reach the goal.*?current environment state:\s*",
        number="game",
        moves=True,
    ),
    "wordle": ServerKind(
        how="Guess the hidden word within six guesses: five letters with blanks between them. The answer has a letter "
        "for each of them. g: it is right; y: it is in another place; b: it is not in the word. A word that is not "
        "among these is invalid, and costs a guess:",
        greeting=r"(?s)\AWelcome to the game of Wordle\..*?```(?P<words>.*?)```.*",
        number="seed",
        words=True,
    ),
    "webshop": ServerKind(
        how="search[words] where there is a search bar, click[what is on the page].",
        goal=r"Instruction: \[SEP\] (.+?) \[SEP\]",
        number="session_id",
        handle="env_idx",
        look=True,
        page=True,
    ),
    "sqlgym": ServerKind(
        how="An action is one SQL statement.", sent=_unfenced, number="item_id", handle="env_idx", look=True, code=True
    ),
}

#: The list in JSON that the BabyAI server adds to every observation.
_LISTED = re.compile(r"\nAvailable actions: (\[.*\])\s*$")
_CHECK = "check available actions"  # an action that BabyAI's server answers with the list of the others
#: The first observation of Wordle's server; its client shows the words and the rules instead.
_WORDLE_STARTS = "Let's start Wordle!"


class _Created(Struct):
    id: int


class _State(Struct):
    """The answer of /reset and /step; which of the fields are set depends on the server."""

    observation: Optional[str] = None
    state: Optional[str] = None
    task_description: str = ""
    reward: Optional[float] = None
    score: Optional[float] = None
    done: bool = False
    available_actions: Optional[list[str]] = None


class _Page(Struct):
    """The actions that are possible on a page of WebShop."""

    has_search_bar: bool
    clickables: list[str]


class AgentGym(Environment):
    """An environment of its own on one of AgentGym's servers. docs/environments/agentgym.md lists the options."""

    def __init__(self, url: str, env: str = "", train: str = "", test: str = "", max_steps: str = "50") -> None:
        self.spec = f"agentgym:{url}"
        if env and env not in SERVER_KINDS:
            kinds = ", ".join(SERVER_KINDS)
            raise option_error(self.spec, "env", env, f"no such server; known: {kinds}; leave it out for your own")
        self._name, self._kind = env or "task", SERVER_KINDS.get(env, GUIDE)
        self.max_steps = parse_step_limit(self.spec, max_steps)
        values = {"train": train, "test": test}
        self._splits = {split: _numbers(self.spec, split, value) for split, value in values.items() if value}
        check_disjoint(self.spec, self._splits)
        self._server = Server(self.spec, url)
        self._handle: int | None = None
        self._always: list[str] | None = None  # the actions possible in every state, where the server lists them
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
        """Return the task whose number `name` ends in, as AgentGym's item ids do: textcraft_12, lmrlgym_maze_3.

        Raises:
            InputError: There is no number, the name is one of another kind of server, or no split has that number.
        """
        match = re.fullmatch(r"(?:(?P<data>.*)[/_])?(?P<number>\d{1,9})", name)
        if not match:
            raise InputError(f"{self.spec} has no task for {name!r}: expected a number last, as in {self._name}_0")
        kind, number = (match["data"] or "").rpartition("_")[2], int(match["number"])
        if self._name in SERVER_KINDS and kind in SERVER_KINDS and kind != self._name:
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
        fields = {self._kind.number: number, **self._kind.also}
        if self._kind.look:  # their /reset answers an outdated text; AgentGym's clients ask again, too
            self._post("/reset", Any, **fields)
            self._at = _State(observation=self._get("/observation", str))
        else:
            self._at = self._post("/reset", _State, **fields)
        self._always = self._list_always()
        self._listed = self._list_here()
        text = self._text()
        match = re.search(self._kind.goal, text) if self._kind.goal else None
        goal = self._at.task_description or (match[1] if match else "")
        words = ", ".join(self._always or []) if self._kind.words else ""
        self._instruction = "\n".join(filter(None, [goal, self._kind.how, words]))
        self._score = self._score_here()
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
        self._listed = self._list_here()
        text, self._score = self._text(), self._score_here()
        valid = not (self._kind.refusal and re.match(self._kind.refusal, text))
        if listed is not None and not self._kind.words:
            valid = canonical(sent) in {canonical(a) for a in [*listed, _CHECK]}
        success = self._succeeded() if self._at.done else None
        return Observation(text, self._at.done, self._score, valid=valid, success=success)

    def admissible(self) -> list[str] | None:
        """Return the actions that the server lists; None if it lists none, and where WebShop has a search bar."""
        if self._at.done:
            return []
        if self._kind.page:
            page = self._get("/available_actions", _Page)
            return None if page.has_search_bar else [f"click[{it}]" for it in page.clickables]
        return None if self._listed is None else list(self._listed)

    def action_equality(self) -> str:
        return EXACT if self._kind.code else super().action_equality()

    def mask(self, text: str) -> str:
        """Return a text without its random part and without the greeting of AgentGym's client.

        The greeting is in trajectories that were recorded with that client.
        """
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
        """Return the actions possible in every state: directions, or words; None where states differ in them."""
        if self._kind.words:  # right after a reset; later the server lists only the words that fit its answers
            return [" ".join(word) for word in self._get("/filtered_vocab", list[str])]
        return self._get("/available_actions", list[str]) if self._kind.moves else None

    def _list_here(self) -> list[str] | None:
        """Return the admissible actions, if they came along with the observation or are always the same."""
        if self._always is not None:
            return self._always
        if self._at.available_actions is not None:
            return self._at.available_actions
        match = _LISTED.search(self._text())
        return json.loads(match[1]) if match else None

    def _text(self) -> str:
        text = self._at.observation if self._at.observation is not None else self._at.state
        if text is None:
            self._fail("the answer has no observation")
        return text

    def _score_here(self) -> float | None:
        """Return the score, from 0 to 1; None where the reward has another scale."""
        if self._kind.percent:
            return round(min(max(self._at.score or 0.0, 0.0), 100.0) / 100, 4)  # a failure counts -100
        reward = self._at.reward
        if reward is not None and self._kind is not GUIDE:
            reward = max(reward, 0.0)  # Maze takes a point off where time is up
        return reward if reward is not None and 0 <= reward <= 1 else None

    def _succeeded(self) -> bool | None:
        """Return whether an episode that is over succeeded; None where the score alone decides."""
        if self._name != "babyai" or self._score is None:
            return None
        # BabyAI's reward shrinks with every step, and its server ends an episode only when the mission is done.
        return self._score > 0

    # -- the server --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._release()
        self._server.close()

    def _create(self) -> None:
        answer = self._server.post("/create", int | _Created)
        self._handle = answer if isinstance(answer, int) else answer.id

    def _post(self, path: str, shape: Any, **body: Any) -> Any:
        return self._ask(self._server.post, path, shape, body)

    def _get(self, path: str, shape: Any) -> Any:
        return self._ask(self._server.get, path, shape, {})

    def _ask(self, request: Callable[..., Any], path: str, shape: Any, fields: dict) -> Any:
        """Send a request about this environment and return the answer."""
        try:
            return request(path, shape, **{self._kind.handle: self._handle}, **fields)
        except EnvironmentFailed:
            self._release()  # the state is unknown: the next reset creates another environment
            raise

    def _fail(self, message: str) -> NoReturn:
        self._release()
        raise EnvironmentFailed(f"{self.spec}: {message}")

    def _release(self) -> None:
        """Let the server release the environment; not all servers can."""
        if self._handle is not None:
            self._server.notify("/close", **{self._kind.handle: self._handle})
            self._handle = None


class _Item(Struct):
    item_id: str


def _numbers(name: str, split: str, value: str) -> Numbers:
    """Return the numbers of a split's tasks: as `parse_task_numbers`, or from a file of item ids."""
    if not value.endswith(".json"):
        return parse_task_numbers(name, split, value)
    try:
        items = msgspec.json.decode(Path(value).read_bytes(), type=list[_Item])
        return list(dict.fromkeys(int(item.item_id.rpartition("_")[2]) for item in items))
    except OSError as e:
        raise option_error(name, split, value, e.strerror or str(e)) from None
    except (msgspec.MsgspecError, ValueError):
        raise option_error(name, split, value, "expected a list of item ids, each with its number last") from None
