"""Does an environment keep the contract of eexp/envs/base.py? Asked by playing in it.

Walks are taken on a few tasks: at every step all questions are asked, and an action is drawn (the expert's, or an
admissible one). Then the same actions are taken again: in the same environment, in one opened anew, and without asking;
beside another instance, around forks, harmless actions and nonsense. All of them must see what the first walk saw. A
world in which that does not hold would lie about what an action leads to.
"""

from __future__ import annotations

import random
import signal
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from os.path import commonprefix
from typing import Any, TypeVar

import orjson

from eexp.envs import forking
from eexp.envs.base import Environment, Observation
from eexp.errors import EexpError, EnvironmentFailed, NoRoom, UsageError, short
from eexp.records import succeeded

OK, NOTE, FAILED, SKIPPED = "ok", "note", "FAIL", "-"

MOST_TASKS = 100_000  # of a split are looked at
WALK = 12  # actions
POINTS = 3  # states of a walk at which branches are tried
NONSENSE = ("", "xyzzy the plugh", 'say "\\"', "zwölf\n\t\N{SNOWMAN}", "open " * 400)

Answer = TypeVar("Answer")


@dataclass
class Finding:
    """What one check found: verdict is OK, NOTE (worth knowing, breaks nothing), FAILED or SKIPPED."""

    check: str
    verdict: str
    detail: str


class _Broken(Exception):
    """The contract is broken; the message says how."""


class _Noted(Exception):
    """Nothing is broken, but whoever uses the environment should know."""


class _Skipped(Exception):
    """There is nothing to check."""


@dataclass
class _Walk:
    """A task, the actions taken, and what was seen: before each of them and after the last."""

    task: dict
    instruction: str
    seen: list[Observation]
    listed: list[list[str] | None]
    actions: list[str]

    def until(self, i: int) -> _Walk:
        """The walk as far as state number i."""
        return replace(self, seen=self.seen[: i + 1], listed=self.listed[: i + 1], actions=self.actions[:i])


