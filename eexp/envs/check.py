"""Check by playing whether an environment keeps the contract of eexp/envs/base.py.

A few tasks are played once: at every step all questions are asked, and an action is drawn (the expert's, or an
admissible one). Then the same actions are taken again: in the same environment, in one opened anew, without asking
anything, beside another instance, and around forks, harmless actions and nonsense. All of these must give the
observations of the first time; otherwise a branch would not show what its action leads to. At the end they are taken
in another process, with alternatives beside the path, in reverse order. Admissible actions must be
those of the first time as well, and so must the expert's actions, except after harmless actions and nonsense, which
take some experts off the only path that they know.
"""

from __future__ import annotations

import math
import random
import signal
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import orjson

from eexp.envs import forking
from eexp.envs.answers import fault_of
from eexp.envs.base import Environment, Observation
from eexp.envs.differences import difference_between, excerpts, hidden_texts
from eexp.errors import EexpError, EnvironmentFailed, InputError, NoRoom, describe, environment_errors, short
from eexp.prompts import PromptStyle
from eexp.records.equality import EXACT, form_of
from eexp.records.record import succeeded
from eexp.system.findings import FAILED, NOTE, OK, SKIPPED, Broken, Finding, NothingToCheck, WorthKnowing, must
from eexp.system.terminal import Progress

MOST_TASKS = 100_000  # tasks of a split that are looked at
MOST_ACTIONS = 12  # actions of an episode
LIGHT_STEP = 5.0  # milliseconds that a step of a light environment may take
MOST_LOSSES = 3  # environments that may die or hang before the rest is skipped; each is opened anew
POINTS = 3  # states of an episode at which branches are tried
NONSENSE = ("", "xyzzy the plugh", 'say "\\"', "zwölf\n\t\N{SNOWMAN}", "open " * 400)

Answer = TypeVar("Answer")


@dataclass
class ReferenceEpisode:
    """An episode as it went the first time, with which its repetitions are compared."""

    task: dict
    instruction: str
    observations: list[Observation]  # one for each state: before every action and after the last
    lists: list[list[str] | None]  # the admissible actions in each state; None where they are not listed
    advice: list[str | None]  # the expert's action in each state; None where it has none
    actions: list[str]

    def until(self, i: int) -> ReferenceEpisode:
        """Return the episode up to state number i."""
        return replace(
            self,
            observations=self.observations[: i + 1],
            lists=self.lists[: i + 1],
            advice=self.advice[: i + 1],
            actions=self.actions[:i],
        )


def _ignore(i: int) -> None:
    """Do nothing in state number i."""


