"""Servers like AgentGym's, written after their source, each with a small game behind it.

    python tests/agentgym_servers.py textcraft     # prints the URL and serves until it is stopped

What is taken from the servers: paths, keys, the shape of every answer, errors as `{"error": ...}` with status 200, the
texts that eexp/envs/bridges/agentgym.py reads something from. Actions that begin with "break" break the server in
some way.
`as_client` says what AgentGym's clients, which wrote AgentTraj-L, make of an answer.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from eexp.envs.worlds.house import House


class Craft:
    """A small TextCraft: get the raw items and craft the others, until the goal item is made."""

    recipes = {
        "oak planks": (4, {"oak logs": 1}),
        "stick": (4, {"oak planks": 2}),
        "crafting table": (1, {"oak planks": 4}),
        "wooden pickaxe": (1, {"oak planks": 3, "stick": 2}),
    }

    def reset(self, number: int) -> dict:
        self.goal = sorted(self.recipes)[number % len(self.recipes)]
        self.held: dict[str, int] = {}
        lines = [f"craft {n} {product} using {_list(needs)}" for product, (n, needs) in self.recipes.items()]
        random.shuffle(lines)
        text = "Crafting commands:\n" + "\n".join(lines) + f"\n\nGoal: craft {self.goal}."
        return {"observation": text, "done": False, "reward": 0}

    def step(self, action: str) -> dict:
        text, won = self._do(action)
        return {"observation": text, "reward": int(won), "done": won}

    def _do(self, action: str) -> tuple[str, bool]:
        if match := re.match(r"craft (\d+) (.*) using (.*)", action):
            count, product, needs = int(match[1]), match[2], match[3]
            if any(not re.match(r"\d+ .", part) for part in needs.split(", ")):
                return f"Wrong item format: {needs}", False
            if (count, needs) != (self.recipes.get(product, (0, {}))[0], _list(self.recipes.get(product, (0, {}))[1])):
                return f"Could not find a valid recipe for {product}", False
            takes = self.recipes[product][1]
            if any(self.held.get(item, 0) < n for item, n in takes.items()):
                return f"Could not find enough items to craft {product}", False
            for item, n in {**{k: -v for k, v in takes.items()}, product: count}.items():
                self.held[item] = self.held.get(item, 0) + n
            return f"Crafted {count} {product}", product == self.goal
        if match := re.match(r"get (\d+) (.*)", action):
            if match[2] != "oak logs":
                return f"Could not find {match[2]}", False
            self.held["oak logs"] = self.held.get("oak logs", 0) + int(match[1])
            return f"Got {match[1]} oak logs", False
        if action.startswith("inventory"):
            return "Inventory: " + " ".join(f"[{k}] ({v})" for k, v in self.held.items() if v), False
        return f"Could not execute {action}", False


def _list(items: dict[str, int]) -> str:
    return ", ".join(f"{n} {item}" for item, n in items.items())


class Rooms:
    """eexp's own house, with answers in the form of the servers of ALFWorld, BabyAI and ScienceWorld."""

    def __init__(self, style: str):
        self.style, self.house = style, House()
        self.all = list(self.house.tasks("train"))

    def reset(self, number: int) -> dict:
        observation = self.house.reset(self.all[number])
        answer = self._answer(observation)
        goal = self.house.instruction()
        if self.style == "alfworld":
            del answer["done"], answer["reward"]
            return {**answer, "observation": f"{observation.text}\nYour task is to: {goal}", "task_type": "x/y"}
        if self.style == "babyai":
            return {**answer, "observation": f"Your goal: {goal}\n{answer['observation']}", "deleted": False}
        goal = f"Task Description:\nYour task is to {goal}"
        return {**answer, "task_description": goal, "task_name": "house", "var_num": number, "deleted": False}

    def step(self, action: str) -> dict:
        observation = self.house.step(action)
        if self.style == "sciworld" and not observation.valid:
            observation.text = "No known action matches that input."
        return self._answer(observation)

    def expert(self) -> str | None:
        return self.house.expert()

    def _answer(self, observation) -> dict:
        answer = {"observation": observation.text, "reward": float(observation.success or 0), "done": observation.done}
        if self.style == "alfworld":
            return {**answer, "available_actions": self.house.admissible()}
        if self.style == "babyai":
            answer["observation"] += f"\nAvailable actions: {json.dumps(self.house.admissible())}"
            return {**answer, "score": 2 * answer["reward"]}
        return {**answer, "score": 100 * (observation.score or 0)}


