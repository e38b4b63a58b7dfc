"""Whether a state that is copied, restored or held in a forked process is the state that a replay leads to."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from eexp.envs import open_env
from eexp.envs.base import Environment, Observation


def looks(env: Environment, seen: Observation) -> list:
    """All that can be known of a state."""
    return [seen.outcome(), env.instruction(), env.admissible(), env.expert()]


def walk(env: Environment, actions: list[str]) -> list:
    """What is to be known after each action, up to the end of the episode."""
    made = []
    for action in actions:
        made.append(looks(env, env.step(action)))
        if made[-1][0]["done"]:
            break
    return made


def replay(env: Environment, task: dict, path: list[str], actions: list[str]) -> list:
    env.reset(task)
    for action in path:
        env.step(action)
    return walk(env, actions)


def in_a_child(say: Callable[[], Any]) -> Any:
    """What `say` returns in a process that is forked here, by way of JSON."""
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open(start, "w") as out:
                json.dump(say(), out)
        finally:
            os._exit(0)
    os.close(start)
    with open(end) as answer:
        made = json.load(answer)
    os.waitpid(child, 0)
    return made


def check_branches(
    env: Environment, tasks: list[dict], wanted: int, nonsense: list[str], longest: int = 30, seed: int = 0
) -> int:
    """Branch from states on and off the expert's way, with random actions; says how many branches it compared.

    A forked process, and where the environment has them `fork` and `restore`, must see what another environment sees
    that walks there from the beginning, and the environment itself must not notice.
    """
    drawn, branches = random.Random(seed), 0
    can_fork = type(env).fork is not Environment.fork
    with open_env(env.spec) as other:
        while branches < wanted:
            task = drawn.choice(tasks)
            seen, path = env.reset(task), []
            while not seen.done and len(path) < longest and branches < wanted:
                here = looks(env, seen)
                saved = env.save() if can_fork else None
                for _ in range(min(5, wanted - branches)):
                    some = [drawn.choice(env.admissible() + nonsense) for _ in range(drawn.choice([1, 1, 3]))]
                    replayed = replay(other, task, path, some)
                    assert in_a_child(partial(walk, env, some)) == replayed, (task, path, some)
                    assert looks(env, seen) == here
                    if can_fork:
                        with env.fork() as fork:
                            assert walk(fork, some) == replayed, (task, path, some)
                        assert looks(env, seen) == here
                        assert walk(env, some) == replayed, (task, path, some)
                        env.restore(saved)
                        assert looks(env, seen) == here
                    branches += 1
                path.append((env.expert() if drawn.random() < 0.8 else None) or drawn.choice(env.admissible()))
                seen = env.step(path[-1])
                if path[1:]:  # what came of all this is what comes without it
                    assert [looks(env, seen)] == replay(other, task, path[:-1], path[-1:]), (task, path)
    return branches
