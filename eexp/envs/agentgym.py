"""`agentgym:URL?env=NAME`: the environment servers of AgentGym (Xi et al. 2024, arXiv 2406.04151) over their HTTP.

A server holds many environments. POST /create makes one and gives its id, POST /reset starts a task in it, POST /step
takes an action. What differs from server to server is in KINDS, read from the source of each
(github.com/WooooDyy/AgentGym, agentenv-*/*/server.py). Without `env`, the protocol is the one that AgentGym's guide to
adding an environment describes: `id`, `data_idx`, `observation`.

An action is what the server executes, "get 1 oak log". AgentGym's own clients cut it out of "Thought: ... Action: ..."
before they send it, and that part is the policy's here (eexp/prompts).

A server says with status 200 that something went wrong, `{"error": ...}`. It does not say which actions were refused:
that is told by the words it uses, or by the actions it lists. It does not say how many tasks it has either, so the
options do:

    train, test    numbers of tasks, `0-99`, or a file of AgentGym's item ids, `[{"item_id": "textcraft_12"}, ...]`
    max_steps      50

There is no snapshot and no expert. TextCraft's list of crafting commands is noise in part: every reset there lengthens
the lists that it draws from, which all its environments share, as they share the generator. So which recipes are shown
beside those needed depends on what was played before, and `mask` leaves them out; what can be crafted does not. Its
tasks come in the order of a dict and a folder, which another machine may have otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Optional

import msgspec
from msgspec import Struct

from eexp.envs.base import Environment, Observation
from eexp.envs.server import Numbers, Server, check_disjoint, parse_limit, parse_numbers
from eexp.errors import EexpError, EnvironmentFailed, InputError, UsageError
from eexp.records import canonical


@dataclass(frozen=True)
class Kind:
    """How one of the servers differs from the others.

    how: what can be done, where the server does not say it. goal: finds the goal in the first observation.
    refusal: finds the words for an action that did nothing. noise: finds what is random in an observation.
    number: what /reset calls the task; also: what else it wants. handle: what requests call the environment's id.
    look: whether the first observation has to be asked for. lists: whether /available_actions has to be.
    percent: whether the score is in `score`, from 0 to 100.
    """

    how: str = ""
    goal: str = ""
    refusal: str = ""
    noise: str = ""
    number: str = "data_idx"
    also: dict[str, Any] = field(default_factory=dict)
    handle: str = "id"
    look: bool = False
    lists: bool = False
    percent: bool = False


GUIDE = Kind()
KINDS = {
    "textcraft": Kind(
        how="`get 2 oak log` takes a basic item, `craft 4 oak planks using 1 oak log` follows one of the crafting "
        "commands, `inventory` lists what you have.",
        goal=r"Goal: (.+)",
        refusal=r"Could not |Wrong item format",
        noise=r"(?s)(?<=Crafting commands:\n).*(?=\n\nGoal: )",
    ),
    "alfworld": Kind(goal=r"Your task is to: (.+)", number="game", also={"world_type": "Text"}),
    "babyai": Kind(goal=r"Your goal: (.+)"),
    "sciworld": Kind(refusal=r"No known action matches that input|Unknown action|Ambiguous request", percent=True),
    "maze": Kind(how="Find the goal: move up, move down, move left or move right.", number="game", lists=True),
    "wordle": Kind(
        how="Guess the word, five letters with blanks between them. g: right; y: in another place; b: not in it.",
        refusal=r"invalid word",
        number="seed",
    ),
    "webshop": Kind(
        how="search[words] where there is a search bar, click[what is on the page].",
        goal=r"Instruction: \[SEP\] (.+?) \[SEP\]",
        number="session_id", handle="env_idx", look=True, lists=True,
    ),
    "sqlgym": Kind(how="An action is one SQL statement.", number="item_id", handle="env_idx", look=True),
}  # fmt: skip

#: What the BabyAI server adds to every observation, a list in JSON.
_LISTED = re.compile(r"\nAvailable actions: (\[.*\])\s*$")
#: An action with which BabyAI's server lists the others.
_CHECK = "check available actions"


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
            raise UsageError(f"{self.spec}: unknown env={env}; known: {', '.join(KINDS)}; leave it out for your own")
        self._name, self._kind = env or "task", KINDS.get(env, GUIDE)
        self.max_steps = parse_limit(self.spec, max_steps)
        given = {"train": train, "test": test}
        self._splits = {split: _numbers(self.spec, split, said) for split, said in given.items() if said}
        check_disjoint(self.spec, self._splits)
        self._server = Server(self.spec, url)
        self._handle: int | None = None
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
        return ({"id": f"{self._name}/{n}", "split": split, "data_idx": n} for n in self._splits[split])

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
        self._listed = self._list_at_hand()
        text = self._text()
        found = re.search(self._kind.goal, text) if self._kind.goal else None
        goal = self._at.task_description or (found[1] if found else "")
        self._instruction = "\n".join(filter(None, [goal, self._kind.how]))
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
        listed = self._listed
        self._at = self._post("/step", _State, action=action)
        self._listed = self._list_at_hand()
        text, self._score = self._text(), self._seen_score()
        valid = not (self._kind.refusal and re.match(self._kind.refusal, text))
        if listed is not None:
            valid = canonical(action) in {canonical(a) for a in [*listed, _CHECK]}
        success = self._succeeded() if self._at.done else None
        return Observation(text, self._at.done, self._score, valid=valid, success=success)

    def admissible(self) -> list[str] | None:
        """What the server lists; None where it lists nothing, and on a page of WebShop that can be searched."""
        if self._at.done:
            return []
        if self._listed is None and self._kind.lists:
            said = self._get("/available_actions", list[str] | _Page)
            if isinstance(said, list):
                self._listed = said
            elif not said.has_search_bar:
                self._listed = [f"click[{it}]" for it in said.clickables]
        return None if self._listed is None else list(self._listed)

    def mask(self, text: str) -> str:
        return re.sub(self._kind.noise, "*", text) if self._kind.noise else text

    def _list_at_hand(self) -> list[str] | None:
        """The admissible actions, if they came along with the observation."""
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
            self._server.tell("/close", **{self._kind.handle: self._handle})
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
        raise UsageError(f"{name}: {split}={said}: {e.strerror}") from None
    except (msgspec.MsgspecError, ValueError):
        raise UsageError(f"{name}: {split}={said}: expected a list of item ids, each with its number last") from None
