"""`eexp expert stairs`: a staircase. Its class keeps the contract of eexp.envs.Environment."""

from copy import copy

from eexp.envs import Environment, Observation


class Stairs(Environment):
    max_steps, light = 20, True

    def splits(self):
        return ["train", "test"]

    def tasks(self, split):
        return ({"id": f"{split}/{n}", "top": n} for n in range(2 + (split == "test"), 12, 2))

    def reset(self, task):
        self.top, self.step_number = task["top"], 0
        return self._observe()

    def step(self, action):
        if action not in self.admissible():
            return Observation("You stumble.", valid=False)
        self.step_number += {"go up": 1, "jump up": 2, "go down": -1}[action]
        return self._observe()

    def _observe(self):
        done = self.step_number == self.top
        return Observation(f"You are on step {self.step_number} of {self.top}.", done, score=float(done))

    def instruction(self):
        return f"Go to step {self.top}."

    def admissible(self):
        left = self.top - self.step_number
        return ["go up"] * (left > 0) + ["jump up"] * (left > 1) + ["go down"] * (self.step_number > 0)

    def expert(self):
        return "jump up" if self.top - self.step_number > 1 else "go up"

    def fork(self):
        return copy(self)
