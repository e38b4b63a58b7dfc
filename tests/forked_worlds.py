"""A game forked in several ways, and jobs for worker processes, which start fast as this imports little."""

from __future__ import annotations

import random
from copy import deepcopy
from itertools import islice
from typing import Any

from eexp.acting.execution import execute
from eexp.envs.base import Environment, Observation

NONSENSE = ["", "fly", "look. look", "take all", "go to moon 1", "done", "ls()", "open door", "0", "save", "\u00e9"]


class Tally(Environment):
    """A game in which numbers are drawn and kept, or all forgotten; its generator and count of actions are state.

    The action `count` only asks, and is declared harmless.
    """

    spec = "forked_worlds:Tally"
    in_process = True

    def splits(self):
        return ["train"]

    def tasks(self, split):
        return ({"id": f"{split}/{n}", "split": split, "seed": n} for n in range(20))

    def reset(self, task):
        self.numbers, self.drawn, self.heard = [0], random.Random(task["seed"]), 0
        return Observation("Nothing yet.")

    def step(self, action):
        if action == "count":
            return Observation(f"{len(self.numbers)} numbers.")
        self.heard += 1
        match action:
            case "draw":
                self.numbers.append(self.drawn.randrange(100, 1000))
            case "forget":
                self.numbers.clear()
            case _:
                return Observation(f"Pardon? {self.heard} said.", valid=False)
        return Observation(f"{self.numbers}, {self.heard} said.", done=len(self.numbers) > 9)

    def admissible(self):
        return ["count", "draw", *(["forget"] if self.numbers else [])]

    def expert(self):
        return "draw"

    def harmless(self, action):
        return action == "count"

    def fork(self):
        return deepcopy(self)


class Saving(Tally):
    """The same game, forked by `save` and `restore`."""

    spec = "forked_worlds:Saving"
    fork = Environment.fork

    def save(self):
        return deepcopy(vars(self))

    def restore(self, state):
        vars(self).update(deepcopy(state))


class Suspicious(Tally):
    """The same game, without declaring `count` harmless."""

    spec = "forked_worlds:Suspicious"
    harmless = Environment.harmless


class Leaking(Tally):
    """The same game with a fault: a fork shares its numbers with the original."""

    spec = "forked_worlds:Leaking"

    def fork(self):
        copy = deepcopy(self)
        copy.numbers = self.numbers
        return copy


def wander(job: dict, opened: Any, on_step: Any) -> dict:
    """Play an episode, partly by the expert, with alternatives of any kind at every step."""
    env, rng, task = opened.get(job["env"]), random.Random(job["seed"]), job["task"]
    on_step()
    observation, steps = env.reset(task), []
    while not observation.done and len(steps) < job["longest"]:
        on_step()
        listed = env.admissible()
        choices = listed or job["known"]
        alternatives = [{"action": rng.choice(choices if rng.random() < 0.8 else NONSENSE)} for _ in range(job["k"])]
        action = (rng.random() < job["straight"] and env.expert()) or rng.choice(choices)
        steps.append(
            {"observation": observation.text, "action": action, "admissible": listed, "alternatives": alternatives}
        )
        observation = env.step(action)
    return {"env": env.spec, "task": task, "steps": steps, "outcome": observation.outcome()}


def roll(job: dict, opened: Any, on_step: Any) -> dict:
    """Execute all alternatives; return their outcomes and the state at the end of the path."""
    env = opened.get(job["env"])
    executed = execute(env, job["trajectory"], job["fork"], on_step)
    assert not executed.refused, executed.refused
    return {
        "by": executed.counts[f"alternative[s] executed by {job['fork']}"],
        "trajectory": executed.trajectory,
        "end": [env.instruction(), env.admissible(), env.expert()],
    }


def some(job: dict, opened: Any, on_step: Any) -> dict:
    """Return tasks of all splits and, where actions cannot be listed, those that the expert takes in them."""
    env, actions = opened.get(job["env"]), []
    tasks = [task for split in env.splits() for task in islice(env.tasks(split), 40)]
    for task in tasks[:20]:
        observation = env.reset(task)
        if env.admissible() is not None:
            break
        while not observation.done and (action := env.expert()):
            actions.append(action)
            observation = env.step(action)
    return {"tasks": tasks, "known": actions}
