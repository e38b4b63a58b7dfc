"""Policies: from a state to actions. A language model with a prompt style is one; so are `random` and `expert`."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from eexp.errors import InputError
from eexp.models.base import Model
from eexp.prompts import PromptStyle


@dataclass
class State:
    """Where an agent stands: the task in words, the steps so far, what it sees, and what it may do if that is known."""

    instruction: str
    steps: Sequence[dict]
    observation: str
    admissible: list[str] | None = None
    expert: str | None = None


@dataclass
class Proposal:
    """An action, what the policy wrote around it, and the log-probability of that text."""

    action: str
    text: str | None = None
    logprob: float | None = None


class Policy(ABC):
    """Proposes actions. `needs` names the fields of a State beyond the usual that it cannot do without."""

    fingerprint = ""
    style_label: str | None = None
    needs: frozenset[str] = frozenset()

    @abstractmethod
    def propose(self, state: State, n: int, *, temperature: float, seed: int) -> list[Proposal]:
        """Draw `n` actions (with repetition); an empty action where the policy wrote none."""


class ModelPolicy(Policy):
    """A language model that acts under a prompt style."""

    def __init__(self, model: Model, style: PromptStyle, max_tokens: int):
        self.model, self.style, self.max_tokens = model, style, max_tokens
        self.fingerprint, self.style_label = model.fingerprint, style.label
        self.needs = frozenset({"admissible"} if style.list_admissible else ())

    def propose(self, state: State, n: int, *, temperature: float, seed: int) -> list[Proposal]:
        prompt = self.style.act(state.instruction, state.steps, state.observation, state.admissible)
        drawn = self.model.sample([prompt], n, temperature=temperature, max_tokens=self.max_tokens, seeds=[seed])[0]
        return [Proposal(self.style.parse_action(s.text), s.text, s.logprob) for s in drawn]


class RandomPolicy(Policy):
    """Uniform over the admissible actions."""

    fingerprint = "random"
    needs = frozenset({"admissible"})

    def propose(self, state: State, n: int, *, temperature: float, seed: int) -> list[Proposal]:
        if not state.admissible:
            raise InputError("the random policy needs admissible actions, and there are none here")
        draw = random.Random(seed)
        return [Proposal(draw.choice(state.admissible)) for _ in range(n)]


class ExpertPolicy(Policy):
    """The environment's own expert."""

    fingerprint = "expert"
    needs = frozenset({"expert"})

    def propose(self, state: State, n: int, *, temperature: float, seed: int) -> list[Proposal]:
        if state.expert is None:
            raise InputError("the environment's expert has no action here")
        return [Proposal(state.expert)] * n
