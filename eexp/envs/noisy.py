"""`noisy:P:ENV`: an environment that leaves words out of its observations, to measure robustness.

docs/environments/noisy.md says which words, and how the draw is seeded: the same actions lead to the same observations,
in a fork as in a replay, whatever was asked or refused in between. The expert and `explain` know the world without
noise. A valid action that changes nothing, such as `look`, shows the state with other words missing; stages that
compare texts count that as a change.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

from eexp.envs.base import Environment, Observation
from eexp.envs.pieces import Part, Piece, moved, put_together
from eexp.envs.wrapper import Wrapper
from eexp.records.record import seed_of

_WORD = re.compile(r"[ \t]*\w+(?:['.-]\w+)*")
_BLANKS = re.compile(r"[ \t]*")


class Noisy(Wrapper):
    """Another environment, with words left out of its observations. See the module's docstring.

    Args:
        world: The environment without noise. Closing this one closes it, too.
        share: The probability with which a word is left out, from 0 to below 1.
    """

    own_state = ("_task_id", "_actions")

    def __init__(self, world: Environment, share: float) -> None:
        super().__init__(world)
        self.share = share
        self.spec = f"noisy:{share:g}:{world.spec}"
        self._task_id = ""
        self._actions = 0  # actions taken so far, without those that are not valid or only ask

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
        pieces = [Piece(start, end) for start, end in kept_parts(observation.text, self.share, rng)]
        text = put_together(observation.text, pieces)
        return replace(observation, text=text, unknown=moved(observation.unknown, pieces))


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