class Shop:
    """WebShop in small: a search bar, a page of results, a page of a thing with a button to buy it."""

    def reset(self, number: int) -> None:
        self.wanted, self.page = ["red mug", "blue mug"][number], "start"

    def step(self, action: str) -> dict:
        won = 0.0
        if self.page == "start" and action.startswith("search["):
            self.page = "results"
        elif self.page == "results" and action in ("click[red mug]", "click[blue mug]"):
            self.page = action[6:-1]
        elif self.page in ("red mug", "blue mug") and action == "click[buy now]":
            won, self.page = 1.0 if self.page == self.wanted else 0.5, "end"
        return {"state": self.describe(), "reward": won, "done": self.page == "end", "info": None}

    def describe(self) -> str:
        return f"WebShop [SEP] Instruction: [SEP] Find a {self.wanted} [SEP] {self.page}"

    def available_actions(self) -> dict:
        buttons = {"start": ["search"], "results": ["red mug", "blue mug"]}.get(self.page, ["buy now"])
        return {"has_search_bar": self.page == "start", "clickables": buttons}


class Maze:
    """LMRL-Gym's maze with other walls: one corridor with a bend, and the goal at its end."""

    floor = ((1, 1), (1, 2), (1, 3), (2, 3), (3, 3))
    goal = (3, 3)
    moves = {"move left": (0, -1), "move right": (0, 1), "move up": (-1, 0), "move down": (1, 0)}
    around = {"to your right": (0, 1), "to your left": (0, -1), "above you": (-1, 0), "below you": (1, 0)}

    def reset(self, number: int) -> dict:
        if number >= len(self.floor) - 1:
            raise IndexError(f"The game {number} is not valid.")
        self.at, self.steps = self.floor[number], 0
        return {"observation": self.describe()}

    def step(self, action: str) -> dict:
        if self.steps >= 50:
            return {"observation": "Failure\n", "reward": -1.0, "done": True}
        self.steps += 1
        down, right = self.moves.get(action, (0, 0))
        to = (self.at[0] + down, self.at[1] + right)
        self.at = to if to in self.floor else self.at
        if self.at == self.goal:
            return {"observation": "Success\n", "reward": 1.0, "done": True}
        return {"observation": self.describe(), "reward": 0, "done": False}

    def describe(self) -> str:
        walls = [
            where
            for where, (down, right) in self.around.items()
            if (self.at[0] + down, self.at[1] + right) not in self.floor
        ]
        answer = f"There is a wall {walls[0]}." if len(walls) == 1 else f"There are walls {', '.join(walls)}."
        where = f"Your current position is at position {self.at[0]}, {self.at[1]}."
        return f"The goal is at position {self.goal[0]}, {self.goal[1]}. {where} {answer}"


class Wordle:
    """LMRL-Gym's Wordle, with fewer words: the hidden one is drawn anew among those that fit, at every guess."""

    words = ("panic", "solar", "shire", "robin", "crimp", "frame", "trove")

    def __init__(self) -> None:
        self.reset(None)

    def reset(self, seed: int | None) -> dict:
        self.left, self.guesses, self.random = list(self.words), 0, random.Random(seed)
        return {"id": 0, "observation": "Let's start Wordle!"}

    def step(self, action: str) -> dict:
        guess, self.guesses = action.strip().replace(" ", ""), self.guesses + 1
        if guess not in self.words:
            return {"observation": "invalid word", "reward": 0.0, "done": self.guesses == 6}
        answer = self.compare(guess, self.random.choice(self.left))
        self.left = [word for word in self.left if self.compare(guess, word) == answer]
        won = answer == "g g g g g"
        return {"observation": f"{answer}\n", "reward": int(won), "done": won or self.guesses == 6}

    @staticmethod
    def compare(guess: str, word: str) -> str:
        return " ".join("g" if g == w else "y" if g in word else "b" for g, w in zip(guess, word))


