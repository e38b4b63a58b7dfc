"""Check an environment against the requirements of docs/fork-and-verify.md, one by one.

Some tasks are played first (eexp/envs/check.py). Then the same actions are taken again, with states saved, restored and
forked on the way. What every alternative leads to is known from a replay in another instance, so that every answer can
be compared whole: observation, `done`, score, `valid` and success.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from eexp.envs.base import Environment, Observation
from eexp.envs.check import NONSENSE, Checker, ReferenceEpisode, task_of
from eexp.errors import EexpError, EnvironmentFailed, short
from eexp.system.findings import Broken, NothingToCheck, WorthKnowing, must

MET, NOT_MET, NOT_OFFERED, NOT_CHECKED = "met", "NOT MET", "not offered", "not checked"
_AS_IT_IS = "restore_as_it_is"  # a bridge's `restore` without its own check of the episode
ALTERNATIVES = 3  # actions tried in a state, one of them nonsense


@dataclass
class Requirement:
    """The result for one requirement."""

    number: int  # its number in docs/fork-and-verify.md
    name: str
    verdict: str  # MET, NOT_MET, NOT_OFFERED or NOT_CHECKED
    detail: str  # what was compared, with numbers, or what differed


@dataclass
class _Branches:
    """Alternatives in a state of an episode, and what each leads to in a replay."""

    episode: ReferenceEpisode
    i: int
    actions: list[str]
    expected: list[Observation]


class ConformanceChecker(Checker):
    """One round of checks; the arguments are those of `Checker`."""

    def requirements(self) -> Iterator[Requirement]:
        """Check every requirement in order, and yield the result of each."""
        self._branches: list[_Branches] = []
        checks: list[Callable[[], str]] = [
            self.reset_repeats,
            self.steps_repeat,
            self.instances_agree,
            self.sessions_are_apart,
            self.any_text_is_answered,
            self.lists_change_nothing,
            self.copies_are_offered,
            self.save_changes_nothing,
            self.restore_returns,
            self.states_last,
            self.order_does_not_matter,
            self.the_path_goes_on,
            self.states_stand_side_by_side,
            self.states_are_released,
            self.foreign_states_are_refused,
            self.forks_are_independent,
        ]
        try:
            problem = self._prepare()
            for number, check in enumerate(checks, 1):
                name = check.__name__.replace("_", " ")
                if problem:
                    yield Requirement(number, name, NOT_CHECKED, problem)
                    continue
                try:
                    with self.watched(name):
                        detail = check()
                    yield Requirement(number, name, MET, detail)
                except NothingToCheck as e:
                    yield Requirement(number, name, NOT_OFFERED, str(e))
                except Broken as e:
                    yield Requirement(number, name, NOT_MET, str(e))
                except EexpError as e:
                    yield Requirement(number, name, NOT_MET, str(e))
        finally:
            for env in (self._env, self._other):
                if env is not None:
                    with suppress(EexpError):
                        env.close()

    def _prepare(self) -> str:
        """Open two instances and play the tasks; return why nothing can be checked, "" if all can."""
        try:
            for step in (self.opens, self.splits, self.lists_tasks, self.plays):
                step()
            with suppress(NothingToCheck, WorthKnowing):
                self.mask()
            self._other = self._timed("open", self.open_one)
        except (Broken, WorthKnowing, NothingToCheck, EexpError) as e:
            return str(e)
        return ""

    # -- resets and steps ----------------------------------------------------------------------------------------------

    def reset_repeats(self) -> str:
        """The same task begins in the same way, after any other episode."""
        for episode in [*self.episodes, *reversed(self.episodes)]:
            self._compare(self.env, episode, 0, self._ask("reset", episode.task), "after other episodes")
        return f"{2 * len(self.episodes)} resets of {len(self.episodes)} tasks"

    def steps_repeat(self) -> str:
        """The same actions in the same task lead to the same answers."""
        for episode in self.episodes:
            self._repeat(self.env, episode, "the second time", ask=False)
        return f"{self._actions} actions"

    def instances_agree(self) -> str:
        """Another instance gives the same answers."""
        for episode in reversed(self.episodes):
            self._repeat(self.other, episode, "in another instance", ask=False)
        try:
            return f"{self._actions} actions; {self._compare_processes()} in another process"
        except NothingToCheck as e:
            return f"{self._actions} actions ({e})"

    def sessions_are_apart(self) -> str:
        """Two sessions that are played in turn do not influence each other."""
        if not (self.env.light or _is_remote(self.env)):
            raise NothingToCheck("a class that is not `light`: each instance gets a process of its own")
        when = "while another session was played"
        for episode, beside in zip(self.episodes, [*self.episodes[1:], self.episodes[0]]):

            def play_beside(i: int, beside: ReferenceEpisode = beside) -> None:
                if i < len(beside.observations):
                    call = ("step", beside.actions[i - 1]) if i else ("reset", beside.task)
                    self._compare(self.other, beside, i, self._ask(*call, env=self.other), when)

            self._repeat(self.env, episode, when, ask=False, between=play_beside)
        return f"{self._actions} actions, in turn with those of another session"

    def any_text_is_answered(self) -> str:
        """Any text is answered, and an action that is refused changes nothing."""
        refused = accepted = 0
        for episode in self.episodes:
            for i, nonsense in zip(self._points(episode), NONSENSE * 2):

                def try_nonsense(j: int, i: int = i, nonsense: str = nonsense) -> bool:
                    nonlocal refused, accepted
                    if i != j:
                        return True
                    is_valid = self._ask("step", nonsense).valid
                    accepted, refused = accepted + is_valid, refused + (not is_valid)
                    return not is_valid

                when = f"after {short(nonsense)}, which was refused"
                self._repeat(self.env, episode, when, ask=False, between=try_nonsense, on_path=False)
        return f"{refused} refused without an effect" + (f", {accepted} accepted" if accepted else "")

    def lists_change_nothing(self) -> str:
        """The list of admissible actions depends on the state alone, and asking for it changes nothing."""
        lists = sum(actions is not None for episode in self.episodes for actions in episode.lists)
        if not lists:
            raise NothingToCheck("no state lists its actions")
        for env in (self.env, self.other):
            for episode in self.episodes:
                self._repeat(env, episode, "where it was asked in every state", between=self._ask_again(env))
        return f"{lists} lists, asked twice in two instances"

    def _ask_again(self, env: Environment) -> Callable[[int], None]:
        def ask(i: int) -> None:
            self._list(env)

        return ask

    # -- states --------------------------------------------------------------------------------------------------------

    def copies_are_offered(self) -> str:
        """Whether states are saved or forked is said, rather than tried."""
        reason = self.env.why_no_copy()
        offered = [name for name in ("save", "fork") if self.env.has(name)]
        if reason or not offered:
            raise NothingToCheck(reason or "neither `save` nor `fork`: every alternative costs a replay")
        for episode in self.episodes:
            for i in self._points(episode):
                listed = self._sample(episode.lists[i], ALTERNATIVES - 1)
                actions = [*listed, self.rng.choice(NONSENSE)]
                expected = [self._after(self.other, episode.until(i), action) for action in actions]
                self._branches.append(_Branches(episode, i, actions, expected))
        branches = sum(len(one.actions) for one in self._branches)
        return f"{' and '.join(offered)}; {branches} alternatives in {len(self._branches)} states, replayed"

    def save_changes_nothing(self) -> str:
        """An episode goes on unchanged after its state was saved."""
        self._need("save")
        saved = 0

        def save(i: int) -> None:
            nonlocal saved
            self._ask_state("save")
            saved += 1

        for episode in self.episodes:
            self._repeat(self.env, episode, "after its states were saved", between=save)
        return f"{saved} states saved, {self._time('save')}"

    def restore_returns(self) -> str:
        """A restored state is the state that was saved: what follows is what follows in a replay."""
        self._need("save")
        for one in self._branches:
            self._go_to(one)
            state = self._ask_state("save")
            for action, expected in zip(one.actions, one.expected):
                self._try(one, action, expected, "after a restore")
                self._ask_state("restore", state)
        return f"{self._alternatives} alternatives as in a replay, {self._time('restore')}"

    def states_last(self) -> str:
        """A state can be restored any number of times, also after the episode went on to its end."""
        self._need("save")
        for one in self._branches:
            self._go_to(one)
            state = self._ask_state("save")
            for action in one.episode.actions[one.i :]:
                self._ask("step", action)
            for _ in range(3):
                self._ask_state("restore", state)
                self._try(one, one.actions[0], one.expected[0], "when its state is restored again, after later steps")
        return f"{3 * len(self._branches)} restores of {len(self._branches)} states after later steps"

    def order_does_not_matter(self) -> str:
        """What an alternative leads to does not depend on those that were executed before it."""
        self._need("save")
        for one in self._branches:
            self._go_to(one)
            state = self._ask_state("save")
            for action, expected in [*zip(one.actions, one.expected)][::-1]:
                self._try(one, action, expected, "in reverse order")
                self._ask_state("restore", state)
        return f"{self._alternatives} alternatives in reverse order"

    def the_path_goes_on(self) -> str:
        """After alternatives and a restore, the path goes on as before to its end: random numbers are restored, too."""
        self._need("save")
        steps = 0
        for one in self._branches:
            self._go_to(one)
            state = self._ask_state("save")
            for action in one.actions:
                self._ask("step", action)
                self._ask_state("restore", state)
            for i in range(one.i, len(one.episode.actions)):
                observation = self._ask("step", one.episode.actions[i])
                self._compare(self.env, one.episode, i + 1, observation, f"after a restore in state {one.i}")
                if not observation.done:
                    self._compare_lists(self.env, one.episode, i + 1, f"after a restore in state {one.i}")
                steps += 1
        return f"{steps} actions of the path after a restore"

    def states_stand_side_by_side(self) -> str:
        """Several states of an episode are kept at once, and each is restored as it was."""
        self._need("save")
        states = 0
        for episode in self.episodes:
            own = [one for one in self._branches if one.episode is episode]
            if len(own) < 2:
                continue
            kept: dict[int, object] = {}
            wanted = {one.i for one in own}

            def keep(i: int, kept: dict = kept, wanted: set = wanted) -> None:
                if i in wanted:
                    kept[i] = self._ask_state("save")

            self._repeat(self.env, episode, "while its states were saved", ask=False, between=keep)
            for one in [*own[::-1], *own]:
                self._ask_state("restore", kept[one.i])
                self._try(one, one.actions[0], one.expected[0], "where several states are kept")
            states += len(own)
        if not states:
            raise NothingToCheck("no episode has two states to save")
        return f"{states} states, restored in two orders"

    def states_are_released(self) -> str:
        """A released state is an error, the other states remain, and the episode goes on."""
        self._need("save")
        if not self.env.has("release"):
            raise NothingToCheck("no `release`: states last until the next reset")
        for one in self._branches:
            self._go_to(one)
            gone, kept = self._ask_state("save"), self._ask_state("save")
            self._ask("step", one.episode.actions[one.i])
            self._ask_state("release", gone)
            must(not self._restores(gone, one), f"{_place(one)}: a released state is restored")
            self._ask_state("restore", kept)
            self._try(one, one.actions[0], one.expected[0], "after another state was released")
        return f"{len(self._branches)} released states refused, the others kept"

    def foreign_states_are_refused(self) -> str:
        """A state of an earlier episode or of another session is an error, or it is truly that state."""
        self._need("save")
        if not _is_remote(self.env):
            raise NothingToCheck("states are values of this process, not names that a server knows")
        refused = restored = 0
        for one, other in zip(self._branches, [*self._branches[1:], self._branches[0]]):
            self._go_to(one)
            state = self._ask_state("save")
            self._ask("reset", other.episode.task)
            for env in (self.env, self.other):
                self._ask("reset", other.episode.task, env=env)
                if self._restores(state, one, env):
                    self._try(one, one.actions[0], one.expected[0], "from a state of another episode", env)
                    restored += 1
                    continue
                refused += 1
                if other.episode.actions:  # the refusal has changed nothing
                    when = "after a foreign state was refused"
                    self._compare(env, other.episode, 1, self._ask("step", other.episode.actions[0], env=env), when)
        return f"{refused} refused, {restored} restored as they were"

    def forks_are_independent(self) -> str:
        """A fork is in the same state, and neither it nor its end changes the episode."""
        self._need("fork")
        for one in self._branches:
            self._go_to(one)
            for action, expected in zip(one.actions, one.expected):
                fork = self._timed("fork", self.env.fork)
                try:
                    self._try(one, action, expected, "in a fork", fork)
                finally:
                    if fork is not self.env:
                        fork.close()
            for i in range(one.i, len(one.episode.actions)):
                observation = self._ask("step", one.episode.actions[i])
                self._compare(self.env, one.episode, i + 1, observation, f"after forks in state {one.i}")
                if not observation.done:
                    self._compare_lists(self.env, one.episode, i + 1, f"after forks in state {one.i}")
        return f"{self._alternatives} forks as in a replay, {self._time('fork')}"

    # -- asking --------------------------------------------------------------------------------------------------------

    @property
    def _actions(self) -> int:
        return sum(len(episode.actions) for episode in self.episodes)

    @property
    def _alternatives(self) -> int:
        return sum(len(one.actions) for one in self._branches)

    def _need(self, method: str) -> None:
        """Raise NothingToCheck if the environment does not offer a way to copy a state."""
        if reason := self.env.why_no_copy():
            raise NothingToCheck(reason)
        if not self.env.has(method):
            raise NothingToCheck(f"no `{method}`")
        if not self._branches:
            raise NothingToCheck("no state to copy: the episodes have no action")

    def _go_to(self, one: _Branches) -> None:
        """Play to a state."""
        self._repeat(self.env, one.episode.until(one.i), "on the way to a state", ask=False)

    def _try(
        self, one: _Branches, action: str, expected: Observation, when: str, env: Environment | None = None
    ) -> None:
        """Execute an alternative and raise Broken unless it leads to what it leads to in a replay."""
        observation = self._ask("step", action, env=env)
        if self._masked(self.env, observation) != self._masked(self.env, expected):
            got, wanted = self._differing(self.env, observation, expected)
            raise Broken(f"{_place(one)}: {short(action)} leads to {got} {when}, and to {wanted} in a replay")

    def _ask_state(self, method: str, *args: object) -> object:
        return self._timed(method, lambda: getattr(self.env, method)(*args))

    def _restores(self, state: object, one: _Branches, env: Environment | None = None) -> bool:
        """Return whether a state that should be gone or that is foreign can be restored; an error of any kind is no."""
        env = env or self.env
        try:
            self._timed("restore", lambda: getattr(env, _AS_IT_IS, env.restore)(state))
        except (EnvironmentFailed, Broken):
            return False
        return True

    def _time(self, what: str) -> str:
        return f"{statistics.median(self.durations[what] or [0.0]):.3g} ms each"


def _is_remote(env: Environment) -> bool:
    """Return whether states have names that something outside of this process knows."""
    return hasattr(env, _AS_IT_IS)


def _place(one: _Branches) -> str:
    return f"{task_of(one.episode)}, state {one.i}"
