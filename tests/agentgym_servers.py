"""AgentGym's environment servers as their source has them, each with a small game behind it.

    python tests/agentgym_servers.py textcraft     # prints the URL and serves until it is stopped

What is taken from the servers: paths, keys, the shape of every answer, errors as `{"error": ...}` with status 200, the
texts that eexp/envs/agentgym.py reads something from. Actions that begin with "!" break the server in some way.
"""

from __future__ import annotations

import json
import random
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qsl, urlsplit

from eexp.envs.house import House


class Craft:
    """TextCraft in small: take what grows, craft what does not, until the goal is made."""

    recipes = {
        "oak planks": (4, {"oak log": 1}),
        "stick": (4, {"oak planks": 2}),
        "crafting table": (1, {"oak planks": 4}),
        "wooden pickaxe": (1, {"oak planks": 3, "stick": 2}),
    }

    def reset(self, number: int) -> dict:
        self.goal = sorted(self.recipes)[number % len(self.recipes)]
        self.held: dict[str, int] = {}
        lines = [f"craft {n} {made} using {_list(needs)}" for made, (n, needs) in self.recipes.items()]
        random.shuffle(lines)
        text = "Crafting commands:\n" + "\n".join(lines) + f"\n\nGoal: craft {self.goal}."
        return {"observation": text, "done": False, "reward": 0}

    def step(self, action: str) -> dict:
        text, won = self._do(action)
        return {"observation": text, "reward": int(won), "done": won}

    def _do(self, action: str) -> tuple[str, bool]:
        if found := re.match(r"craft (\d+) (.*) using (.*)", action):
            count, made, needs = int(found[1]), found[2], found[3]
            if any(not re.match(r"\d+ .", part) for part in needs.split(", ")):
                return f"Wrong item format: {needs}", False
            if (count, needs) != (self.recipes.get(made, (0, {}))[0], _list(self.recipes.get(made, (0, {}))[1])):
                return f"Could not find a valid recipe for {made}", False
            takes = self.recipes[made][1]
            if any(self.held.get(item, 0) < n for item, n in takes.items()):
                return f"Could not find enough items to craft {made}", False
            for item, n in {**{k: -v for k, v in takes.items()}, made: count}.items():
                self.held[item] = self.held.get(item, 0) + n
            return f"Crafted {count} {made}", made == self.goal
        if found := re.match(r"get (\d+) (.*)", action):
            if found[2] != "oak log":
                return f"Could not find {found[2]}", False
            self.held["oak log"] = self.held.get("oak log", 0) + int(found[1])
            return f"Got {found[1]} oak log", False
        if action.startswith("inventory"):
            return "Inventory: " + " ".join(f"[{k}] ({v})" for k, v in self.held.items() if v), False
        return f"Could not execute {action}", False


def _list(items: dict[str, int]) -> str:
    return ", ".join(f"{n} {item}" for item, n in items.items())


class Rooms:
    """eexp's own house, told as the servers of ALFWorld, BabyAI and ScienceWorld tell their worlds."""

    def __init__(self, told_as: str):
        self.told_as, self.house = told_as, House()
        self.all = list(self.house.tasks("train"))

    def reset(self, number: int) -> dict:
        seen = self.house.reset(self.all[number])
        told = self._tell(seen)
        goal = self.house.instruction()
        if self.told_as == "alfworld":
            del told["done"], told["reward"]
            return {**told, "observation": f"{seen.text}\nYour task is to: {goal}", "task_type": "x/y"}
        if self.told_as == "babyai":
            return {**told, "observation": f"Your goal: {goal}\n{told['observation']}", "deleted": False}
        return {**told, "task_description": goal, "task_name": "house", "var_num": number, "deleted": False}

    def step(self, action: str) -> dict:
        seen = self.house.step(action)
        if self.told_as == "sciworld" and not seen.valid:
            seen.text = "No known action matches that input."
        return self._tell(seen)

    def expert(self) -> str | None:
        return self.house.expert()

    def _tell(self, seen) -> dict:
        told = {"observation": seen.text, "reward": float(seen.success or 0), "done": seen.done}
        if self.told_as == "alfworld":
            return {**told, "available_actions": self.house.admissible()}
        if self.told_as == "babyai":
            told["observation"] += f"\nAvailable actions: {json.dumps(self.house.admissible())}"
            return {**told, "score": 2 * told["reward"]}
        return {**told, "score": 100 * (seen.score or 0)}


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
        return {"state": self.observation(), "reward": won, "done": self.page == "end", "info": None}

    def observation(self) -> str:
        return f"WebShop [SEP] Instruction: [SEP] Find a {self.wanted} [SEP] {self.page}"

    def available_actions(self) -> dict:
        buttons = {"start": ["search"], "results": ["red mug", "blue mug"]}.get(self.page, ["buy now"])
        return {"has_search_bar": self.page == "start", "clickables": buttons}