class Database:
    """A question to a database, for the server of BIRD (sqlgym)."""

    def reset(self, number: int) -> None:
        self.table = sqlite3.connect(":memory:", check_same_thread=False)
        self.table.execute("create table mugs (colour text)")
        self.table.executemany("insert into mugs values (?)", [("red",), ("blue",)][: number + 1])
        self.answer = number + 1

    def describe(self) -> str:
        return "mugs(colour). How many mugs are there?"

    def step(self, action: str) -> dict:
        try:
            rows = self.table.execute(action).fetchall()
        except sqlite3.Error as e:
            return {"state": f"Error: {e}", "reward": 0.0, "done": True, "info": None}
        return {"state": str(rows), "reward": float(rows == [(self.answer,)]), "done": True, "info": None}


#: The first and the last words of the text that the clients of Maze and Wordle add before the first observation.
GREETINGS = {
    "maze": "Your objective is to reach the goal in few steps.\n\nenvironment: The goal is at position 8, 6.\naction: "
    "move left\n\nNow, make the optimal action given the current environment state:\n",
    "wordle": "Welcome to the game of Wordle. Guess a hidden word.\n\nThe words:\n```\n{words}\n```\n\n```\nguess 1: "
    "p a n i c\n```\nNow let's start a new game.",
}


def as_client(name: str, answer: dict, words: list[str] | None = None) -> str:
    """Return the first turn that AgentGym's client makes of an answer to /reset; `words`: those of /filtered_vocab."""
    observation = answer["observation"]
    match name:
        case "alfworld":
            return f"{observation}\nAVAILABLE ACTIONS: {','.join(answer['available_actions'])}"
        case "sciworld":
            return f"{answer['task_description']}\n{observation}"
        case "maze":
            return GREETINGS[name] + observation
        case "wordle":
            return GREETINGS[name].format(words="\n".join(words))
    return observation


WORLDS = {"textcraft": Craft, "own": Craft, "maze": Maze, "wordle": Wordle, "webshop": Shop, "sqlgym": Database}
NUMBERS = {"webshop": "session_id", "alfworld": "game", "maze": "game", "wordle": "seed", "sqlgym": "item_id"}
ITEMS = {"sqlgym": "bird"}  # the name of a server's tasks in AgentGym's data, where it is not the server's name
OF_LMRL = ("maze", "wordle")  # one server for both, which cannot close what it created
BARE = ("webshop", "sqlgym")  # ids and first observations without keys


def played(name: str, number: int, actions: dict[str, str]) -> dict:
    """Return a record of AgentTraj-L: a task played by AgentGym's client.

    Args:
        name, number: The server and the number of the task.
        actions: The actions as the agent writes them -> as the client sends them.
    """
    server = AgentGymServer(name)
    base = f"/{name}" if name in OF_LMRL else ""

    def ask(method: str, path: str, **fields: object) -> Any:
        return json.loads(
            server.answer(method, base + path, {"env_idx" if name in BARE else "id": handle, **fields})[1]
        )

    handle = None
    handle = ask("POST", "/create") if name in BARE else ask("POST", "/create")["id"]
    words = ask("GET", "/filtered_vocab") if name == "wordle" else None
    first = ask("POST", "/reset", **{NUMBERS.get(name, "data_idx"): number, "world_type": "Text"})
    observation = ask("GET", "/observation") if name in BARE else as_client(name, first, words)
    turns = [("human", None, "Thought:\n...\n\nAction:\n..."), ("gpt", False, "OK."), ("human", None, observation)]
    for action, sent in actions.items():
        answer = ask("POST", "/step", action=sent)
        turns += [
            ("gpt", True, f"Thought:\nI think so.\n\nAction:\n{action}"),
            ("human", None, answer["state" if name in BARE else "observation"]),
        ]
    item = f"lmrlgym_{name}_{number}" if name in OF_LMRL else f"{ITEMS.get(name, name)}_{number}"
    return {"conversations": [{"from": f, "loss": loss, "value": v} for f, loss, v in turns], "item_id": item}


