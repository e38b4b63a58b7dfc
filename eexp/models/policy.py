"""Policies map a state to actions: a language model under a prompt style, `random`, or the environment's `expert`."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from eexp.errors import InputError, UsageError
from eexp.models.base import Draw, Episodes, Model, Request, Sample, Samples, Sampling, Score
from eexp.models.in_order import answer_in_order
from eexp.prompts import Messages, ParsedAnswer, PromptStyle


@dataclass
class State:
    """The state in which an agent acts."""

    instruction: str  # the task in words
    steps: Sequence[dict]  # the steps before, each with `observation`, `action` and perhaps `thought`
    observation: str  # the current observation
    admissible: list[str] | None = None  # the admissible actions, if they are known
    expert: str | None = None  # the action of the environment's expert, if it is known
    tools: list[dict] | None = None  # the functions that the environment offers, if it offers any
    #: Past episodes to show before, each as its instruction and its steps.
    recalled: Sequence[tuple[str, Sequence[dict]]] = ()


@dataclass(frozen=True)
class Proposal(ParsedAnswer):
    """An action that a policy proposes."""

    text: str | None = None  # the whole text that it was read from; None for a policy that writes none
    logprob: float | None = None  # natural log-probability of that text; None where it is not known


@dataclass(frozen=True)
class ActionDraw(Sampling[Proposal]):
    """A request to a policy for `n` actions in a state.

    An action is empty where the policy wrote none.
    """

    state: State
    only_admissible: bool = False  # allow the policy to write nothing but an admissible action


@dataclass(frozen=True)
class ActionScore:
    """A request to a policy for the log-probability of each of some actions in a state."""

    state: State
    actions: Sequence[str]


ActionRequest = ActionDraw | ActionScore
Proposals = list[Proposal] | InputError  # the proposed actions, or the reason why there can be none


class Policy(ABC):
    """Proposes actions in states."""

    fingerprint = ""
    style_label: str | None = None
    max_tokens: int | None = None
    think: str = "never"
    needs: frozenset[str] = frozenset()  # the optional fields of a State that the policy requires
    lists_admissible: bool = False  # whether its prompts list the admissible actions
    exact: bool = False  # whether it can draw without replacement, keep `ActionDraw.min_p`, and score

    @property
    def counts(self) -> Counter[str]:
        """The cost of its proposals, as in `Model.counts`."""
        return Counter()

    @abstractmethod
    def answer(self, groups: Iterable[Sequence[ActionRequest]]) -> Iterator[list[Proposals]]:
        """Yield the proposals for each group, in order (see `Model.answer`); for an ActionScore, its actions."""

    def episodes(self, n: int) -> Episodes[ActionDraw, Proposals]:
        """Return `n` episodes in flight, or as many as there is memory for (`Episodes.n`)."""
        return Episodes(self, n)

    def close(self) -> None:
        """Free the memory. Safe to call twice."""


class ModelPolicy(Policy):
    """A language model that acts under a prompt style.

    Args:
        think: "always" asks for a thought before every action, "never" for the action alone; "auto" leaves it to the
            model where the style's prompt is the same for both.
    """

    max_tokens: int

    def __init__(self, model: Model, style: PromptStyle, max_tokens: int, think: str = "never"):
        self.model, self.style, self.max_tokens, self.think = model, style, max_tokens, think
        self._opening = style.opening(think)
        self.fingerprint, self.style_label = model.fingerprint, style.label
        self.lists_admissible = style.acting.list_admissible
        self.needs = frozenset({"admissible"} if self.lists_admissible else ())
        self.exact = model.exact

    @property
    def counts(self) -> Counter[str]:
        return self.model.counts

    def answer(self, groups: Iterable[Sequence[ActionRequest]]) -> Iterator[list[Proposals]]:
        possible = ([self._possible(request) for request in group] for group in groups)
        requests = ((group, [one for one in group if not isinstance(one, InputError)]) for group in possible)
        for group, answers in answer_in_order(requests, self.model):
            answer = iter(answers)
            yield [
                request if isinstance(request, InputError) else self.proposals(next(answer), request.tools)
                for request in group
            ]

    def _possible(self, request: ActionRequest) -> Request | InputError:
        """Return the request to the model, or the reason why there can be none."""
        try:
            return self.request(request)
        except InputError as e:
            return e

    def request(self, request: ActionRequest) -> Request:
        """Return the request to the model that a request to the policy takes."""
        if isinstance(request, ActionScore):
            return self._score(request.state, request.actions)
        return self.draw(request)

    def _score(self, state: State, actions: Sequence[str]) -> Score:
        prompt = self.prompt(state)
        if not self.style.action.calls:
            return Score(prompt, self._texts(actions), self._opening)
        tools = self.style.shown_tools(state.tools)
        answers = [self.style.answer(action, number=len(state.steps)) for action in actions]
        ids = [self.model.encode(prompt, answer.messages(), tools) for answer in answers]
        return Score(prompt, [answer.text for answer in answers], ids=ids, tools=tools)

    def prompt(self, state: State) -> Messages:
        """Return the chat that shows a state to the model."""
        return self.style.act(
            state.instruction,
            state.steps,
            state.observation,
            state.admissible,
            think=self.think == "always",
            recalled=state.recalled,
        )

    def _texts(self, actions: Iterable[str]) -> list[str]:
        """Return the text that the model would write for each action without a thought, after the opening."""
        return [self.style.answer(action).text.removeprefix(self._opening) for action in actions]

    def draw(self, request: ActionDraw) -> Draw:
        """Return the request for texts that a request for actions takes.

        Raises:
            InputError: Only admissible actions are allowed, and none are known.
        """
        state, allowed = request.state, None
        tools = self.style.shown_tools(state.tools)
        if request.only_admissible:
            if self.style.action.calls:
                raise UsageError(
                    f"prompt style {self.style.name}: constrained decoding is not possible where actions are tool calls"
                )
            if not state.admissible:
                raise InputError("only admissible actions may be chosen, and none are known here")
            allowed = self._texts(state.admissible)
        return Draw(
            self.prompt(state),
            n=request.n,
            temperature=request.temperature,
            seed=request.seed,
            accept=self._of_samples(request.accept, tools),
            most=request.most,
            distinct=request.distinct,
            top_p=request.top_p,
            min_p=request.min_p,
            contends=self._of_samples(request.contends, tools),
            max_tokens=self.max_tokens,
            allowed=allowed,
            prefix=self._opening,
            tools=tools,
        )

    def _of_samples(
        self, judge: Callable[[Proposal], bool] | None, tools: Sequence[dict]
    ) -> Callable[[Sample], bool] | None:
        """Return a judge of proposals as a judge of samples."""
        return None if judge is None else lambda sample: judge(self._proposal(sample, tools))

    def proposals(self, answer: Samples, tools: Sequence[dict] = ()) -> Proposals:
        """Return the model's samples, of a request that showed `tools`, as proposals."""
        return answer if isinstance(answer, InputError) else [self._proposal(sample, tools) for sample in answer]

    def _proposal(self, sample: Sample, tools: Sequence[dict]) -> Proposal:
        text = self._opening + sample.text
        if tools:
            parsed = self.style.parse_message(self.model.message(sample, tools), sample.finished)
        else:
            parsed = self.style.parse(text, sample.finished)
        return Proposal(parsed.action, parsed.thought, parsed.cut_off, text, sample.logprob)

    def episodes(self, n: int) -> Episodes[ActionDraw, Proposals]:
        return _ModelEpisodes(self, n)

    def close(self) -> None:
        self.model.close()


