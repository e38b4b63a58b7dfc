"""Real OpenEnv servers, by the package openenv, each with a small game behind it."""

from __future__ import annotations

import socket
import sys
import threading
import time
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import ClassVar, Literal
from unittest import mock

from eexp.system.late import large_imports

# The package draws web pages with gradio, which takes two thirds of the time of all these imports. No test opens one.
is_stub = sys.modules.setdefault("gradio", stub := mock.MagicMock()) is stub
with large_imports():
    import uvicorn
    from fastmcp import FastMCP
    from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
    from openenv.core.env_server.mcp_environment import MCPEnvironment
    from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
if is_stub:
    del sys.modules["gradio"]


def example(name: str):
    """Return a program of examples/ as a module."""
    spec = util.spec_from_file_location(name, Path(__file__).parents[1] / "examples" / f"{name}.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


openenv_states = example("openenv_states")


class Move(Action):
    move: Literal["halve", "add one", "take one"]


class Number(Observation):
    text: str


class Numbers(Environment):
    """Bring a number down to 1; the seed decides the number at the beginning."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None, **_):
        if seed == 999:
            time.sleep(2)
        self.number, self.steps = 2 + (seed or 0) % 50, 0
        return self.observation()

    def step(self, action, timeout_s=None, **_):
        self.steps += 1
        match action.move:
            case "halve" if self.number % 2:
                raise ValueError("an odd number\nhas no half")
            case "halve":
                self.number //= 2
            case "add one":
                self.number += 1
            case _:
                self.number -= 1
        return self.observation()

    def observation(self):
        won = self.number == 1
        return Number(text=f"The number is {self.number}.", done=won, reward=float(won), metadata={"at": time.time()})

    @property
    def state(self):
        return State(step_count=getattr(self, "steps", 0))


class Take(Action):
    heap: int
    count: int


class Heaps(Observation):
    heaps: list[int]
    task: str
    legal: list[str]


class Nim(Environment):
    """Nim: take from a heap; the player who takes the last one wins. The opponent is weak. It has tasks of its own."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    games = {"test": [[2, 2]], "train": [[1, 1], [3, 1], [2, 3]]}

    def list_splits(self):
        return list(self.games)

    def list_tasks(self, split):
        return [{"heaps": heaps} for heaps in self.games[split]]

    def num_tasks(self, split):
        return len(self.games[split])

    def reset(self, seed=None, episode_id=None, split="train", index=0, **_):
        self.heaps = list(self.games[split][index])
        return self.observation()

    def step(self, action, timeout_s=None, **_):
        self.heaps[action.heap] -= action.count
        if any(self.heaps):
            self.heaps[next(i for i, n in enumerate(self.heaps) if n)] -= 1
            return self.observation(0.25, not any(self.heaps))
        return self.observation(0.75, True)

    def observation(self, reward=0.0, done=False):
        legal = [f'{{"heap": {i}, "count": {n}}}' for i, heap in enumerate(self.heaps) for n in range(1, heap + 1)]
        return Heaps(heaps=self.heaps, task="Take the last one.", legal=legal, reward=reward, done=done)

    @property
    def state(self):
        return State()


class Doors(MCPEnvironment):
    """Find the door with the way out behind it, with tools as in OpenEnv's newer environments."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        mcp = FastMCP("doors")

        @mcp.tool
        def open_door(number: int, knock: bool = False) -> str:
            """Open a door
            and look behind it."""
            self.out = number == self.way
            return "The way out." if self.out else "A wall."

        super().__init__(mcp)
        self.out, self.way = False, 0

    def reset(self, seed=None, episode_id=None, **_):
        self.out, self.way = False, (seed or 0) % 5
        return Observation(metadata={"message": "Five doors."})

    def step(self, action, timeout_s=None, **_):
        return self.judged(super().step(action, timeout_s=timeout_s))

    async def step_async(self, action, timeout_s=None, **_):
        return self.judged(await super().step_async(action, timeout_s=timeout_s))

    def judged(self, observation):
        return observation.model_copy(update={"done": self.out, "reward": float(self.out)})

    def _step_impl(self, action, timeout_s=None, **_):
        return Observation(metadata={"error": "call a tool"})

    @property
    def state(self):
        return State()


class Touchy(openenv_states.Scales):
    """The scales of the example, where to throw a stone away is an error at first, and then takes forever."""

    def step(self, action, timeout_s=None, **_):
        if self.steps == 2 and action.pan == "none":
            raise ValueError("nothing may be\nthrown away now")
        if self.steps == 3 and action.pan == "none":
            time.sleep(3)
        return super().step(action)


class Boastful(openenv_states.States):
    """A server that answers messages about states in another way than it should."""

    ANSWERS: ClassVar[dict[str, dict]] = {}

    async def answer(self, current, text):
        answer = await super().answer(current, text)
        return answer and self.ANSWERS.get(answer["type"], answer)


def app_of_states(environment, rooms, states=openenv_states.States):
    """Return the app of the example's server with another environment, or with another way to answer."""
    return openenv_states.create_app(environment, openenv_states.Place, openenv_states.Pans, rooms, states)


APPS = {
    "scales": lambda rooms: app_of_states(openenv_states.Scales, rooms),
    "touchy": lambda rooms: app_of_states(Touchy, rooms),
    "boastful": lambda rooms: app_of_states(openenv_states.Scales, rooms, Boastful),
    "numbers": lambda rooms: create_fastapi_app(Numbers, Move, Number, rooms),
    "nim": lambda rooms: create_fastapi_app(Nim, Take, Heaps, rooms),
    "doors": lambda rooms: create_fastapi_app(Doors, CallToolAction, CallToolObservation, rooms),
}


#: The open sessions of the servers that save states, by URL.
SESSIONS: dict[str, set] = {}


@contextmanager
def served(name: str, rooms: int = 8, port: int = 0):
    """Yield the URL of a server with room for `rooms` sessions."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen()  # so that a client waits for the server instead of being refused
    app = APPS[name](rooms)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    SESSIONS[url] = getattr(app.state, "sessions", set())
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(10)