class AgentGymServer:
    """All environments of one server, by their ids; `answer` returns the answer to a request, as (status, body)."""

    def __init__(self, name: str):
        self.name = name
        self.worlds: dict[int, object] = {}
        self.over: set[int] = set()
        self.ids = count(3)
        self.lock = threading.Lock()
        self.gone = False

    def answer(self, method: str, path: str, fields: dict) -> tuple[int, bytes]:
        with self.lock:
            if self.name in OF_LMRL:
                path = path.removeprefix(f"/{self.name}")
            if path == "/create" and method == "POST":
                return self._create()
            if path == "/available_actions" and self.name == "maze":
                return _json(list(Maze.moves))
            handle = fields.get("env_idx" if self.name in BARE else "id")
            if handle not in self.worlds:
                return _json({"error": f"The id {handle} is not valid."})
            return self._of(handle, self.worlds[handle], method, path, fields)

    def _create(self) -> tuple[int, bytes]:
        handle = next(self.ids)
        self.worlds[handle] = WORLDS[self.name]() if self.name in WORLDS else Rooms(self.name)
        return _json(handle if self.name in BARE else {"id": handle})

    def _of(self, handle: int, world, method: str, path: str, fields: dict) -> tuple[int, bytes]:
        match method, path:
            case "POST", "/reset":
                number = fields[NUMBERS.get(self.name, "data_idx")]
                if self.name == "alfworld" and fields["world_type"] != "Text":
                    return _json({"error": "world_type"})
                self.over.discard(handle)
                try:
                    answer = world.reset(number)
                except IndexError as e:
                    return _json({"error": str(e)})
                return _json(["an outdated text", None] if self.name in BARE else answer)
            case "POST", "/step":
                if fields["action"].startswith("break "):
                    return _broken(fields["action"])
                if handle in self.over:
                    return _json({"error": f"The task with environment {handle} has finished."})
                answer = world.step(fields["action"])
                if answer["done"]:
                    self.over.add(handle)
                return _json(answer)
            case "POST", "/close" if self.name not in ("alfworld", "sqlgym", *OF_LMRL):
                del self.worlds[handle]
                return _json(True)
            case "GET", "/filtered_vocab" if self.name == "wordle":
                return _json(world.left)
            case "GET", "/observation" if self.name in BARE:
                return _json(world.describe())
            case "GET", "/available_actions" if self.name == "webshop":
                return _json(world.available_actions())
        return 404, b'{"detail":"Not Found"}'


def _broken(action: str) -> tuple[int, bytes]:
    match action.removeprefix("break "):
        case "500":
            return 500, b"Internal Server Error"
        case "html":
            return 200, b"<html>proxy</html>"
        case "error":
            return _json({"error": "list index\nout of range"})
        case "shape":
            return _json({"observation": 3, "reward": 0, "done": False})
        case "empty":
            return _json({"reward": 0, "done": False})
        case "slow":
            time.sleep(1.5)
    return _json({"observation": "awake", "reward": 0, "done": False})


def _json(answer: object) -> tuple[int, bytes]:
    return 200, json.dumps(answer).encode()


def serve(name: str, port: int = 0) -> tuple[ThreadingHTTPServer, AgentGymServer]:
    """Start a server on a thread of its own; return it with its environments. `shutdown` and `server_close` end it."""
    served = AgentGymServer(name)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: apart, the second waits for the other side to confirm the first

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            self.reply("GET", url.path, {k: int(v) for k, v in parse_qsl(url.query)})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply("POST", self.path, json.loads(body or b"{}"))

        def reply(self, method: str, path: str, fields: dict) -> None:
            if served.gone:  # the connections of a server outlive the server here
                self.close_connection = True
                return
            status, body = served.answer(method, path, fields)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    http_server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    http_server.daemon_threads = True
    threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return http_server, served


if __name__ == "__main__":
    print(f"http://127.0.0.1:{serve(sys.argv[1])[0].server_port}", flush=True)
    threading.Event().wait()
