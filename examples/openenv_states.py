#!/usr/bin/env python3
"""A server of OpenEnv that saves and restores states, with the package openenv (pip install openenv).

    python3 examples/openenv_states.py 8000
    eexp env check openenv:http://localhost:8000

OpenEnv's WebSocket has the messages `reset`, `step` and `state`. This server also answers `hello`, `save`, `restore`
and `release` (docs/environments/openenv.md). To offer them with an environment of your own, give it `save()` and
`restore(state)`, as Scales has them, and make its app by `create_app` below. Other clients find the server as it was.
"""

import json
import random
import sys
import uuid
from contextvars import ContextVar
from typing import Literal

from fastapi import FastAPI
from openenv.core.env_server import Action, Environment, HTTPEnvServer, Observation, State

PROTOCOL = 1
MOST_STATES = 1000  # of one session at the same time


# -- an environment ----------------------------------------------------------------------------------------------------


class Place(Action):
    pan: Literal["left", "right", "none"]


class Pans(Observation):
    text: str


class Scales(Environment):
    """Balance the scales with stones, one after the other; what does not fit is thrown away."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    STONES = 40

    def reset(self, seed=None, episode_id=None, **_):
        self.random = random.Random(seed)
        self.left = self.right = self.steps = 0
        self.stone = self.random.randint(1, 9)
        return self.observation()

    def step(self, action, timeout_s=None, **_):
        if action.pan == "left":
            self.left += self.stone
        elif action.pan == "right":
            self.right += self.stone
        self.stone = self.random.randint(1, 9)
        self.steps += 1
        return self.observation()

    def observation(self):
        done = self.steps == self.STONES
        text = f"There are {self.left} on the left and {self.right} on the right. The next stone weighs {self.stone}."
        return Pans(text=text, done=done, reward=1 / (1 + abs(self.left - self.right)) if done else 0.0)

    @property
    def state(self):
        return State(step_count=getattr(self, "steps", 0))

    def save(self):
        """Return the state: all that later observations depend on, the state of the random numbers included."""
        return self.left, self.right, self.stone, self.steps, self.random.getstate()

    def restore(self, state):
        self.left, self.right, self.stone, self.steps, numbers = state
        self.random.setstate(numbers)


# -- the server --------------------------------------------------------------------------------------------------------


class Session:
    """A session on the WebSocket: its environment, and the states that it has saved, by their names."""

    def __init__(self):
        self.id = self.environment = None
        self.states = {}

    def hello(self, data):
        can = all(callable(getattr(self.environment, name, None)) for name in ("save", "restore"))
        return {"protocol": PROTOCOL, "save": can}

    def save(self, data):
        if len(self.states) >= MOST_STATES:
            raise RuntimeError(f"{MOST_STATES} states are saved already; release some")
        name = uuid.uuid4().hex  # unique for ever, so that a name from before a restart is unknown
        self.states[name] = self.environment.save()
        return {"state": name}

    def restore(self, data):
        self.environment.restore(self.states[self.name_of(data)])
        return {}

    def release(self, data):
        del self.states[self.name_of(data)]
        return {}

    def name_of(self, data):
        name = data.get("state")
        if not isinstance(name, str) or name not in self.states:
            raise LookupError(f"there is no state {name!r} in this episode")
        return name


session = ContextVar("session", default=None)


class Server(HTTPEnvServer):
    """OpenEnv's server, which tells the session which environment is its own."""

    async def _create_session(self):
        created = await super()._create_session()
        if session.get() is not None:
            session.get().id, session.get().environment = created
        return created

    def call(self, current, name, data):
        """Execute a message on the thread of its session, where its steps are executed."""
        return self._run_in_session_executor(current.id, getattr(current, name), data)


class States:
    """ASGI middleware that answers the messages about states. All others reach OpenEnv's own server."""

    MESSAGES = ("hello", "save", "restore", "release")

    def __init__(self, app, server, sessions):
        self.app, self.server, self.sessions = app, server, sessions

    async def __call__(self, scope, receive, send):
        if scope["type"] != "websocket" or scope["path"] != "/ws":
            return await self.app(scope, receive, send)
        current = Session()

        async def receive_other():
            while True:
                event = await receive()
                answer = await self.answer(current, event.get("text"))
                if answer is None:
                    return event
                await send({"type": "websocket.send", "text": json.dumps(answer)})

        token = session.set(current)
        self.sessions.add(current)
        try:
            await self.app(scope, receive_other, send)
        finally:
            self.sessions.discard(current)
            session.reset(token)

    async def answer(self, current, text):
        """Return the answer to a message about states; None for other messages."""
        try:
            message = json.loads(text or "")
            kind, data = message.get("type"), message.get("data") or {}
        except (ValueError, AttributeError):
            return None
        if kind == "reset":
            current.states.clear()  # they belong to the episode before
        if kind not in self.MESSAGES or current.environment is None:
            return None
        try:
            return {"type": kind, "data": await self.server.call(current, kind, data)}
        except Exception as e:
            return {"type": "error", "data": {"message": str(e), "code": "EXECUTION_ERROR"}}


def create_app(environment, action, observation, rooms=None, states=States):
    """Return the app of a server with room for `rooms` sessions that answers the messages about states, too."""
    app = FastAPI(title=f"{environment.__name__}, with states that can be saved")
    server = Server(environment, action, observation, rooms)
    server.register_routes(app)
    app.state.sessions = set()  # those that are open
    app.add_middleware(states, server=server, sessions=app.state.sessions)
    return app


if __name__ == "__main__":
    import uvicorn

    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    uvicorn.run(create_app(Scales, Place, Pans, rooms=64), host="127.0.0.1", port=port, log_level="warning")
