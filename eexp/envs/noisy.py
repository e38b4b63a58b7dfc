"""`noisy:P:ENV`: an environment that leaves words out of its observations, for questions of robustness.

Every word of an observation is left out with probability P, each on its own, together with the blanks before it. A
word is a run of letters and digits, in which there may be hyphens, apostrophes and full stops (`10.5`, `a-b`);
punctuation and line ends stay. The instruction, the admissible actions and how the episode stands (`done`, `score`,
`valid`, `success`) stay as they are. The expert and `explain` know the world without noise.

What is left out is drawn from the task's id, the text, and how many actions have been taken before it, so that

- the same actions lead to the same observations, in a fork as in a replay, whatever was asked or refused on the way:
  an action that is not valid or only asks (`harmless`) is not counted;
- two actions that lead from one state to the same text lead to the same text here, too;
- the same room reads differently the next time;
- what is left out with probability 0.1 is also left out with 0.3, as long as the actions are the same.

A valid action that changes nothing, such as `look`, shows the state with other words missing. Stages that compare
texts take that for a change.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any

from eexp.envs.base import Environment, Observation
from eexp.records import seed_of

_WORD = re.compile(r"[ \t]*\w+(?:['.-]\w+)*")
_BLANKS = re.compile(r"[ \t]*")

Part = tuple[int, int]


class Noisy(Environment):
    """Another environment, with words left out of its observations. See the module's docstring.

    Args:
        world: The environment without noise, which this one closes.
        share: The probability with which a word is left out, from 0 to below 1.
    """

    def __init__(self, world: Environment, share: float) -> None:
        self.world, self.share = world, share
        self.spec = f"noisy:{share:g}:{world.spec}"
        self.max_steps, self.in_process, self.light = world.max_steps, world.in_process, world.light
        self._task_id = ""
        self._actions = 0  # that have been taken, without those that are not valid or only ask

    def splits(self) -> list[str]:
        return self.world.splits()

    def tasks(self, split: str) -> Iterator[dict]:
        return self.world.tasks(split)

    def task_named(self, name: str) -> dict:
        return self.world.task_named(name)

    def reset(self, task: dict) -> Observation:
        seen = self.world.reset(task)
        self._task_id, self._actions = str(task.get("id")), 0
        return self._with_noise(seen, 0)

    def step(self, action: str) -> Observation:
        harmless = self.world.harmless(action)
        seen = self.world.step(action)
        answer = self._with_noise(seen, self._actions + 1)
        self._actions += seen.valid and not harmless
        return answer

    def _with_noise(self, seen: Observation, actions: int) -> Observation:
        draw = random.Random(seed_of(self._task_id, actions, seen.text, "observation noise"))
        kept = kept_parts(seen.text, self.share, draw)
        text = "".join(seen.text[start:end] for start, end in kept)
        return replace(seen, text=text, unknown=None if seen.unknown is None else _moved(seen.unknown, kept))

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

    def fork(self) -> Noisy:
        other = copy(self)
        other.world = self.world.fork()
        return other

    def save(self) -> object:
        return self.world.save(), self._task_id, self._actions

    def restore(self, state: Any) -> None:
        inner, self._task_id, self._actions = state
        self.world.restore(inner)

    def harmless(self, action: str) -> bool:
        return self.world.harmless(action)

    def mask(self, text: str) -> str:
        return self.world.mask(text)

    def close(self) -> None:
        self.world.close()


def kept_parts(text: str, share: float, draw: random.Random) -> list[Part]:
    """Return what stays of `text`, as (start, end) in order, where each word is left out with probability `share`.

    Where the first words of a line are left out, so are the blanks after them.
    """
    kept: list[Part] = []
    position = 0
    for word in _WORD.finditer(text):
        if draw.random() < share:
            kept.append((position, max(position, word.start())))
            position = word.end()
            if _begins_a_line(kept, text):
                position = _BLANKS.match(text, position).end()
    return [*kept, (position, len(text))]


def _begins_a_line(kept: list[Part], text: str) -> bool:
    """Whether what comes after the parts kept so far is at the beginning of a line."""
    last = next((end for start, end in reversed(kept) if start < end), None)
    return last is None or text[last - 1] == "\n"


def _moved(parts: list[Part], kept: list[Part]) -> list[Part]:
    """Where parts of the text are once only `kept` is left of it; those of which nothing is left are dropped."""

    def moved(position: int) -> int:
        return sum(max(0, min(position, end) - start) for start, end in kept)

    return [(moved(start), moved(end)) for start, end in parts if moved(start) < moved(end)]