class AgentGymServer:
    """All environments of one server, by their ids; `answer` is what a request gets, as (status, body)."""

    def __init__(self, name: str):
        self.name = name
        self.worlds: dict[int, object] = {}
        self.over: set[int] = set()
        self.ids = count(3)
        self.lock = threading.Lock()
        self.gone = False

    def answer(self, method: str, path: str, said: dict) -> tuple[int, bytes]:
        with self.lock:
            if path == "/create" and method == "POST":
                return self._create()
            handle = said.get("env_idx" if self.name == "webshop" else "id")
            if handle not in self.worlds:
                return _json({"error": f"The id {handle} is not valid."})
            return self._of(handle, self.worlds[handle], method, path, said)

    def _create(self) -> tuple[int, bytes]:
        made = next(self.ids)
        if self.name == "webshop":
            self.worlds[made] = Shop()
            return _json(made)
        self.worlds[made] = Craft() if self.name in ("textcraft", "own") else Rooms(self.name)
        return _json({"id": made})

    def _of(self, handle: int, world, method: str, path: str, said: dict) -> tuple[int, bytes]:
        match method, path:
            case "POST", "/reset":
                number = said[{"webshop": "session_id", "alfworld": "game"}.get(self.name, "data_idx")]
                if self.name == "alfworld" and said["world_type"] != "Text":
                    return _json({"error": "world_type"})
                self.over.discard(handle)
                try:
                    made = world.reset(number)
                except IndexError as e:
                    return _json({"error": str(e)})
                return _json(["an outdated text", None] if self.name == "webshop" else made)
            case "POST", "/step":
                if said["action"].startswith("!"):
                    return _broken(said["action"])
                if handle in self.over:
                    return _json({"error": f"The task with environment {handle} has finished."})
                made = world.step(said["action"])
                if made["done"]:
                    self.over.add(handle)
                return _json(made)
            case "POST", "/close" if self.name != "alfworld":
                del self.worlds[handle]
                return _json(True)
            case "GET", "/observation" if self.name == "webshop":
                return _json(world.observation())
            case "GET", "/available_actions" if self.name == "webshop":
                return _json(world.available_actions())
        return 404, b'{"detail":"Not Found"}'


def _broken(action: str) -> tuple[int, bytes]:
    match action:
        case "!500":
            return 500, b"Internal Server Error"
        case "!html":
            return 200, b"<html>proxy</html>"
        case "!error":
            return _json({"error": "list index\nout of range"})
        case "!shape":
            return _json({"observation": 3, "reward": 0, "done": False})
        case "!empty":
            return _json({"reward": 0, "done": False})
        case "!slow":
            time.sleep(1.5)
    return _json({"observation": "awake", "reward": 0, "done": False})


def _json(answer: object) -> tuple[int, bytes]:
    return 200, json.dumps(answer).encode()


def serve(name: str, port: int = 0) -> tuple[ThreadingHTTPServer, AgentGymServer]:
    """A server that answers on a thread of its own, and what it holds. `shutdown` and `server_close` end it."""
    served = AgentGymServer(name)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: apart, the second waits for the other side to confirm the first

        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            self.reply("GET", asked.path, {k: int(v) for k, v in parse_qsl(asked.query)})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply("POST", self.path, json.loads(body or b"{}"))

        def reply(self, method: str, path: str, said: dict) -> None:
            if served.gone:  # the connections of a server outlive the server here
                self.close_connection = True
                return
            status, body = served.answer(method, path, said)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return made, served


if __name__ == "__main__":
    print(f"http://127.0.0.1:{serve(sys.argv[1])[0].server_port}", flush=True)
    threading.Event().wait()
