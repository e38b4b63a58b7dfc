"""The built-in house, whose steps take a time: the environment of executors.py and faults.py.

eexp eval 'waiting:Waiting?seconds=0.1' -m random -n 2        # in this directory
"""

from __future__ import annotations

import time

from eexp.envs.worlds.house import House


class Waiting(House):
    """A house whose every step sleeps for `seconds`, as one does that waits for a server."""

    light = False

    def __init__(self, seconds: str = "0.05"):
        super().__init__()
        self.seconds = float(seconds)

    def step(self, action: str):
        time.sleep(self.seconds)
        return super().step(action)
