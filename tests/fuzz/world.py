"""A program as an environment that answers one request of its task number N with line N of a file, whatever that is."""

from __future__ import annotations

import json
import sys

TURNS = ("step", "step", "reset", "admissible", "expert")  # which request it is, by the number of the task
GOOD = {
    "hello": {"protocol": 1, "splits": ["train"], "expert": True, "admissible": True, "max_steps": 2},
    "reset": {"observation": "start", "instruction": "do it"},
    "step": {"observation": "done", "done": True, "score": 1, "success": True},
    "admissible": {"admissible": ["good", "bad"]},
    "expert": {"action": "good"},
}


def main(file: str) -> None:
    """Answer requests on standard input until it ends."""
    with open(file, "rb") as source:
        lines = [line for line in source.read().split(b"\n") if line.strip()]
    number = 0
    for request in sys.stdin:
        message = json.loads(request)
        if message["op"] == "close":
            break
        if message["op"] == "reset":
            number = int(message["task"]["id"].rpartition("/")[2])
        good = GOOD.get(message["op"], {"tasks": len(lines)})
        turn = message["op"] == TURNS[number % len(TURNS)]
        sys.stdout.buffer.write((lines[number] if turn else json.dumps(good).encode()) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
