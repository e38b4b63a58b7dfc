"""`-m dice:go_up,jump_up`: a model that answers with one of these actions, drawn by the seed of the request."""

import random

from eexp.models import TextModel


class Dice(TextModel):
    def __init__(self, spec, engine):
        super().__init__(spec)
        self.actions = spec.partition(":")[2].replace("_", " ").split(",")

    def write(self, draw, seed):
        action = self.actions[0] if draw.temperature == 0 else random.Random(seed).choice(self.actions)
        return f"Action: {action}"
