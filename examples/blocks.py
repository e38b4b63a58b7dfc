#!/usr/bin/env python3
"""Stack blocks into a tower: an environment for eexp in Python, with the standard library alone.

    eexp expert 'exec:python3 examples/blocks.py' -n 20 --split train \\
      | eexp branch -k 3 --from admissible \\
      | eexp rollout --env 'exec:python3 examples/blocks.py' \\
      | eexp world-model-data > world-model.jsonl

Each line of standard input is a request, and each line of standard output is the answer to it
(docs/environments/programs.md has the protocol). A task is a start and a goal; no pair of the two is in both splits.
The expert takes a shortest path.
"""

import json
import random
import sys
from itertools import pairwise

BLOCKS = ("red", "green", "blue", "yellow")
TABLE = "the table"
HELP = "Only a block with nothing on it can be moved, onto another such block or onto the table."

# A state is the set of stacks, each a tuple of blocks from the bottom up.


def moves(state):
    """Yield every action that the state accepts, and the state it leads to."""
    for stack in sorted(state):
        block, rest = stack[-1], state - {stack} | ({stack[:-1]} if stack[:-1] else set())
        if stack[:-1]:
            yield f"move {block} onto {TABLE}", rest | {(block,)}
        for other in sorted(state - {stack}):
            yield f"move {block} onto {other[-1]}", rest - {other} | {(*other, block)}


def shortest_paths(start):
    """Return every state that can be reached from start, with a shortest list of actions that leads there."""
    paths, queue = {start: []}, [start]
    for state in queue:
        for action, after in moves(state):
            if after not in paths:
                paths[after] = [*paths[state], action]
                queue.append(after)
    return paths


STATES = sorted(shortest_paths(frozenset((block,) for block in BLOCKS)), key=sorted)
TOWERS = [state for state in STATES if len(state) == 1]
PAIRS = [(STATES.index(s), TOWERS.index(g)) for s in STATES for g in TOWERS if s != g]
random.Random("blocks").shuffle(PAIRS)
SPLITS = {"train": PAIRS[:1500], "test": PAIRS[1500:]}


def in_words(state):
    """Describe the stacks one after the other, each from the bottom up."""
    sentences = []
    for stack in sorted(state):
        sentences += [f"The {block} block is on {below}." for block, below in zip(stack, (TABLE, *stack))]
    return " ".join(sentences)


class World:
    """One episode. A method answers each kind of request: it takes the request's fields and returns the answer."""

    def hello(self, protocol):
        return {"protocol": 1, "name": "blocks", "splits": list(SPLITS), "max_steps": 15, "expert": True, "save": True}

    def tasks(self, split):
        return {"tasks": [{"id": f"{s}-{g}", "start": s, "goal": g} for s, g in SPLITS[split]]}

    def reset(self, task):
        self.state, self.goal = STATES[task["start"]], TOWERS[task["goal"]]
        (tower,) = self.goal
        order = ", ".join(f"{b} on {a}" for a, b in pairwise(tower))
        return {**self.answer(in_words(self.state)), "instruction": f"Build one tower: {order}."}

    def step(self, action):
        after = dict(moves(self.state)).get(action)
        if after is None:
            return self.answer(HELP, valid=False)
        self.state = after
        return self.answer(in_words(self.state))

    def answer(self, text, valid=True):
        done = self.state == self.goal
        actions = [action for action, _ in moves(self.state)]
        judged = {"done": done, "score": float(done), "success": done}
        return {"observation": text, "valid": valid, **judged, "admissible": actions}

    def save(self):
        return {"state": [sorted(self.state), sorted(self.goal)]}

    def restore(self, state):
        self.state, self.goal = (frozenset(map(tuple, stacks)) for stacks in state)
        return {}

    def expert(self):
        return {"action": next(iter(shortest_paths(self.state)[self.goal]), None)}


def main():
    world = World()
    for line in sys.stdin:
        request = json.loads(line)
        op = request.pop("op")
        if op == "close":
            return
        try:
            answer = getattr(world, op)(**request)
        except (AttributeError, LookupError, TypeError) as e:  # a request that makes no sense here
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
