"""Everything that can be observed of a state, of the states after some actions, and in a forked process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from running import Result, run

from eexp.envs.base import Environment, Observation


def observed(env: Environment, observation: Observation) -> list:
    """Return everything that can be observed of a state."""
    return [observation.outcome(), env.instruction(), env.admissible(), env.expert()]


def take_actions(env: Environment, actions: list[str]) -> list:
    """Return everything that can be observed after each action, up to the end of the episode."""
    states = []
    for action in actions:
        states.append(observed(env, env.step(action)))
        if states[-1][0]["done"]:
            break
    return states


def in_a_child(call: Callable[[], Any]) -> Any:
    """Return what `call` returns in a process that is forked here, sent back as JSON."""
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open(start, "w") as out:
                json.dump(call(), out)
        finally:
            os._exit(0)
    os.close(start)
    with open(end) as answer:
        value = json.load(answer)
    os.waitpid(child, 0)
    return value


def play(env: Environment, task: dict) -> tuple[list[str], list[str], Observation]:
    """Play a task by the expert, whose actions are all valid; return them, the texts and the last observation."""
    observation = env.reset(task)
    actions, texts = [], [observation.text]
    while not observation.done:
        actions.append(env.expert())
        observation = env.step(actions[-1])
        assert observation.valid
        texts.append(observation.text)
    return actions, texts, observation


def rolled_out_in_every_way(branched: Path) -> Result:
    """Execute the alternatives of a file by every way to fork, and return the outcome, which is the same for all."""
    ways = [
        run("rollout", "-j", jobs, "--fork", way, branched).ok()
        for jobs, way in [(1, "state"), (1, "process"), (1, "replay"), (2, "auto")]
    ]
    assert all("refused" not in result.err and result.out == ways[0].out for result in ways)
    assert "branch points verified" in ways[0].err
    return ways[0]
