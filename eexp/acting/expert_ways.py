"""The expert's way on from every state that an agent visited: how far it was from the end, turn by turn.

The expert plays to the end from each state, in a copy of the environment where it can be copied, and else after a
replay. The episode itself must go on as in its replay, whatever the copies did; and where the agent takes the expert's
action, it must lead where it led in the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from eexp.envs import forking
from eexp.envs.base import Environment, Observation
from eexp.envs.differences import Difference, difference_between, outcome_difference
from eexp.envs.listing import trajectory_step
from eexp.envs.replay import replay
from eexp.errors import EexpError, UsageError, short
from eexp.formats.conversations import Conversation
from eexp.records.equality import form_of
from eexp.records.outcomes import finishes
from eexp.records.record import seed_of


@dataclass(frozen=True)
class Way:
    """What the expert does from a state to the end of the episode."""

    steps: list[dict]
    outcomes: list[dict]
    successful: bool

    @property
    def length(self) -> float:
        """The number of actions to the completed task; infinite where the expert does not complete it."""
        return len(self.steps) if self.successful else float("inf")

    def after_first(self) -> Way:
        """Return what is left of it after its first action."""
        return Way(self.steps[1:], self.outcomes[1:], self.successful)

    def as_later_steps(self) -> list[dict]:
        """Return its steps in the form of `then` of an alternative."""
        return [{"action": step["action"], **outcome} for step, outcome in zip(self.steps, self.outcomes)]


@dataclass(frozen=True)
class Visit:
    """A turn of an agent's episode."""

    step: dict  # the step of a trajectory: the state and the agent's action
    before: Observation  # what was observed in the state
    after: Observation  # what the action led to
    way: Way  # the expert's way from the state
    way_after: Way  # the expert's way from where the action led

    @property
    def failed(self) -> bool:
        """Whether the agent is no nearer to the end than before, though the expert gets there."""
        return self.way.successful and self.way_after.length >= self.way.length


class WalkedEpisode:
    """An agent's episode walked again, with the expert's way from each of its states.

    Args:
        admissible: How many admissible actions to keep a step; None keeps all.
        on_step: Called before every step of the environment.

    Raises:
        UsageError: The environment has no expert.
        InputError: The environment does not observe what the episode recorded.
        EexpError: The environment answers in another way the second time, or in a copy.
    """

    def __init__(
        self,
        env: Environment,
        task: dict,
        conversation: Conversation,
        record_id: str,
        *,
        admissible: int | None = 50,
        seed: int = 0,
        on_step: Callable[[], None] = lambda: None,
    ):
        if not env.has("expert"):
            raise UsageError(f"{env.spec} has no expert, whose way on from each state is needed")
        self._env, self._task, self._record_id, self._on_step = env, task, record_id, on_step
        self._admissible, self._seed = admissible, seed
        replayed = replay(env, task, conversation, record_id, admissible=admissible, seed=seed, on_step=on_step)
        self.trajectory = replayed.trajectory
        self._steps: list[dict] = self.trajectory["steps"]
        self._copies = forking.why_unfit(env, "state") is None

    def visits(self) -> Iterator[Visit]:
        """Yield the agent's turns, one after the other."""
        after = self._walk_to(0)
        way_after = self._way_from(0, after)
        form = form_of(self._env.action_equality())
        for i, step in enumerate(self._steps):
            before, way = after, way_after
            after = self._take(i)
            expert_action = way.steps[0]["action"] if way.steps else None
            if self._copies and step["action"] == expert_action:
                self._refuse(i, difference_between(self._env.mask, after.outcome(), way.outcomes[0]), "in a copy")
            as_expert = expert_action is not None and form(step["action"]) == form(expert_action)
            way_after = way.after_first() if as_expert else self._way_from(i + 1, after)
            yield Visit(step, before, after, way, way_after)

    def _take(self, i: int) -> Observation:
        """Take the agent's action number `i`; raise EexpError if it does not lead where it led in the replay."""
        self._on_step()
        observation = self._env.step(self._steps[i]["action"])
        is_last = i + 1 == len(self._steps)
        recorded = self.trajectory["outcome"] if is_last else {**self._steps[i + 1], "done": False}
        self._refuse(i, outcome_difference(self._env.mask, observation.outcome(), recorded), "before")
        return observation

    def _refuse(self, i: int, difference: Difference | None, where: str) -> None:
        """Raise EexpError if the agent's action number `i` led elsewhere; `where` is where it led to `recorded`."""
        if difference:
            observed, recorded = difference.excerpts()
            raise EexpError(
                f"{self._record_id}: $.transcript[{i}]: after {short(self._steps[i]['action'])} {difference.name} is "
                f"{observed}, and was {recorded} {where}: {self._env.spec} or its copies do not answer in the same way "
                "every time; `eexp env check` looks for the cause"
            )

    def _walk_to(self, i: int) -> Observation:
        """Take the agent's first `i` actions from the beginning of the task."""
        self._on_step()
        observation = self._env.reset(self._task).at_beginning()
        for number in range(i):
            observation = self._take(number)
        return observation

    def _way_from(self, i: int, observation: Observation) -> Way:
        """Return the expert's way from the state after the agent's first `i` actions, and stay in that state."""
        if observation.done:
            return Way([], [], finishes(observation.outcome()))
        if not self._copies:
            way = self._play_expert(self._env, i, observation)
            self._walk_to(i)
            return way
        if self._env.has("save"):
            state = self._env.save()
            way = self._play_expert(self._env, i, observation)
            self._env.restore(state)
            self._env.release(state)
            return way
        with self._env.fork() as copy:
            return self._play_expert(copy, i, observation)

    def _play_expert(self, env: Environment, i: int, observation: Observation) -> Way:
        """Let the expert play to the end of the episode, for no more actions than an episode may have."""
        steps: list[dict] = []
        outcomes: list[dict] = []
        while not observation.done and len(steps) < env.max_steps:
            action = env.expert()
            if action is None:
                break
            seed = seed_of(self._seed, self._record_id, i + len(steps))
            steps.append(trajectory_step(env, observation, action, self._admissible, seed))
            self._on_step()
            observation = env.step(action)
            outcomes.append(observation.outcome())
        return Way(steps, outcomes, bool(outcomes) and finishes(outcomes[-1]))
