"""Policies: from a state to actions. A language model with a prompt style is one; so are `random` and `expert`."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from eexp.errors import InputError, UsageError
from eexp.models.base import Answer, Draw, Episodes, Model, Request, Sample, Score
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
    """An action, what the policy wrote around it, and the log-probability of that text.

    cut_off: the text ended at the token limit before its action was whole; the action is empty then.
    """

    action: str
    text: str | None = None
    logprob: float | None = None
    finished: bool = True
    thought: str = ""
    cut_off: bool = False


@dataclass(frozen=True)
class ActionDraw:
    """Ask a policy for `n` actions in a state; the other fields as in `models.base.Draw`.

    An action is empty where the policy wrote none. only_admissible: it can write nothing but an admissible action.
    """

    state: State
    n: int = 1
    temperature: float = 1.0
    seed: int = 0
    accept: Callable[[Proposal], bool] | None = None
    most: int | None = None
    distinct: bool = False
    only_admissible: bool = False
    top_p: float | None = None
    min_p: float | None = None
    contends: Callable[[Proposal], bool] | None = None


@dataclass(frozen=True)
class ActionScore:
    """Ask a policy how probable it finds each of some actions in a state."""

    state: State
    actions: Sequence[str]


Proposals = list[Proposal] | InputError


class Policy(ABC):
    """Proposes actions. `needs` names the fields of a State beyond the usual that it cannot do without."""

    fingerprint = ""
    style_label: str | None = None
    max_tokens: int | None = None
    think: str = "never"
    needs: frozenset[str] = frozenset()
    #: Whether it can draw without replacement, keep `ActionDraw.min_p`, and score.
    exact: bool = False

    @property
    def counts(self) -> Counter[str]:
        """What its proposals cost."""
        return Counter()

    @abstractmethod
    def answer(self, groups: Iterable[Sequence[ActionDraw | ActionScore]]) -> Iterator[list[Proposals]]:
        """The proposals for each group, in order (see `models.base.Model.answer`); for an ActionScore, its actions."""

    def propose(self, choice: ActionDraw | ActionScore) -> list[Proposal]:
        """The proposals for one choice. Raises InputError where there can be none."""
        ((found,),) = self.answer([[choice]])
        if isinstance(found, InputError):
            raise found
        return found

    def episodes(self, n: int) -> Episodes[ActionDraw, Proposals]:
        """Return `n` episodes in flight, or as many as there is memory for (`Episodes.n`)."""
        return Episodes(self, n)

    def close(self) -> None:
        """Give back the memory. Safe to call twice."""


class ModelPolicy(Policy):
    """A language model that acts under a prompt style.

    think: "always" asks for a thought before every action, "never" for the action alone, "auto" leaves it to the model
    where the style's prompt is the same for both.
    """

    def __init__(self, model: Model, style: PromptStyle, max_tokens: int, think: str = "never"):
        self.model, self.style, self.max_tokens, self.think = model, style, max_tokens, think
        self._opening = style.opening(think)
        self.fingerprint, self.style_label = model.fingerprint, style.label
        self.needs = frozenset({"admissible"} if style.acting.list_admissible else ())
        self.exact = model.exact

    @property
    def counts(self) -> Counter[str]:
        return self.model.counts

    def answer(self, groups: Iterable[Sequence[ActionDraw | ActionScore]]) -> Iterator[list[Proposals]]:
        for answers in self.model.answer([self.request(c) for c in group] for group in groups):
            yield [self.proposals(found) for found in answers]

    def request(self, choice: ActionDraw | ActionScore) -> Request:
        """What a choice asks of the model."""
        if isinstance(choice, ActionScore):
            return Score(self.prompt(choice.state), self._texts(choice.actions), self._opening)
        return self.draw(choice)

    def prompt(self, state: State) -> list[dict[str, str]]:
        """The chat in which the state is put to the model."""
        return self.style.act(
            state.instruction, state.steps, state.observation, state.admissible, think=self.think == "always"
        )

    def _texts(self, actions: Iterable[str]) -> list[str]:
        """What the model would write for actions without a thought, after the opening."""
        return [self.style.answer(action).text.removeprefix(self._opening) for action in actions]

    def draw(self, choice: ActionDraw) -> Draw:
        """A choice as a request to the model."""
        state, allowed = choice.state, None
        if choice.only_admissible:
            if not state.admissible:
                raise InputError("only admissible actions may be chosen, and none are known here")
            allowed = self._texts(state.admissible)
        return Draw(
            self.prompt(state),
            choice.n,
            choice.temperature,
            self.max_tokens,
            choice.seed,
            accept=self._of_samples(choice.accept),
            most=choice.most,
            distinct=choice.distinct,
            allowed=allowed,
            prefix=self._opening,
            top_p=choice.top_p,
            min_p=choice.min_p,
            contends=self._of_samples(choice.contends),
        )

    def _of_samples(self, judge: Callable[[Proposal], bool] | None) -> Callable[[Sample], bool] | None:
        """A judge of proposals as one of samples."""
        return None if judge is None else lambda sample: judge(self._proposal(sample))

    def proposals(self, answer: Answer) -> Proposals:
        """The model's answer as actions."""
        return answer if isinstance(answer, InputError) else [self._proposal(s) for s in answer]

    def _proposal(self, sample: Sample) -> Proposal:
        text = self._opening + sample.text
        parsed = self.style.parse(text, sample.finished)
        return Proposal(parsed.action, text, sample.logprob, sample.finished, parsed.thought, parsed.cut_off)

    def episodes(self, n: int) -> Episodes[ActionDraw, Proposals]:
        return _ModelEpisodes(self, n)

    def close(self) -> None:
        self.model.close()


