"""What a policy does after alternatives: episodes that begin with recorded actions."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from typing import Any

from eexp.acting.play import PlayedEpisode, play
from eexp.acting.settings import EvalSettings, FollowSettings
from eexp.envs.base import Environment
from eexp.envs.differences import instruction_difference, outcome_difference
from eexp.errors import InputError, UsageError, short
from eexp.models.policy import NoExpertAction, Policy
from eexp.records.callbacks import Count, OnError, add_counts, ignore_error, no_count, stop_at_error
from eexp.records.equality import action_form
from eexp.records.outcomes import actions_to_the_end
from eexp.records.record import alternatives_of
from eexp.workers.parallel import ParallelEnvironments, StepResult

#: Opens environments like the given one, at most as many as given.
OpenWorlds = Callable[[Environment, int], ParallelEnvironments]


def follow(
    trajectories: Iterator[dict],
    env_of: Callable[[str], Environment],
    open_worlds: OpenWorlds,
    policy: Policy,
    settings: FollowSettings | None = None,
    *,
    count: Count = no_count,
    on_refused: OnError = ignore_error,
    on_error: OnError = stop_at_error,
) -> Generator[dict, None, None]:
    """Yield trajectories in which every executed alternative has `then`: what a policy did after it, and the outcomes.

    The environment is brought to where the alternative led by the recorded actions. Where it observes something else
    there than the record has, the alternative is refused, and stays without `then`.

    Args:
        trajectories: Trajectories with outcomes.
        env_of: Returns the environment of a spec; raises InputError where there is none.
        count: Called with the numbers of alternatives that are left out, and of those that led to success.
        on_refused: Called with the trajectory of an alternative that is refused, and the evidence.
        on_error: Called with a trajectory whose environment cannot be opened.

    Raises:
        UsageError: The policy is the environment's expert, and there is none.
    """
    settings = settings or FollowSettings()

    def placed() -> Iterator[tuple[dict, Environment]]:
        for trajectory in trajectories:
            try:
                yield trajectory, env_of(trajectory["env"])
            except InputError as e:
                on_error(trajectory, e)

    for env, group in groupby(placed(), key=itemgetter(1)):
        if "expert" in policy.needs and not env.has("expert"):
            raise UsageError(f"{env.spec} has no expert; give -m MODEL")
        follower = Follower(env, policy, settings, count, on_refused)
        yield from follower.run((trajectory for trajectory, _ in group), open_worlds)


class Continuation(PlayedEpisode):
    """An episode that takes the path to an alternative and the alternative itself, and is then the policy's.

    Args:
        i: The step of it that has the alternative.
        alternative: The alternative, executed.
        most: How many actions the policy takes at most.
    """

    def __init__(self, env: Environment, trajectory: dict, i: int, alternative: dict, most: int):
        self.trajectory, self.alternative, self.i = trajectory, alternative, i
        self.outcomes: list[dict] = []
        beginning = [step["action"] for step in trajectory["steps"][:i]] + [alternative["action"]]
        super().__init__(env.spec, trajectory["task"], beginning=beginning, max_steps=len(beginning) + most)
        self.id = f"{trajectory['id']}/{i}/{alternative['action']}"

    def start(self) -> None:
        super().start()
        self.outcomes = []

    def observe(self, view: StepResult) -> None:
        super().observe(view)
        self.outcomes.append(view.observation.outcome())

    @property
    def is_given_up(self) -> bool:
        """Whether it ended where the expert, who plays it, knew no action."""
        return isinstance(self.result, NoExpertAction)

    def then(self, mask: Callable[[str], str]) -> list[dict]:
        """Return the policy's actions, each with its outcome.

        Args:
            mask: Hides what may differ from one walk to the next (`Environment.mask`).

        Raises:
            InputError: The environment failed, or it did not answer on the way and after the alternative as recorded.
        """
        where = f"$.steps[{self.i}]"
        action = self.alternative["action"]
        if isinstance(self.result, InputError) and not self.is_given_up:
            error = self.result
            raise InputError(f"{short(action)} cannot be followed: {error.message}", where, error.evidence)
        number = len(self.beginning)
        if len(self.outcomes) <= number:
            raise InputError(f"the episode is over before {short(action)}, and was not", where, {"action": action})
        difference = instruction_difference(mask, self.instruction, self.trajectory.get("instruction"))
        after = "at the beginning"
        path = [{"observation": step["observation"]} for step in self.trajectory["steps"][: self.i + 1]]
        for n, state in enumerate([*path, self.alternative["outcome"]]):
            if difference:
                break
            after = f"after {short(self.beginning[n - 1])}" if n else after
            difference = outcome_difference(mask, self.outcomes[n], state)
        if difference:
            observed, held = difference.excerpts()
            reason = f"{difference.name} {after} is {observed}, and {held} was recorded"
            raise InputError(reason, where, {"action": action, **difference.evidence})
        return [_later_step(*pair) for pair in zip(self.transcript[number:], self.outcomes[number + 1 :])]


def _later_step(turn: dict, outcome: dict) -> dict[str, Any]:
    thought = {"thought": turn["thought"]} if turn.get("thought") else {}
    return {"action": turn["action"], **thought, **outcome}


class Follower:
    """Follows the alternatives of trajectories of one environment."""

    def __init__(self, env: Environment, policy: Policy, settings: FollowSettings, count: Count, on_refused: OnError):
        self.env, self.policy, self.settings = env, policy, settings
        self.count, self.on_refused = count, on_refused
        #: The trajectories that were begun and not yet yielded, each with its continuations that are being played.
        self.begun: deque[tuple[dict, list[Continuation]]] = deque()

    def run(self, trajectories: Iterator[dict], open_worlds: OpenWorlds) -> Iterator[dict]:
        """Yield each trajectory once all its alternatives were followed, in order."""
        settings = EvalSettings(temperature=self.settings.temperature, seed=self.settings.seed)
        with open_worlds(self.env, sys.maxsize) as worlds:
            with closing(play(worlds, self._continuations(trajectories), self.policy, settings)) as played:
                for _ in played:
                    yield from self._complete()
            add_counts(self.count, worlds.counts)
        yield from self._complete()

    def _continuations(self, trajectories: Iterator[dict]) -> Iterator[Continuation]:
        for trajectory in trajectories:
            episodes = []
            for i, step in enumerate(trajectory["steps"]):
                taken = alternatives_of(step, self.settings.pool, self.settings.first, action_form(trajectory))
                for alternative in taken:
                    if self._is_due(alternative):
                        episodes.append(Continuation(self.env, trajectory, i, alternative, self.settings.steps))
            self.begun.append((trajectory, episodes))
            yield from episodes

    def _is_due(self, alternative: dict) -> bool:
        if not alternative.get("outcome"):
            self.count("alternative[s] without an outcome", 1)
            return False
        if alternative.get("then") is not None and not self.settings.again:
            self.count("alternative[s] followed before", 1)
            return False
        return True

    def _complete(self) -> Iterator[dict]:
        """Yield the trajectories at the front all of whose continuations are over."""
        while self.begun and all(episode.result is not None for episode in self.begun[0][1]):
            trajectory, episodes = self.begun.popleft()
            followed = {id(episode.alternative): self._with_continuation(trajectory, episode) for episode in episodes}
            steps = [
                {**step, "alternatives": [followed.get(id(a), a) for a in step["alternatives"]]}
                if step.get("alternatives")
                else step
                for step in trajectory["steps"]
            ]
            yield {**trajectory, "steps": steps}

    def _with_continuation(self, trajectory: dict, episode: Continuation) -> dict:
        """Return an alternative with what the policy did after it; as it was where that is refused."""
        try:
            then = episode.then(self.env.mask)
        except InputError as e:
            self.count("alternative[s] refused", 1)
            self.on_refused(trajectory, e)
            return episode.alternative
        self.count("alternative[s] followed", 1)
        followed = {**episode.alternative, "then": then}
        own, expert = actions_to_the_end(trajectory, episode.i, followed)
        self.count("of them to success", own is not None)
        is_over = [episode.alternative["outcome"], *then][-1].get("done")
        self.count("of them to an end without success", own is None and bool(is_over))
        self.count("of them stopped by --steps", own is None and not is_over and not episode.is_given_up)
        self.count("of them to where the expert knows no action", episode.is_given_up)
        self.count("of them in fewer actions than the expert's path", bool(own and expert and own < expert))
        return followed