class Checker:
    """One round of checks.

    open_one: opens the environment, each time anew. tasks: how many of the first split are played. limit: seconds for
    one answer. actions: to be tried where neither an expert nor an admissible list knows any.
    """

    def __init__(
        self,
        open_one: Callable[[], Environment],
        *,
        tasks: int,
        limit: float,
        seed: int = 0,
        actions: tuple[str, ...] = (),
    ):
        self.open_one, self.n_tasks, self.limit, self.actions = open_one, tasks, limit, actions
        self.draw = random.Random(seed)
        self.took: dict[str, list[float]] = defaultdict(list)
        self.walks: list[_Walk] = []
        self.tasks: list[dict] = []

    def run(self) -> Iterator[Finding]:
        """One finding a check. Where the environment itself fails (dies, hangs), the checks after it are left out."""
        children = _children()
        self.env = self.other = None
        lost: str | None = None
        try:
            for check in (
                self.opens,
                self.splits,
                self.lists_tasks,
                self.plays,
                self.repeats,
                self.questions,
                self.starts_anew,
                self.side_by_side,
                self.forks,
                self.harmless,
                self.admissible,
                self.expert,
                self.nonsense,
            ):
                finding, fatal = self._finding(check, lost)
                yield finding
                if fatal and lost is None:
                    lost = check.__name__.replace("_", " ")
        finally:
            for env in (self.env, self.other):
                if env is not None:
                    with suppress(EexpError):
                        env.close()
        if self.env is not None:
            yield self._finding(lambda: self.closes(children), None, "closes")[0]
            yield Finding("time", OK, self._times())

    def _finding(self, check: Callable[[], str], lost: str | None, name: str = "") -> tuple[Finding, bool]:
        """What a check found, and whether those after it cannot be made."""
        name = name or check.__name__.replace("_", " ")
        if lost:
            return Finding(name, SKIPPED, f"not checked, since {lost!r} failed"), False
        try:
            return Finding(name, OK, check()), False
        except _Skipped as e:
            return Finding(name, SKIPPED, str(e)), False
        except _Noted as e:
            return Finding(name, NOTE, str(e)), False
        except _Broken as e:
            return Finding(name, FAILED, str(e)), name in ("splits", "lists tasks", "plays", "repeats")
        except EexpError as e:
            return Finding(name, FAILED, str(e)), True

    # -- the checks, in order ------------------------------------------------------------------------------------------

    def opens(self) -> str:
        self.env = self._timed("open", self.open_one)
        return self.env.spec

    def splits(self) -> str:
        found = self._ask("splits")
        _must(
            isinstance(found, list) and found and all(isinstance(s, str) for s in found),
            f"splits: expected a list of names, got {short(found)}",
        )
        _must(len(set(found)) == len(found), f"splits: a name stands there twice: {short(found)}")
        try:
            self._timed("tasks", lambda: list(islice(self.env.tasks("no such split"), 1)))
        except UsageError:
            return ", ".join(found)
        raise _Broken("tasks: answers for a split that does not exist; see Environment.check_split")

    def lists_tasks(self) -> str:
        counts, split_of = [], {}
        for split in self.env.splits():
            found = self._tasks(split)
            for n, task in enumerate(found):
                _must(isinstance(task.get("id"), str), f"task {n} of {split} has no id that is a string")
                _must(
                    task.get("split") == split, f"task {task['id']}: its split is {task.get('split')!r}, not {split!r}"
                )
                before = split_of.setdefault(task["id"], split)
                _must(before == split, f"task {task['id']} is in {before} and in {split}")
            ids = [task["id"] for task in found]
            _must(len(set(ids)) == len(ids), f"two tasks of {split} have the same id")
            _must(
                self._tasks(split) == found,
                f"the tasks of {split} are other ones, or in another order, the second time",
            )
            counts.append(f"{split} {len(found):,}" + (" and more" if len(found) == MOST_TASKS else ""))
            wanted = self.n_tasks if split == self.env.splits()[0] else 1
            self.tasks += self.draw.sample(found, min(wanted, len(found)))
        _must(bool(self.tasks), "there are no tasks")
        return ", ".join(counts)

    def plays(self) -> str:
        for task in self.tasks:
            self.walks.append(self._first_walk(task))
        steps = sum(len(walk.actions) for walk in self.walks)
        over = all(walk.seen[0].done for walk in self.walks)
        why = "the tasks are over at their beginning" if over else "neither an expert nor an admissible list tells one"
        _must(steps > 0, f"no action was taken: {why}; is this the right environment? --action TEXT names actions")
        return f"{len(self.walks)} tasks, {steps} actions"

    def repeats(self) -> str:
        for walk in reversed(self.walks):
            self._again(self.env, walk, "the second time")
        return "the same actions lead to the same observations"

    def questions(self) -> str:
        for walk in self.walks:
            try:
                self._again(self.env, walk, "when nothing was asked on the way", ask=False)
            except _Broken:
                self._again(self.env, walk, "the third time")  # raises where the questions are not to blame
                raise
        return "asking changes nothing"

    def starts_anew(self) -> str:
        alone = ""
        try:
            self.other = self._timed("open", self.open_one)
        except NoRoom:
            self.env.close()
            self.env = self.other = self._timed("open", self.open_one)
            alone = ", one session at a time: the server has no room for two"
        for walk in self.walks:
            self._again(self.other, walk, "in another instance")
        return f"another instance sees the same{alone}"

    def side_by_side(self) -> str:
        if not self.env.light:
            raise _Skipped("not declared light; `eexp eval` gives each episode a process")
        when = "while another instance played"
        for walk, beside in zip(self.walks, [*self.walks[1:], self.walks[0]]):

            def play_beside(i: int, beside: _Walk = beside) -> None:
                if i < len(beside.seen):
                    asked = ("step", beside.actions[i - 1]) if i else ("reset", beside.task)
                    self._compare(self.other, beside, i, self._ask(*asked, env=self.other), when)

            self._again(self.env, walk, when, between=play_beside)
        return "two instances, turn by turn, see what each saw alone"

    def forks(self) -> str:
        if self.env.in_process and (why_not := forking.why_unfit(self.env, "process")):
            raise _Broken(f"declares in_process, but {why_not}")
        ways = [way for way in ("state", "process") if forking.why_unfit(self.env, way) is None]
        if not ways:
            raise _Skipped("cannot be forked; every alternative costs a replay")
        branches = 0
        for walk in self.walks:
            points = self._points(walk)
            alternatives = {i: [*self._drawn(walk.listed[i], 2), self.draw.choice(NONSENSE)] for i in points}
            expected = {i: [self._after(self.other, walk.until(i), a) for a in alternatives[i]] for i in points}
            for way in ways:
                self._fork_along(walk, way, alternatives, expected)
            branches += sum(map(len, alternatives.values()))
        return f"{' and '.join(ways)}: {branches} branches as in a replay, and the path goes on as before"

    def harmless(self) -> str:
        tried = 0
        for walk in self.walks:

            def ask_in_place(i: int, walk: _Walk = walk) -> None:
                nonlocal tried
                candidates = [*(walk.listed[i] or []), *self.actions, *NONSENSE]
                for action in [a for a in candidates if self.env.harmless(a)][:3]:
                    seen = self._ask("step", action)
                    tried += 1
                    _must(not seen.done, f"{short(action)} is declared harmless, and it ended {_task(walk)}")

            self._again(self.env, walk, "after actions that are declared harmless", between=ask_in_place)
        if not tried:
            raise _Skipped("no action is declared harmless")
        return f"{tried} actions executed in place"

    def admissible(self) -> str:
        if all(listed is None for walk in self.walks for listed in walk.listed):
            raise _Skipped("no list; `branch` needs a model here")
        tried = 0
        for walk in self.walks:
            for i in self._points(walk):
                for action in self._drawn(walk.listed[i], 4) if walk.listed[i] else ():
                    seen = self._after(self.other, walk.until(i), action)
                    tried += 1
                    _must(
                        seen.valid,
                        f"{_task(walk)}, state {i}: lists {short(action)}, and refuses it: {short(seen.text)}",
                    )
        if not tried:
            raise _Skipped("the lists are empty wherever they were looked at")
        return f"{tried} listed actions tried, all valid"

    def expert(self) -> str:
        solved, refused, asked_back = 0, [], []
        for task in self.tasks:
            seen, n, here = self._ask("reset", task), 0, []
            while not seen.done and n < self.env.max_steps and (action := self._ask("expert")) is not None:
                seen, n = self._ask("step", action), n + 1
                here += [] if seen.valid else [f"task {task['id']}: {short(action)}"]
            if not n and not seen.done:
                raise _Skipped("none; `expert` has nothing to record here")
            success = succeeded(seen.outcome())
            solved += success
            if success:  # a question back, say, that its next action answers
                asked_back += here
            else:
                refused += here
        _must(not refused, f"{len(refused)} of its actions are refused, such as {refused[:1]}")
        _must(solved > 0, f"reaches the goal in none of {len(self.tasks)} tasks")
        told = f"reaches the goal in {solved} of {len(self.tasks)} tasks"
        if asked_back:
            told += f", {len(asked_back)} refused actions on the way, such as {asked_back[0]}"
        if solved < len(self.tasks) or asked_back:
            raise _Noted(told)
        return told

    def nonsense(self) -> str:
        said, taken_as_valid = 0, set()
        for walk in self.walks:
            for i in self._points(walk):
                action = self.draw.choice(NONSENSE)

                def say_it(j: int, i: int = i, action: str = action, walk: _Walk = walk) -> bool:
                    """Whether it was refused."""
                    nonlocal said
                    if i != j:
                        return True
                    said += 1
                    seen = self._ask("step", action)
                    if seen.valid:
                        taken_as_valid.add(action)
                        return False
                    _must(not seen.done, f"{_task(walk)}: {short(action)} is not valid, and yet it ended the episode")
                    return True

                self._again(self.env, walk, f"after {short(action)}, which it said was not valid", between=say_it)
        if taken_as_valid:
            raise _Noted(f"says that {short(min(taken_as_valid))} is valid, so invalid actions cannot be told here")
        return f"{said} answered, marked as not valid, and nothing changes"

    def closes(self, children: set[int]) -> str:
        for env in filter(None, (self.env, self.other)):
            env.close()  # a second time
        deadline = time.monotonic() + 2.0
        while (left := _children() - children) and time.monotonic() < deadline:
            time.sleep(0.05)
        _must(not left, f"processes are left over: {', '.join(map(str, sorted(left)))}")
        return "leaves no process behind"

    # -- walking -------------------------------------------------------------------------------------------------------

    def _first_walk(self, task: dict) -> _Walk:
        seen = self._ask("reset", task)
        walk = _Walk(task, self._ask("instruction"), [seen], [self._list(self.env)], [])
        while not seen.done and len(walk.actions) < WALK:
            advice, listed = self._ask("expert"), walk.listed[-1]
            by_advice = advice is not None and (not listed or self.draw.random() < 0.5)
            action = advice if by_advice else next(iter(self._drawn(listed, 1)), None)
            if action is None:
                break
            seen = self._ask("step", action)
            walk.actions.append(action)
            walk.seen.append(seen)
            walk.listed.append(self._list(self.env) if not seen.done else None)
        return walk

    def _again(
        self, env: Environment, walk: _Walk, when: str, ask: bool = True, between: Callable[[int], Any] = lambda i: None
    ) -> None:
        """Take the walk again. `between` is called in every state but the last; where it says False the walk ends."""
        seen = self._ask("reset", walk.task, env=env)
        said = self._ask("instruction", env=env)
        _must(
            said == walk.instruction,
            f"{_task(walk)}: the instruction is {short(said)} {when}, and was {short(walk.instruction)}",
        )
        for i in range(len(walk.seen)):
            self._compare(env, walk, i, seen, when)
            if ask and not seen.done:
                self._compare_lists(env, walk, i, when)
                self._ask("expert", env=env)
            if i == len(walk.actions) or between(i) is False:
                return
            seen = self._ask("step", walk.actions[i], env=env)

    def _compare(self, env: Environment, walk: _Walk, i: int, seen: Observation, when: str) -> None:
        before = walk.seen[i]
        if self._masked(env, seen) == self._masked(env, before):
            return
        shown = [short(o.text) for o in (seen, before)]
        if shown[0] == shown[1]:
            shown = [short(str(o.outcome() | {"observation": "..."})) for o in (seen, before)]
        if seen.text != before.text and shown[0] == shown[1]:
            shown = [short(o.text[len(commonprefix([seen.text, before.text])) :]) for o in (seen, before)]
        raise _Broken(f"{_where(walk, i)}: {shown[0]} {when}, and {shown[1]} the first time")

    def _compare_lists(self, env: Environment, walk: _Walk, i: int, when: str) -> None:
        listed = self._list(env)
        if listed != walk.listed[i]:
            raise _Broken(
                f"{_where(walk, i)}: the admissible actions are {short(listed)} {when}, "
                f"and were {short(walk.listed[i])} the first time"
            )

    def _masked(self, env: Environment, seen: Observation) -> Observation:
        return replace(seen, text=env.mask(seen.text))

    def _after(self, env: Environment, walk: _Walk, action: str) -> Observation:
        """What an action at the end of a walk shows."""
        self._again(env, walk, "on the way to a branch", ask=False)
        return self._ask("step", action, env=env)

    def _fork_along(
        self, walk: _Walk, way: str, alternatives: dict[int, list[str]], expected: dict[int, list[Observation]]
    ) -> None:
        execute = forking.executor(self.env, way, self.limit)

        def branch(i: int) -> None:
            for action, wanted in zip(alternatives.get(i, []), expected.get(i, [])):
                seen = self._timed(f"fork ({way})", lambda action=action: execute(action))
                if self._masked(self.env, seen) != self._masked(self.env, wanted):
                    raise _Broken(
                        f"{_where(walk, i)}: {short(action)} leads to {short(seen.text)} in a fork by "
                        f"{way}, and to {short(wanted.text)} in a replay"
                    )

        self._again(self.env, walk, f"after forks by {way}", between=branch)

    def _points(self, walk: _Walk) -> list[int]:
        """Some states of a walk that have a next one."""
        return sorted(self.draw.sample(range(len(walk.actions)), min(POINTS, len(walk.actions))))

    def _drawn(self, listed: list[str] | None, n: int) -> list[str]:
        found = listed or sorted({*self.actions, *(action for walk in self.walks for action in walk.actions)})
        return self.draw.sample(found, min(n, len(found)))

    # -- asking --------------------------------------------------------------------------------------------------------

    def _tasks(self, split: str) -> list[dict]:
        """As they come back out of a record."""
        found = self._timed("tasks", lambda: list(islice(self.env.tasks(split), MOST_TASKS)))
        try:
            return [orjson.loads(orjson.dumps(task)) for task in found]
        except (TypeError, orjson.JSONEncodeError) as e:
            raise _Broken(f"a task of {split} cannot be written as JSON: {e}") from None

    def _list(self, env: Environment) -> list[str] | None:
        listed = self._ask("admissible", env=env)
        if listed is not None:
            _must(
                isinstance(listed, list) and all(isinstance(a, str) for a in listed),
                f"admissible: expected a list of strings, got {short(listed)}",
            )
            double = next((a for a in listed if listed.count(a) > 1), None) if len(set(listed)) < len(listed) else None
            _must(double is None, f"admissible: {short(double)} is listed twice")
        return listed

    def _ask(self, method: str, *args: Any, env: Environment | None = None) -> Any:
        """Call a method of the environment, checking what it returns."""
        answer = self._timed(method, lambda: getattr(env or self.env, method)(*args))
        if method in ("reset", "step"):
            _check_observation(method, answer)
        elif method == "instruction":
            _must(isinstance(answer, str), f"instruction: expected a string, got {short(answer)}")
        elif method == "expert":
            _must(answer is None or isinstance(answer, str), f"expert: expected a string or None, got {short(answer)}")
        return answer

    def _timed(self, what: str, call: Callable[[], Answer]) -> Answer:
        began = time.perf_counter()
        try:
            with _alarm(self.limit, what):
                return call()
        except (EexpError, _Broken):
            raise
        except Exception as e:
            raise _Broken(f"{what}: raised {type(e).__name__}: {' '.join(str(e).split())}") from e
        finally:
            self.took[what].append(1000 * (time.perf_counter() - began))

    def _times(self) -> str:
        shown = [(what, self.took[what]) for what in ("reset", "step", "admissible") if self.took[what]]
        return "milliseconds, median and longest: " + ", ".join(
            f"{what} {statistics.median(found):.3g} and {max(found):.3g}" for what, found in shown
        )


