"""An environment that judges as its spec says, for other processes too: this module imports little."""

from __future__ import annotations

from eexp.envs.base import Environment, Observation


class Judged(Environment):
    """An environment in which one action ends the episode, with the success and the score of its spec."""

    def __init__(self, success: str = "none", score: str = "") -> None:
        self.success = {"true": True, "false": False, "none": None}[success]
        self.score = float(score) if score else None

    def splits(self):
        return ["train"]

    def tasks(self, split):
        self.check_split(split)
        return iter([{"id": "only", "split": "train"}])

    def reset(self, task):
        self.done = False
        return Observation("A bell.")

    def step(self, action):
        if action != "ring":
            return Observation("Nothing happens.", done=self.done, valid=False)
        self.done = True
        return Observation("It rings.", done=True, score=self.score, success=self.success)

    def admissible(self):
        return [] if self.done else ["ring"]

    def expert(self):
        return None if self.done else "ring"
