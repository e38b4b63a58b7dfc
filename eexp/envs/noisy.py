"""`noisy:P:ENV`: an environment that leaves words out of its observations, to measure robustness.

docs/environments/noisy.md says which words, and how the draw is seeded: the same actions lead to the same observations,
in a fork as in a replay, whatever was asked or refused in between. The expert and `explain` know the world without
noise. A valid action that changes nothing, such as `look`, shows the state with other words missing; stages that
compare texts count that as a change.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.records.record import seed_of

_WORD = re.compile(r"[ \t]*\w+(?:['.-]\w+)*")
_BLANKS = re.compile(r"[ \t]*")

Part = tuple[int, int]  # (start, end) in a text, in characters


class Noisy(Environment):
    """Another environment, with words left out of its observations. See the module's docstring.

    Args:
        world: The environment without noise. Closing this one closes it, too.
        share: The probability with which a word is left out, from 0 to below 1.
    """

    def __init__(self, world: Environment, share: float) -> None:
        self.world, self.share = world, share
        self.spec = f"noisy:{share:g}:{world.spec}"
        self.max_steps, self.in_process, self.light = world.max_steps, world.in_process, world.light
        self._task_id = ""
        self._actions = 0  # actions taken so far, without those that are not valid or only ask

    def splits(self) -> list[str]:
        return self.world.splits()

    def tasks(self, split: str) -> Iterator[dict]:
        return self.world.tasks(split)

    def task_named(self, name: str) -> dict:
        return self.world.task_named(name)

    def task_beginning(self, observation: str) -> dict | None:
        return self.world.task_beginning(observation)

    def reset(self, task: dict) -> Observation:
        observation = self.world.reset(task)
        self._task_id, self._actions = str(task.get("id")), 0
        return self._with_noise(observation, 0)

    def step(self, action: str) -> Observation:
        harmless = self.world.harmless(action)
        observation = self.world.step(action)
        noisy_observation = self._with_noise(observation, self._actions + 1)
        self._actions += observation.valid and not harmless
        return noisy_observation

    def _with_noise(self, observation: Observation, actions: int) -> Observation:
        """Return an observation with noise; `actions`: how many actions were taken before it."""
        rng = random.Random(seed_of(self._task_id, actions, observation.text, "observation noise"))
        remaining = kept_parts(observation.text, self.share, rng)
        text = "".join(observation.text[start:end] for start, end in remaining)
        unknown = None if observation.unknown is None else _moved(observation.unknown, remaining)
        return replace(observation, text=text, unknown=unknown)

    def instruction(self) -> str:
        return self.world.instruction()

    def admissible(self) -> list[str] | None:
        return self.world.admissible()

    def expert(self) -> str | None:
        return self.world.expert()

    def kind_of(self, task: dict) -> str | None:
        return self.world.kind_of(task)

    def explain(self) -> str | None:
        return self.world.explain()

    def has(self, method: str) -> bool:
        return self.world.has(method)

    def why_no_copy(self) -> str | None:
        return self.world.why_no_copy()

    def fork(self) -> Noisy:
        other = copy(self)
        other.world = self.world.fork()
        return other

    def save(self) -> object:
        return self.world.save(), self._task_id, self._actions

    def restore(self, state: Any) -> None:
        inner, self._task_id, self._actions = state
        self.world.restore(inner)

    def release(self, state: Any) -> None:
        self.world.release(state[0])

    def harmless(self, action: str) -> bool:
        return self.world.harmless(action)

    def mask(self, text: str) -> str:
        return self.world.mask(text)

    def close(self) -> None:
        self.world.close()


def kept_parts(text: str, share: float, rng: random.Random) -> list[Part]:
    """Return the parts of `text` that stay, in order, where each word is left out with probability `share`.

    Where the first words of a line are left out, so are the blanks after them.
    """
    remaining: list[Part] = []
    position = 0
    for word in _WORD.finditer(text):
        if rng.random() < share:
            remaining.append((position, max(position, word.start())))
            position = word.end()
            if _begins_a_line(remaining, text):
                blanks = _BLANKS.match(text, position)
                position = blanks.end() if blanks else position
    return [*remaining, (position, len(text))]


def _begins_a_line(remaining: list[Part], text: str) -> bool:
    """Return whether the text after the parts so far is at the beginning of a line."""
    last = next((end for start, end in reversed(remaining) if start < end), None)
    return last is None or text[last - 1] == "\n"


def _moved(parts: list[Part], remaining: list[Part]) -> list[Part]:
    """Return where parts of a text are within what remains of it, without the parts of which nothing is left."""

    def moved(position: int) -> int:
        return sum(max(0, min(position, end) - start) for start, end in remaining)

    return [(moved(start), moved(end)) for start, end in parts if moved(start) < moved(end)]