class Checker:
    """One round of checks.

    Args:
        open_one: Opens the environment; it is called more than once.
        tasks: How many tasks of the first split are played; one is played of each other split.
        limit: Seconds for one answer.
        seed: Decides which tasks and actions are drawn.
        actions: Actions to try where neither an expert nor a list of admissible actions names any.
        style: The prompt style whose completions are to hold the actions; None tries none.
        elsewhere: Returns the answer of `replay_job` to a job in another process; None where there is none.

    Attributes:
        shows_progress: Whether standard error says how far a long check has come.
    """

    shows_progress = False

    def __init__(
        self,
        open_one: Callable[[], Environment],
        *,
        tasks: int,
        limit: float,
        seed: int = 0,
        actions: tuple[str, ...] = (),
        style: PromptStyle | None = None,
        elsewhere: Callable[[dict], list] | None = None,
    ):
        self.style = style
        self.open_one, self.n_tasks, self.limit, self.actions = open_one, tasks, limit, actions
        self.elsewhere = elsewhere
        self.seed, self.rng = seed, random.Random(seed)
        self.durations: dict[str, list[float]] = defaultdict(list)  # milliseconds, by what was called
        self.episodes: list[ReferenceEpisode] = []
        self.splits_to_list: list[str] = []
        self.tasks: list[dict] = []
        self._env: Environment | None = None
        self._other: Environment | None = None
        self._progress: Progress | None = None
        self._losses = 0

    @property
    def env(self) -> Environment:
        """The environment in which the tasks are played first."""
        assert self._env is not None, "opens() comes first"
        return self._env

    @property
    def other(self) -> Environment:
        """Another instance of it."""
        assert self._other is not None, "starts_anew() comes first"
        return self._other

    def findings(self) -> Iterator[Finding]:
        """Make the checks, and yield one finding for each.

        Where the environment itself fails (dies, hangs), it is opened anew. The checks that follow are skipped where it
        fails too often, or where nothing can be played.
        """
        children = _children()
        failed, omitted = "", []
        try:
            for check in (
                self.opens,
                self.splits,
                self.lists_tasks,
                self.plays,
                self.repeats,
                self.mask,
                self.questions,
                self.starts_anew,
                self.side_by_side,
                self.forks,
                self.harmless,
                self.admissible,
                self.expert,
                self.achieved,
                self.nonsense,
                self.processes,
            ):
                name = check.__name__.replace("_", " ")
                if failed:
                    omitted.append(name)
                    continue
                finding, is_fatal = self._finding(check, name)
                yield finding
                failed = name if is_fatal else ""
            if omitted:
                yield Finding("the rest", SKIPPED, f"not checked, since {failed!r} failed: {', '.join(omitted)}")
        finally:
            for env in (self._env, self._other):
                if env is not None:
                    with suppress(EexpError):
                        env.close()
        if self._env is not None:
            yield self._finding(lambda: self.closes(children), "closes")[0]
            for check, name in ((self.equality, "equality"), (self.prompts, "prompts")):
                finding = self._finding(check, name)[0]
                if finding.verdict != OK:  # what most environments need not know of is not shown
                    yield finding
            if self._known_times():
                yield Finding("time", OK, self._times())

    def equality(self) -> str:
        """Check that no two actions of one list count as the same one."""
        form = form_of(self._ask("action_equality"))
        for actions in (actions for episode in self.episodes for actions in episode.lists):
            known: dict[str, str] = {}
            for action in actions or ():
                other = known.setdefault(form(action), action)
                if other.strip() != action.strip():
                    raise WorthKnowing(
                        f"{short(other)} and {short(action)} count as one action, of which `eexp branch` takes one: if "
                        f'they differ in effect, `action_equality` is to return "{EXACT}"'
                    )
        return "actions of one list differ"

    def prompts(self) -> str:
        """Check that completions of the prompt style can hold the actions."""
        if self.style is None:
            return "not tried"
        reasons: dict[str, str] = {}
        actions = {
            action
            for episode in self.episodes
            for group in (episode.actions, episode.advice, *episode.lists)
            for action in group or ()
            if action is not None
        }
        for action in sorted(actions):
            try:
                self.style.completion(action)
            except InputError as e:
                reasons[action] = str(e)
        if not reasons:
            return "actions are read back as they are"
        first = next(iter(reasons.values()))
        raise WorthKnowing(f"{len(reasons)} of {len(actions)} actions cannot be trained or played as they are: {first}")

    def _finding(self, check: Callable[[], str], name: str) -> tuple[Finding, bool]:
        """Run a check, which returns a detail; return its finding, and whether the following ones cannot be made."""
        try:
            with self.watched(name):
                return Finding(name, OK, check()), False
        except NothingToCheck as e:
            return Finding(name, SKIPPED, str(e)), False
        except WorthKnowing as e:
            return Finding(name, NOTE, str(e)), False
        except Broken as e:
            return Finding(name, FAILED, str(e)), self._lacks(name)
        except EexpError as e:
            return Finding(name, FAILED, str(e)), not self._reopened() or self._lacks(name)

    def _lacks(self, name: str) -> bool:
        """Return whether a check that has failed leaves nothing with which the following ones can be made."""
        return {
            "splits": not self.splits_to_list,
            "lists tasks": not self.tasks,
            "plays": not any(episode.actions for episode in self.episodes),
            "repeats": not any(episode.actions for episode in self.episodes),
            "starts anew": self._other is None,
        }.get(name, False)

    def _reopened(self) -> bool:
        """Open an environment that has died or hung anew, with its other instance; return whether it is open."""
        self._losses += 1
        if self._env is None or self._losses > MOST_LOSSES:
            return False
        alone, has_other = self._other is self._env, self._other is not None
        for env in (self._env, self._other):
            if env is not None:
                with suppress(EexpError):
                    env.close()
        try:
            self._env = self._timed("open", self.open_one)
            if has_other:
                self._other = self._env if alone else self._timed("open", self.open_one)
        except (Broken, EexpError):
            return False
        return True

    @contextmanager
    def watched(self, name: str) -> Iterator[None]:
        """Show how far a check has come."""
        self._progress = Progress(f"env check: {name}", "answer", quiet=not self.shows_progress)
        try:
            yield
        finally:
            self._progress.close()
            self._progress = None

    # -- the checks, in order ------------------------------------------------------------------------------------------

    def opens(self) -> str:
        """Check that the environment opens."""
        self._env = self._timed("open", self.open_one)
        return self.env.spec

    def splits(self) -> str:
        """Check the names of the splits."""
        names = self._ask("splits")
        self.splits_to_list = list(dict.fromkeys(names))
        must(isinstance(names, list) and bool(names), f"splits: expected a list of names, got {short(names)}")
        must(len(self.splits_to_list) == len(names), f"splits: a name stands there twice: {short(names)}")
        return ", ".join(names)

    def lists_tasks(self) -> str:
        """Choose tasks to play, and check that tasks have ids and are listed in a fixed order."""
        listed = {split: self._tasks(split) for split in self.splits_to_list}
        for split, tasks in listed.items():  # before the checks, so that tasks with a fault can be played
            number = self.n_tasks if split == self.splits_to_list[0] else 1
            self.tasks += self.rng.sample(tasks, min(number, len(tasks)))
        must(bool(self.tasks), "there are no tasks")
        counts: list[str] = []
        split_of: dict[str, str] = {}
        for split, tasks in listed.items():
            for task in tasks:
                must(
                    task.get("split") == split, f"task {task['id']}: its split is {task.get('split')!r}, not {split!r}"
                )
                first = split_of.setdefault(task["id"], split)
                must(first == split, f"task {task['id']} is in {first} and in {split}")
            ids = [task["id"] for task in tasks]
            must(len(set(ids)) == len(ids), f"two tasks of {split} have the same id")
            must(
                self._tasks(split) == tasks,
                f"the tasks of {split} are other ones, or in another order, the second time",
            )
            counts.append(f"{split} {len(tasks):,}" + (" and more" if len(tasks) == MOST_TASKS else ""))
        return ", ".join(counts)

    def plays(self) -> str:
        """Play the tasks for the first time; those that cannot be played are left out of what follows."""
        problems: list[str] = []
        for task in self.tasks:
            try:
                self.episodes.append(self._play(task))
            except Broken as e:
                problems.append(f"task {task['id']}: {e}")
            except EexpError as e:
                problems.append(f"task {task['id']}: {e}")
                if not self._reopened():
                    break
        n_tasks, self.tasks = len(self.tasks), [episode.task for episode in self.episodes]
        if problems:
            raise Broken(f"{problems[0]}{_in_others(problems, n_tasks)}")
        steps = sum(len(episode.actions) for episode in self.episodes)
        over = all(episode.observations[0].done for episode in self.episodes)
        why = "the tasks are over at their beginning" if over else "neither an expert nor an admissible list tells one"
        must(steps > 0, f"no action was taken: {why}; name some with --action TEXT (may be repeated)")
        return f"{len(self.episodes)} tasks, {steps} actions"

    def repeats(self) -> str:
        """Check that the same actions lead to the same observations in the same environment.

        Episodes that do not repeat are left out of what follows.
        """
        problems, repeated = [], []
        for episode in reversed(self.episodes):
            try:
                self._repeat(self.env, episode, "the second time")
                repeated.insert(0, episode)
            except Broken as e:
                problems.append(str(e))
        n_tasks, self.episodes = len(self.episodes), repeated
        if problems:
            raise Broken(f"{problems[0]}{_in_others(problems, n_tasks)}")
        return "the same actions lead to the same observations"

    def mask(self) -> str:
        """Check that the mask leaves something of observations that differ."""
        texts = {o.text for episode in self.episodes for o in episode.observations}
        if not self.env.has("mask"):
            raise NothingToCheck("nothing is masked")
        with environment_errors(f"{self.env.spec}: mask"):
            n_hidden = hidden_texts(self.env.mask, texts)
            n_masked = len({self.env.mask(text) for text in texts})
        must(not n_hidden, f"the mask leaves nothing in which {n_hidden} different observations differ")
        detail = f"{len(texts)} different observations, {n_masked} after it"
        if 2 * n_masked < len(texts):
            raise WorthKnowing(f"{detail}: where they differ, nothing is compared")
        return detail

    def questions(self) -> str:
        """Check that asking for admissible actions, explanations and the expert's action changes nothing."""
        for episode in self.episodes:
            try:
                self._repeat(self.env, episode, "when nothing was asked on the way", ask=False)
            except Broken:
                self._repeat(self.env, episode, "the third time")  # raises where the questions are not the cause
                raise
        return "asking changes nothing"

    def starts_anew(self) -> str:
        """Check that an environment opened anew gives the same observations."""
        alone = ""
        try:
            self._other = self._timed("open", self.open_one)
        except NoRoom:
            self.env.close()
            self._env = self._other = self._timed("open", self.open_one)
            alone = ", one session at a time: the server has no room for two"
        for episode in self.episodes:
            self._repeat(self.other, episode, "in another instance")
        return f"another instance sees the same{alone}"

    def side_by_side(self) -> str:
        """Check that two instances of a light environment do not influence each other.

        A class from elsewhere that is not declared light is tried all the same, since its maker may not know of it.
        """
        if not self.env.light:
            reason = "not declared light; `eexp eval` gives each episode a process"
            slow = statistics.median(self.durations["step"] or [math.inf]) > LIGHT_STEP
            if slow or type(self.env).__module__.startswith("eexp.") or self.env is self.other:
                raise NothingToCheck(reason)
            try:
                self._play_in_turn()
            except (Broken, EexpError):
                raise NothingToCheck(f"{reason}, which it needs: two instances influence each other") from None
            raise WorthKnowing(
                "not declared light, though two instances, turn by turn, see what each saw alone: if they share "
                "nothing that changes, `light = True` lets `eexp eval` play many in one process"
            )
        self._play_in_turn()
        return "two instances, turn by turn, see what each saw alone"

    def _play_in_turn(self) -> None:
        """Play every episode while another instance plays another; raise Broken if it sees something else."""
        when = "while another instance played"
        for episode, beside in zip(self.episodes, [*self.episodes[1:], self.episodes[0]]):

            def play_beside(i: int, beside: ReferenceEpisode = beside) -> None:
                if i < len(beside.observations):
                    call = ("step", beside.actions[i - 1]) if i else ("reset", beside.task)
                    observation = self._ask(*call, env=self.other)
                    self._compare(self.other, beside, i, observation, when)
                    if not observation.done:
                        self._compare_lists(self.other, beside, i, when)
                        self._compare_advice(self.other, beside, i, when)

            self._repeat(self.env, episode, when, between=play_beside)

    def forks(self) -> str:
        """Check that branches in a fork equal those in a replay, and leave the path alone."""
        if self.env.in_process and (reason := forking.why_unfit(self.env, "process")):
            raise Broken(f"declares in_process, but {reason}")
        ways = [way for way in ("state", "process") if forking.why_unfit(self.env, way) is None]
        if not ways:
            reason = self.env.why_no_copy()
            because = f" ({reason})" if reason else ""
            raise NothingToCheck(f"cannot be forked{because}; every alternative costs a replay")
        branches = 0
        for episode in self.episodes:
            points = self._points(episode)
            alternatives = {i: [*self._sample(episode.lists[i], 2), self.rng.choice(NONSENSE)] for i in points}
            expected = {i: [self._after(self.other, episode.until(i), a) for a in alternatives[i]] for i in points}
            for way in ways:
                self._fork_along(episode, way, alternatives, expected)
            branches += sum(map(len, alternatives.values()))
        return f"{' and '.join(ways)}: {branches} branches as in a replay, and the path goes on as before"

    def harmless(self) -> str:
        """Check that actions which are declared harmless change nothing."""
        if not self.env.has("harmless"):
            raise NothingToCheck("no action is declared harmless")
        n_actions = 0
        for episode in self.episodes:

            def ask_in_place(i: int, episode: ReferenceEpisode = episode) -> None:
                nonlocal n_actions
                candidates = [*(episode.lists[i] or []), *self.actions, *NONSENSE]
                for action in [a for a in candidates if self.env.harmless(a)][:3]:
                    observation = self._ask("step", action)
                    n_actions += 1
                    must(not observation.done, f"{short(action)} is declared harmless, and it ended {task_of(episode)}")

            when = "after actions that are declared harmless"
            self._repeat(self.env, episode, when, between=ask_in_place, on_path=False)
        if not n_actions:
            raise NothingToCheck("none of the actions tried is declared harmless; name one with --action")
        return f"{n_actions} actions executed in place"

    def admissible(self) -> str:
        """Check that admissible actions are valid."""
        if all(actions is None for episode in self.episodes for actions in episode.lists):
            raise NothingToCheck("no list; `branch` needs a model here")
        n_actions = 0
        for episode in self.episodes:
            for i in self._points(episode):
                for action in self._sample(episode.lists[i], 4) if episode.lists[i] else ():
                    observation = self._after(self.other, episode.until(i), action)
                    n_actions += 1
                    place = f"{task_of(episode)}, state {i}"
                    must(
                        observation.valid, f"{place}: lists {short(action)}, and refuses it: {short(observation.text)}"
                    )
        if not n_actions:
            raise NothingToCheck("the lists are empty wherever they were looked at")
        return f"{n_actions} listed actions tried, all valid"

    def expert(self) -> str:
        """Check that the expert's actions are valid and that it reaches the goal of some task."""
        solved = played = 0
        refused_in_failures: list[str] = []
        refused_in_successes: list[str] = []  # questions back, for instance, that the next action answers
        for task in self.tasks:
            observation, n = self._ask("reset", task), 0
            refused: list[str] = []
            while not observation.done and n < self.env.max_steps and (action := self._ask("expert")) is not None:
                observation, n = self._ask("step", action), n + 1
                refused += [] if observation.valid else [f"task {task['id']}: {short(action)}"]
            if not n and not observation.done:
                continue
            played += 1
            if succeeded(observation.outcome()):
                solved += 1
                refused_in_successes += refused
            else:
                refused_in_failures += refused
        if not played:
            raise NothingToCheck("none; `expert` has nothing to record here")
        must(
            not refused_in_failures,
            f"{len(refused_in_failures)} of its actions are refused, such as {refused_in_failures[:1]}",
        )
        must(solved > 0, f"reaches the goal in none of {played} tasks")
        detail = f"reaches the goal in {solved} of {played} tasks"
        if played < len(self.tasks):
            detail += f"; for {len(self.tasks) - played} it knows no action"
        if refused_in_successes:
            detail += f", {len(refused_in_successes)} refused actions on the way, such as {refused_in_successes[0]}"
        if solved < played or refused_in_successes:
            raise WorthKnowing(detail)
        return detail

    def achieved(self) -> str:
        """Check that actions solve the tasks that they are said to solve, and that asking changes nothing."""
        if not self.env.has("achieved"):
            raise NothingToCheck("does not say which tasks actions solve; `relabel` has nothing to write here")
        n_tasks = 0
        for episode in self.episodes:

            def ask(i: int, episode: ReferenceEpisode = episode) -> None:
                if i:
                    self._ask("achieved", episode.task, episode.actions[:i])

            self._repeat(self.env, episode, "after asking which tasks the actions before solve", between=ask)
            for i in range(1, len(episode.actions) + 1):
                for since, task in self._ask("achieved", episode.task, episode.actions[:i]):
                    observation = self._ask("reset", task, env=self.other)
                    for action in episode.actions[since:i]:
                        observation = self._ask("step", action, env=self.other)
                    where = f"{task_of(episode)}, state {i}: its actions are said to solve {short(str(task))}"
                    must(succeeded(observation.outcome()), f"{where}, and end with {short(observation.text)}")
                    n_tasks += 1
        if not n_tasks:
            raise NothingToCheck("the actions tried solve no task")
        return f"{n_tasks} tasks solved as said"

    def nonsense(self) -> str:
        """Check that nonsense is answered, is not valid, and changes nothing."""
        n_actions = 0
        accepted: set[str] = set()
        for episode in self.episodes:
            for i in self._points(episode):
                action = self.rng.choice(NONSENSE)

                def try_action(j: int, i: int = i, action: str = action, task: str = task_of(episode)) -> bool:
                    """Take the action in state i; return whether the environment refused it."""
                    nonlocal n_actions
                    if i != j:
                        return True
                    n_actions += 1
                    observation = self._ask("step", action)
                    if observation.valid:
                        accepted.add(action)
                        return False
                    must(not observation.done, f"{task}: {short(action)} is not valid, and yet it ended the episode")
                    return True

                when = f"after {short(action)}, which it said was not valid"
                self._repeat(self.env, episode, when, between=try_action, on_path=False)
        if accepted:
            raise WorthKnowing(f"answers {short(min(accepted))} as valid, nonsense in most worlds: is that meant?")
        return f"{n_actions} answered, marked as not valid, and nothing changes"

    def processes(self) -> str:
        """Check that another process gives the same answers, on the path and beside it, in whatever order."""
        return f"{self._compare_processes()} actions, in reverse order, lead to the same in another process"

    def _compare_processes(self) -> int:
        """Play all episodes, each with some alternatives, here and in another process; return how many actions.

        Raises:
            NothingToCheck: There is no other process, or the server has no room for it.
            Broken: An answer differs.
        """
        if self.elsewhere is None:
            raise NothingToCheck("no other process")
        rng = random.Random(self.seed)  # not that of the others, whose draws stay as they are
        branches = [
            (episode, i, action)
            for episode in self.episodes
            for i in sorted(rng.sample(range(len(episode.actions)), min(POINTS, len(episode.actions))))
            for action in [*_drawn(rng, episode.lists[i] or sorted(set(episode.actions)), 3), rng.choice(NONSENSE)]
        ]
        here = [self._after(self.env, episode.until(i), action) for episode, i, action in branches]
        plays = [(episode, i, [*episode.actions[:i], action]) for episode, i, action in branches]
        expected = [[*episode.observations[: i + 1], last] for (episode, i, _), last in zip(branches, here)]
        plays = [*((episode, len(episode.actions), episode.actions) for episode in self.episodes), *plays][::-1]
        expected = [*(episode.observations for episode in self.episodes), *expected][::-1]
        job = {"env": self.env.spec, "plays": [{"task": e.task, "actions": actions} for e, _, actions in plays]}
        try:
            answers = self.elsewhere({"do": f"{__name__}:{replay_job.__name__}", **job})
        except NoRoom as e:
            raise NothingToCheck(f"the server has no room for another process: {e}") from None
        for (episode, i, actions), observations, answer in zip(plays, expected, answers):
            self._compare_answers(episode, i, actions, observations, answer)
        return sum(len(actions) for _, _, actions in plays)

    def _compare_answers(
        self, episode: ReferenceEpisode, i: int, actions: list[str], observations: list[Observation], answer: dict
    ) -> None:
        """Raise Broken if another process has answered otherwise.

        Args:
            i: How many of the actions are those of the episode.
            answer: That of `replay_job` for these actions.
        """
        where = f"{task_of(episode)} in another process"
        must(
            self.env.mask(answer["instruction"]) == self.env.mask(episode.instruction),
            f"{where}: the instruction is {short(answer['instruction'])}, and was {short(episode.instruction)} here",
        )
        for n, (observation, outcome) in enumerate(zip(observations, answer["outcomes"], strict=True)):
            after = f"after {short(actions[n - 1])} (action {n})" if n else "at its beginning"
            if difference := difference_between(self.env.mask, outcome, observation.outcome()):
                other, ours = difference.excerpts()
                raise Broken(f"{where}, {after}: {difference.name} is {other}, and was {ours} in this one")
            listed = answer["lists"][n]
            if n <= i and not observation.done and listed != episode.lists[n]:
                ours = short(episode.lists[n])
                raise Broken(
                    f"{where}, {after}: the admissible actions are {short(listed)}, and were {ours} in this one"
                )

    def closes(self, children: set[int]) -> str:
        """Check that closing is safe to repeat, and ends all processes but `children`, which were there before."""
        for env in filter(None, (self._env, self._other)):
            env.close()  # a second time
        deadline = time.monotonic() + 2.0
        while (leftovers := _children() - children) and time.monotonic() < deadline:
            time.sleep(0.05)
        must(not leftovers, f"processes are left over: {', '.join(map(str, sorted(leftovers)))}")
        return "leaves no process behind"

    # -- playing -------------------------------------------------------------------------------------------------------

    def _play(self, task: dict) -> ReferenceEpisode:
        """Play a task for the first time, with all questions."""
        observation = self._ask("reset", task)
        instruction, listed = self._ask("instruction"), self._list(self.env)
        self._explain(self.env, observation)
        advice = None if observation.done else self._ask("expert")
        episode = ReferenceEpisode(task, instruction, [observation], [listed], [advice], [])
        while not observation.done and len(episode.actions) < MOST_ACTIONS:
            advice, listed = episode.advice[-1], episode.lists[-1]
            by_advice = advice is not None and (not listed or self.rng.random() < 0.5)
            action = advice if by_advice else next(iter(self._sample(listed, 1)), None)
            if action is None:
                break
            observation = self._ask("step", action)
            episode.actions.append(action)
            episode.observations.append(observation)
            episode.lists.append(self._list(self.env) if not observation.done else None)
            self._explain(self.env, observation)
            episode.advice.append(self._ask("expert") if not observation.done else None)
        return episode

    def _repeat(
        self,
        env: Environment,
        episode: ReferenceEpisode,
        when: str,
        ask: bool = True,
        between: Callable[[int], bool | None] = _ignore,
        on_path: bool = True,
    ) -> None:
        """Take the actions of an episode again and compare all observations, lists and actions of the expert.

        Args:
            when: In which circumstances, for messages.
            ask: Whether to ask for admissible actions, explanations and the expert's action in every state.
            between: Called with the number of every state but the last; the episode ends where it returns False.
            on_path: Whether the expert's actions are compared; False where `between` takes other actions here, after
                which an expert that knows one path only has none.
        """
        observation = self._ask("reset", episode.task, env=env)
        instruction = self._ask("instruction", env=env)
        if instruction != episode.instruction:
            now, then = excerpts(instruction, episode.instruction)
            raise Broken(f"{task_of(episode)}: the instruction is {now} {when}, and was {then} the first time")
        for i in range(len(episode.observations)):
            self._compare(env, episode, i, observation, when)
            if ask and not observation.done:
                self._compare_lists(env, episode, i, when)
                self._explain(env, observation)
                if on_path:
                    self._compare_advice(env, episode, i, when)
                else:
                    self._ask("expert", env=env)
            if i == len(episode.actions) or between(i) is False:
                return
            observation = self._ask("step", episode.actions[i], env=env)

    def _explain(self, env: Environment, observation: Observation) -> None:
        """Ask what is known and needed, as `eexp rollout` does in every state of a path."""
        if env.has("explain") and not observation.done:
            self._ask("explain", env=env)

    def _compare(
        self, env: Environment, episode: ReferenceEpisode, i: int, observation: Observation, when: str
    ) -> None:
        """Raise Broken if an observation is not that of state number i."""
        first = episode.observations[i]
        if self._masked(env, observation) == self._masked(env, first):
            return
        now, then = self._differing(env, observation, first)
        raise Broken(f"{_where(episode, i)}: {now} {when}, and {then} the first time")

    def _differing(self, env: Environment, observation: Observation, other: Observation) -> tuple[str, str]:
        """Return excerpts of two observations in which they differ: of their texts after the mask, or of the rest."""
        one, two = (asdict(self._masked(env, o)) for o in (observation, other))
        if one["text"] != two["text"]:
            return excerpts(one["text"], two["text"])
        keys = [key for key in one if one[key] != two[key]]
        return excerpts(*(", ".join(f"{key} {values[key]!r}" for key in keys) for values in (one, two)))

    def _compare_lists(self, env: Environment, episode: ReferenceEpisode, i: int, when: str) -> None:
        """Raise Broken if the admissible actions are not those of state number i."""
        listed = self._list(env)
        if listed != episode.lists[i]:
            now, then = excerpts(listed, episode.lists[i])
            raise Broken(
                f"{_where(episode, i)}: the admissible actions are {now} {when}, and were {then} the first time"
            )

    def _compare_advice(self, env: Environment, episode: ReferenceEpisode, i: int, when: str) -> None:
        """Raise Broken if the expert's action is not that of state number i."""
        advice = self._ask("expert", env=env)
        if advice != episode.advice[i]:
            now, then = excerpts(advice, episode.advice[i])
            raise Broken(f"{_where(episode, i)}: the expert's action is {now} {when}, and was {then} the first time")

    def _masked(self, env: Environment, observation: Observation) -> Observation:
        return replace(observation, text=env.mask(observation.text))

    def _after(self, env: Environment, episode: ReferenceEpisode, action: str) -> Observation:
        """Return the observation after an action at the end of an episode."""
        self._repeat(env, episode, "on the way to a branch", ask=False)
        return self._ask("step", action, env=env)

    def _fork_along(
        self,
        episode: ReferenceEpisode,
        way: str,
        alternatives: dict[int, list[str]],
        expected: dict[int, list[Observation]],
    ) -> None:
        """Repeat an episode and execute alternatives in forks on the way, by the number of the state.

        `expected` has the observation after each of them, from a replay.
        """

        def branch(i: int) -> None:
            with forking.executor(self.env, way, self.limit) as execute:
                for action, replayed in zip(alternatives.get(i, []), expected.get(i, [])):
                    observation = self._timed(f"fork ({way})", partial(execute, action))
                    if self._masked(self.env, observation) != self._masked(self.env, replayed):
                        forked, other = self._differing(self.env, observation, replayed)
                        raise Broken(
                            f"{_where(episode, i)}: {short(action)} leads to {forked} in a fork by {way}, and to "
                            f"{other} in a replay"
                        )

        self._repeat(self.env, episode, f"after forks by {way}", between=branch)

    def _points(self, episode: ReferenceEpisode) -> list[int]:
        """Return the numbers of some states of an episode that have a next one."""
        return sorted(self.rng.sample(range(len(episode.actions)), min(POINTS, len(episode.actions))))

    def _sample(self, listed: list[str] | None, n: int) -> list[str]:
        """Return n actions drawn from a list or, where there is none, from all actions that are known."""
        all_actions = {*self.actions, *(action for episode in self.episodes for action in episode.actions)}
        candidates = listed or sorted(all_actions)
        return self.rng.sample(candidates, min(n, len(candidates)))

    # -- asking --------------------------------------------------------------------------------------------------------

    def _tasks(self, split: str) -> list[dict]:
        """Return the tasks of a split as they are after being written to a record and read back."""
        tasks = self._timed("tasks", lambda: list(islice(self.env.list_tasks(split), MOST_TASKS)))
        try:
            return [orjson.loads(orjson.dumps(task)) for task in tasks]
        except (TypeError, orjson.JSONEncodeError) as e:
            raise Broken(f"a task of {split} cannot be written as JSON: {e}") from None

    def _list(self, env: Environment) -> list[str] | None:
        """Return the admissible actions of the current state. Raises Broken if they are no such list."""
        listed = self._ask("admissible", env=env)
        if listed is not None:
            must(isinstance(listed, list), f"admissible: expected a list of strings, got {short(listed)}")
            double = next((a for a in listed if listed.count(a) > 1), None) if len(set(listed)) < len(listed) else None
            must(double is None, f"admissible: {short(double)} is listed twice")
        return listed

    def _ask(self, method: str, *args: Any, env: Environment | None = None) -> Any:
        """Call a method of an environment and check what it returns."""
        answer = self._timed(method, lambda: getattr(env or self.env, method)(*args))
        fault = fault_of(method, answer)
        must(fault is None, f"{method}: {fault}")
        if isinstance(answer, Observation) and answer.score is not None:
            must(0 <= answer.score <= 1, f"{method}: score: expected 0 to 1 or None, got {short(answer.score)}")
        return answer

    def _timed(self, what: str, call: Callable[[], Answer]) -> Answer:
        """Call a function within the time limit and note how long it took; `what` is its name in messages."""
        began = time.perf_counter()
        try:
            with _alarm(self.limit, what):
                return call()
        except (EexpError, Broken):
            raise
        except Exception as e:
            raise Broken(f"{what}: raised {describe(e)}") from e
        finally:
            if self._progress:
                self._progress.advance()
            self.durations[what].append(1000 * (time.perf_counter() - began))

    def _known_times(self) -> list[tuple[str, list[float]]]:
        return [(what, self.durations[what]) for what in ("reset", "step", "admissible") if self.durations[what]]

    def _times(self) -> str:
        return "milliseconds, median and longest: " + ", ".join(
            f"{what} {statistics.median(values):.3g} and {max(values):.3g}" for what, values in self._known_times()
        )


