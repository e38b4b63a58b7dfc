"""World models that say, before an action is taken, whether it would be accepted and change anything."""

from __future__ import annotations

from collections import Counter

from eexp.errors import InputError
from eexp.models.base import Draw, Episodes, Model, Samples
from eexp.models.policy import State
from eexp.prompts import PromptStyle

_MAX_TOKENS = 512  # tokens that an answer may take: an observation, and the verdict after it


class Predictor:
    """A language model that was trained on verdicts (`eexp world-model-data --verdict`), under its prompt style."""

    def __init__(self, model: Model, style: PromptStyle):
        self.model, self.style, self.fingerprint = model, style, model.fingerprint

    @property
    def counts(self) -> Counter[str]:
        """The cost of its predictions, as in `Model.counts`."""
        return self.model.counts

    def episodes(self, n: int) -> Episodes[Draw, Samples]:
        """Return `n` episodes in flight, or as many as there is memory for (`Episodes.n`)."""
        return self.model.episodes(n)

    def request(self, state: State, action: str) -> Draw:
        """Return the request for the verdict on an action in a state."""
        prompt = self.style.world_model(state.instruction, state.steps, state.observation, action, "verdict")
        tools = self.style.shown_tools(state.tools)
        return Draw(prompt, n=1, temperature=0.0, max_tokens=_MAX_TOKENS, tools=tools)

    def verdict(self, answer: Samples) -> str:
        """Return the word that the model answered; "" where there was no answer, such as to too long a prompt."""
        return "" if isinstance(answer, InputError) else self.style.verdict_in(answer[0].text)

    def close(self) -> None:
        """Free the memory. Safe to call twice."""
        self.model.close()