class _ModelEpisodes(Episodes[ActionDraw, Proposals]):
    """Episodes that a language model plays."""

    def __init__(self, policy: ModelPolicy, n: int):
        self._policy, self._episodes = policy, policy.model.episodes(n)
        self._tools: dict[int, Sequence[dict]] = {}  # shown in the open request of each episode
        super().__init__(policy, self._episodes.n)

    def submit(self, episode: int, request: ActionDraw) -> None:
        draw = self._policy.draw(request)
        self._tools[episode] = draw.tools
        self._episodes.submit(episode, draw)

    def wait(self) -> list[tuple[int, Proposals]]:
        answers = self._episodes.wait()
        return [(episode, self._policy.proposals(answer, self._tools[episode])) for episode, answer in answers]

    def close(self) -> None:
        self._episodes.close()


class _ModelFreePolicy(Policy):
    """A policy without a model, which answers at once."""

    def answer(self, groups: Iterable[Sequence[ActionRequest]]) -> Iterator[list[Proposals]]:
        for group in groups:
            yield [self._answer(request) for request in group]

    def _answer(self, request: ActionRequest) -> Proposals:
        if isinstance(request, ActionScore):
            raise UsageError(f"the policy {self.fingerprint} cannot score actions; give a model")
        try:
            proposals = (Proposal(action) for action in self._actions(request))
            if request.accept is None:
                return list(proposals)
            return list(islice(filter(request.accept, proposals), request.n))
        except InputError as e:
            return e

    @abstractmethod
    def _actions(self, request: ActionDraw) -> Iterator[str]:
        """Yield as many actions as may be judged."""


class RandomPolicy(_ModelFreePolicy):
    """Draws uniformly from the admissible actions."""

    fingerprint = "random"
    needs = frozenset({"admissible"})

    def _actions(self, request: ActionDraw) -> Iterator[str]:
        if not request.state.admissible:
            raise InputError("the random policy needs admissible actions, and there are none here")
        generator, admissible = random.Random(request.seed), request.state.admissible
        if request.distinct:
            yield from generator.sample(admissible, min(request.most or request.n, len(admissible)))
        else:
            yield from (generator.choice(admissible) for _ in range(request.most or request.n))


class NoExpertAction(InputError):
    """Error for a state in which the environment's expert knows no action."""


class ExpertPolicy(_ModelFreePolicy):
    """Takes the actions of the environment's own expert."""

    fingerprint = "expert"
    needs = frozenset({"expert"})

    def _actions(self, request: ActionDraw) -> Iterator[str]:
        if request.state.expert is None:
            raise NoExpertAction("the environment's expert has no action here")
        yield from [request.state.expert] * request.n
