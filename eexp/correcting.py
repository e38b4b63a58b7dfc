"""Corrections of an agent's episodes: where it went wrong, and the expert's way on from there.

The expert plays to the end from every state that the agent visited. A turn after which the expert needs as many actions
as before it, or more, brought the agent no nearer to the end: it failed. What the expert does in that state, and the
agent's own action with what it led to, are an expert's step and its alternative, in a state that the agent itself gets
into. Imitating an expert there is DAgger (Ross et al. 2011, arXiv 1011.0686).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import click

from eexp import options
from eexp.envs import forking
from eexp.envs.base import Environment, Observation
from eexp.envs.listing import trajectory_step
from eexp.envs.replay import replay
from eexp.errors import UsageError
from eexp.formats.conversations import Conversation
from eexp.outcomes import finishes, transition_of
from eexp.records import canonical, seed_of
from eexp.settings import option

#: How a turn failed, in words, by the kind of its transition (outcomes.TRANSITIONS).
FAILURES = {
    "invalid": "refused",
    "unchanged": "without effect",
    "done": "that ended the episode",
    "changed": "that led away",
}


@dataclass(frozen=True)
class CorrectSettings:
    """Settings of `correct`."""

    turns: int = option(
        1, type=click.IntRange(min=1), metavar="N", help="Correct up to N turns of an episode, from the first one on."
    )
    admissible: int | None = options.admissible.field()
    seed: int = options.seed.field()

    def lineage(self) -> dict[str, Any]:
        """Return the settings by the names of their options."""
        return {**asdict(self), "admissible": "all" if self.admissible is None else self.admissible}


@dataclass
class Corrected:
    """The corrections of one episode.

    Attributes:
        trajectories: One for each turn that was corrected.
        counts: Numbers for the summary.
    """

    trajectories: list[dict] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Way:
    """What the expert does from a state to the end of the episode.

    Attributes:
        steps: The steps of a trajectory.
        outcomes: The outcome of each.
        successful: Whether it completes the task.
    """

    steps: list[dict]
    outcomes: list[dict]
    successful: bool

    @property
    def length(self) -> float:
        """The number of actions to the completed task; infinite where the expert does not complete it."""
        return len(self.steps) if self.successful else float("inf")

    def after_first(self) -> _Way:
        """Return what is left of it after its first action."""
        return _Way(self.steps[1:], self.outcomes[1:], self.successful)

    def as_later_steps(self) -> list[dict]:
        """Return its steps in the form of `then` of an alternative."""
        return [{"action": step["action"], **outcome} for step, outcome in zip(self.steps, self.outcomes)]


def correct(
    env: Environment,
    task: dict,
    conversation: Conversation,
    record_id: str,
    settings: CorrectSettings | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Corrected:
    """Return the corrections of an episode's first failed turns.

    Each is a trajectory: the agent's turns up to the one that failed, and from there the expert's. At that step the
    agent's action is an alternative with its outcome, and `then` is what the expert does after it. Earlier turns that
    failed have `mistake` true.

    Args:
        env: The environment of the episode, which has an expert.
        task: The task that was played.
        conversation: The agent's turns.
        record_id: With "/correct/1" and so on, the ids of the trajectories.
        settings: How many turns to correct.
        on_step: Called before every step of the environment.

    Raises:
        UsageError: The environment has no expert.
        InputError: The environment does not observe what the episode recorded.
    """
    if not env.has("expert"):
        raise UsageError(f"{env.spec} has no expert, and it is the expert that corrects")
    return _Correction(env, task, conversation, record_id, settings or CorrectSettings(), on_step).run()


class _Correction:
    """The correction of one episode."""

    def __init__(
        self,
        env: Environment,
        task: dict,
        conversation: Conversation,
        record_id: str,
        settings: CorrectSettings,
        on_step: Callable[[], None],
    ):
        self.env, self.task, self.record_id, self.settings, self.on_step = env, task, record_id, settings, on_step
        replayed = replay(
            env, task, conversation, record_id, admissible=settings.admissible, seed=settings.seed, on_step=on_step
        )
        self.trajectory = replayed.trajectory
        self.steps: list[dict] = self.trajectory["steps"]
        self.copies = forking.why_unfit(env, "state") is None

    def run(self) -> Corrected:
        """Walk the agent's way, and ask at every state for the expert's."""
        corrected = Corrected()
        counts = corrected.counts
        observation = self._walk_to(0)
        way = self._way_from(0, observation)
        if not way.successful:
            counts["episode[s] left out, since the expert does not complete the task"] += 1
            return corrected
        history: list[dict] = []
        for i, step in enumerate(self.steps):
            before, way_before = observation, way
            observation = self._take(step["action"])
            as_expert = bool(way.steps) and canonical(step["action"]) == canonical(way.steps[0]["action"])
            way = way.after_first() if as_expert else self._way_from(i + 1, observation)
            counts["turn[s]"] += 1
            if not way_before.successful or way.length < way_before.length:
                history.append(step)
                continue
            failure = transition_of(before.text, observation.outcome())
            counts["turn[s] that failed"] += 1
            counts[f"of them {FAILURES[failure]}"] += 1
            if len(corrected.trajectories) < self.settings.turns:
                number = len(corrected.trajectories) + 1
                corrected.trajectories.append(self._trajectory(number, history, way_before, step, observation, way))
                if number == self.settings.turns:
                    break
            history.append({**step, "mistake": True})
        counts["episode[s] without a turn that failed"] += not corrected.trajectories
        return corrected

    def _trajectory(
        self, number: int, history: list[dict], way: _Way, step: dict, observation: Observation, way_after: _Way
    ) -> dict:
        """Return the trajectory that corrects `step`, which led to `observation`."""
        mistaken = {
            "action": step["action"],
            "source": "policy",
            "logprob": None,
            "outcome": observation.outcome(),
            "then": way_after.as_later_steps(),
        }
        alternatives = [mistaken] if step["action"].strip() else []  # an answer without an action is no alternative
        return {
            **self.trajectory,
            "id": f"{self.record_id}/correct/{number}",
            # Records of one task stay together wherever records are split or held out.
            "origin": f"{self.env.spec}/{self.task.get('id')}",
            "steps": [*history, {**way.steps[0], "alternatives": alternatives}, *way.steps[1:]],
            "outcome": way.outcomes[-1],
        }

    def _take(self, action: str) -> Observation:
        self.on_step()
        return self.env.step(action)

    def _walk_to(self, i: int) -> Observation:
        """Take the agent's first `i` actions from the beginning of the task."""
        self.on_step()
        observation = self.env.reset(self.task).at_beginning()
        for step in self.steps[:i]:
            observation = self._take(step["action"])
        return observation

    def _way_from(self, i: int, observation: Observation) -> _Way:
        """Return the expert's way from the state after the agent's first `i` actions, and stay in that state."""
        if observation.done:
            return _Way([], [], finishes(observation.outcome()))
        if self.copies and not self.env.has("save"):
            with self.env.fork() as copy:
                return self._play_expert(copy, i, observation)
        state = self.env.save() if self.copies else None
        way = self._play_expert(self.env, i, observation)
        if self.copies:
            self.env.restore(state)
            self.env.release(state)
        else:
            self._walk_to(i)
        return way

    def _play_expert(self, env: Environment, i: int, observation: Observation) -> _Way:
        """Let the expert play to the end of the episode, for no more actions than an episode may have."""
        steps: list[dict] = []
        outcomes: list[dict] = []
        while not observation.done and len(steps) < env.max_steps:
            action = env.expert()
            if action is None:
                break
            seed = seed_of(self.settings.seed, self.record_id, i + len(steps))
            steps.append(trajectory_step(env, observation, action, self.settings.admissible, seed))
            self.on_step()
            observation = env.step(action)
            outcomes.append(observation.outcome())
        return _Way(steps, outcomes, bool(outcomes) and finishes(outcomes[-1]))


def job(request: dict, environments: Any, on_step: Callable[[], None]) -> dict:
    """Correct one episode in a worker (eexp/workers/worker.py)."""
    corrected = correct(
        environments.get(request["env"]),
        request["task"],
        Conversation(**request["conversation"]),
        request["id"],
        CorrectSettings(**request["settings"]),
        on_step,
    )
    return {"trajectories": corrected.trajectories, "counts": corrected.counts}