def replay_job(request: dict, environments: Any, on_step: Callable[..., None]) -> list[dict]:
    """Play tasks in a worker (eexp/workers/worker.py); return everything that was answered in each of them."""
    env = environments.get(request["env"])
    answers = []
    for play in request["plays"]:
        on_step()
        observation = env.reset(play["task"])
        answer = {"instruction": env.instruction(), "outcomes": [], "lists": []}
        for action in [*play["actions"], None]:
            answer["outcomes"].append(observation.outcome())
            answer["lists"].append(None if observation.done else env.admissible())
            if action is not None:
                on_step()
                observation = env.step(action)
        answers.append(answer)
    return answers


def _drawn(rng: random.Random, actions: list[str], n: int) -> list[str]:
    """Return n of the actions, or all where there are fewer."""
    return rng.sample(actions, min(n, len(actions)))


@contextmanager
def _alarm(limit: float, what: str) -> Iterator[None]:
    """Interrupt what takes longer than `limit` seconds.

    An environment in a process of its own has the same limit already, and two more seconds to keep it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("environments are checked in the main thread, where a signal can interrupt them")

    def ring(*_: Any) -> None:
        raise EnvironmentFailed(f"{what}: no answer within {limit:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit + 2.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _children() -> set[int]:
    """Return the process ids of all descendants of this process."""
    import psutil

    return {child.pid for child in psutil.Process().children(recursive=True)}


def _in_others(problems: list[str], n_tasks: int) -> str:
    """Return in how many tasks there is a problem, where it is not the only one."""
    return f"; {len(problems)} of {n_tasks} tasks fail" if len(problems) > 1 else ""


def task_of(episode: ReferenceEpisode) -> str:
    return f"task {episode.task['id']}"


def _where(episode: ReferenceEpisode, i: int) -> str:
    """Return the place of state number i, for messages."""
    place = f"after {short(episode.actions[i - 1])} (action {i})" if i else "at its beginning"
    return f"{task_of(episode)}, {place}"