class _ModelEpisodes(Episodes[ActionDraw, Proposals]):
    """Episodes that a language model plays."""

    def __init__(self, policy: ModelPolicy, n: int):
        self._policy, self._episodes = policy, policy.model.episodes(n)
        super().__init__(policy, self._episodes.n)

    def submit(self, episode: int, request: ActionDraw) -> None:
        self._episodes.submit(episode, self._policy.draw(request))

    def wait(self) -> list[tuple[int, Proposals]]:
        return [(episode, self._policy.proposals(answer)) for episode, answer in self._episodes.wait()]

    def close(self) -> None:
        self._episodes.close()


class _Offhand(Policy):
    """A policy that answers without thinking: one action at a time."""

    def answer(self, groups: Iterable[Sequence[ActionDraw | ActionScore]]) -> Iterator[list[Proposals]]:
        for group in groups:
            yield [self._answer(choice) for choice in group]

    def _answer(self, choice: ActionDraw | ActionScore) -> Proposals:
        if isinstance(choice, ActionScore):
            raise UsageError(f"the policy {self.fingerprint} cannot score actions; give a model")
        try:
            drawn = (Proposal(action) for action in self._actions(choice))
            if choice.accept is None:
                return list(drawn)
            return list(islice(filter(choice.accept, drawn), choice.n))
        except InputError as e:
            return e

    @abstractmethod
    def _actions(self, choice: ActionDraw) -> Iterator[str]:
        """As many actions as may be judged."""


class RandomPolicy(_Offhand):
    """Uniform over the admissible actions."""

    fingerprint = "random"
    needs = frozenset({"admissible"})

    def _actions(self, choice: ActionDraw) -> Iterator[str]:
        if not choice.state.admissible:
            raise InputError("the random policy needs admissible actions, and there are none here")
        draw, listed = random.Random(choice.seed), choice.state.admissible
        if choice.distinct:
            yield from draw.sample(listed, min(choice.most or choice.n, len(listed)))
        else:
            yield from (draw.choice(listed) for _ in range(choice.most or choice.n))


class ExpertPolicy(_Offhand):
    """The environment's own expert."""

    fingerprint = "expert"
    needs = frozenset({"expert"})

    def _actions(self, choice: ActionDraw) -> Iterator[str]:
        if choice.state.expert is None:
            raise InputError("the environment's expert has no action here")
        yield from [choice.state.expert] * choice.n