def _check_observation(method: str, seen: Any) -> None:
    _must(isinstance(seen, Observation), f"{method}: expected an Observation, got {short(seen)}")
    _must(isinstance(seen.text, str), f"{method}: text: expected a string, got {short(seen.text)}")
    for name in ("done", "valid"):
        value = getattr(seen, name)
        _must(isinstance(value, bool), f"{method}: {name}: expected True or False, got {short(value)}")
    _must(
        seen.success in (None, True, False), f"{method}: success: expected a truth value or None, got {seen.success!r}"
    )
    number = isinstance(seen.score, (int, float)) and 0 <= seen.score <= 1
    _must(seen.score is None or number, f"{method}: score: expected 0 to 1 or None, got {short(seen.score)}")


@contextmanager
def _alarm(limit: float, what: str) -> Iterator[None]:
    """Interrupt what takes longer than `limit` seconds. An environment in a process of its own has a limit already,
    the same one, and is given a moment to keep it."""
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
    import psutil

    return {child.pid for child in psutil.Process().children(recursive=True)}


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Broken(otherwise)


def _task(walk: _Walk) -> str:
    return f"task {walk.task['id']}"


def _where(walk: _Walk, i: int) -> str:
    return f"{_task(walk)}, " + (f"after {short(walk.actions[i - 1])} (action {i})" if i else "at its beginning")
