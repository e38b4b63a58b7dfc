"""Execute alternatives, each from the state it belongs to (Early Experience, equation for D_rollout).

The expert's path is walked once. At every step its observation is compared with the recorded one, each alternative is
executed in a fork (or, where the environment cannot fork, in a second walk of the same path that is compared as well),
and the walk then goes on with the expert's action. If an alternative changed the path itself, the next comparison would
show it, and the branch before it is refused too. The instruction and how the episode ends are compared as well.

Some alternatives are executed a second time, by a replay (audit.py), and half of them in another process, too. If one
has another outcome then, the run ends.

An alternative on which the environment fails (its program ends, say) is refused by itself, with the cause. The path is
then walked anew to where it branched off, and all others are executed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from eexp.acting.audit import Place, copies_differ, is_due, mask_hides_all, processes_differ, replays_differ
from eexp.envs import forking
from eexp.envs.base import FORK_AUTO, STEP_LIMIT, Environment, Observation
from eexp.envs.differences import difference_between, hidden_texts, instruction_difference, outcome_difference
from eexp.envs.listing import offered
from eexp.errors import EexpError, EnvironmentFailed, InputError, NoRoom, short, unexpected_error
from eexp.records.imagination import is_imagined
from eexp.system.child import time_limit
from eexp.workers.jobs import ELSEWHERE, answer_from_error, job_of
from eexp.workers.supervisor import TRIES


def _nothing(*_: object) -> None:
    """Do nothing before a step."""


@dataclass
class Executed:
    """A trajectory with the outcomes of its alternatives."""

    trajectory: dict
    refused: list[InputError] = field(default_factory=list)  # the branch points and alternatives that were refused
    counts: Counter[str] = field(default_factory=Counter)
    audited: dict[Place, dict] = field(default_factory=dict)  # the outcomes that a replay has confirmed


def execute(
    env: Environment,
    trajectory: dict,
    fork: str = FORK_AUTO,
    on_step: Callable[..., None] = _nothing,
    again: bool = False,
    fatal: dict[Place, str] | None = None,
    audit: Collection[Place] = (),
) -> Executed:
    """Execute the alternatives of one trajectory that have no outcome; with `again` all of them.

    The expert's path is walked and compared in any case.

    Args:
        fork: How to leave the expert's path and come back (envs/forking.py).
        on_step: Called before every step of the environment; before an alternative with its place as a list.
        again: Whether to execute alternatives that have an outcome, too.
        fatal: What happened to the process that executed an alternative, by its place; these are refused untried.
        audit: The places of the alternatives to execute a second time, by a replay, in this order.

    Raises:
        InputError: The expert's path does not end as recorded.
        EnvironmentFailed: The environment fails on the expert's path.
        AuditFailed: An alternative has another outcome in a replay, or the path is another one in it; or `mask` makes
            all observations equal.
    """
    execution = _Execution(env, trajectory, fork, on_step, again, fatal or {})
    executed = execution.run()
    execution.check_mask()
    executed.audited = execution.audit(audit)
    return executed


class _Execution:
    """The execution of one trajectory's alternatives."""

    def __init__(
        self,
        env: Environment,
        trajectory: dict,
        fork: str,
        on_step: Callable[..., None],
        again: bool,
        fatal: dict[Place, str],
    ):
        self.env, self.trajectory, self.on_step, self.fatal = env, trajectory, on_step, fatal
        self.recorded = trajectory["steps"]
        self.again = again
        #: The alternatives to execute at every step.
        self.to_execute = [[a for a in step.get("alternatives", []) if is_due(a, again)] for step in self.recorded]
        self.way = forking.choose_way(env, fork)
        self.counts: Counter[str] = Counter()
        self.notes: dict[int, dict] = {}  # step -> keys that the environment adds to it
        self.notes_at_end: dict = {}  # the same of the outcome
        self.offered: dict = {}  # the key of the trajectory for the functions that the environment offers
        self.outcomes: dict[Place, dict] = {}  # of the alternatives that were executed
        self.errors: dict[Place, EnvironmentFailed] = {}
        self.replay = "a replay"  # what messages call it
        #: Where the path first differs from the record: the number of the observation, the reason, the evidence.
        self.difference: tuple[int, str, dict] | None = None

    def run(self) -> Executed:
        """Execute the alternatives."""
        results = self._walk_and_replay() if self.way == "replay" else self._walk_and_fork()
        executed = Executed(self.trajectory, counts=self.counts)
        steps = []
        for i, (step, entries) in enumerate(zip(self.recorded, results)):
            alternatives, due = step.get("alternatives", []), self.to_execute[i]
            self.counts["alternative[s] executed before"] += len(alternatives) - len(due)
            if due:
                entries = self._judged(i, entries, executed)
            entry = iter(entries)
            alternatives = [_with_outcome(a, next(entry)) if is_due(a, self.again) else a for a in alternatives]
            steps.append({**step, **self.notes.get(i, {}), "alternatives": alternatives})
        if self.difference and not executed.refused:
            at, reason, evidence = self.difference
            end = "does not end" if at == len(self.recorded) else "is not"
            where = "$.outcome" if at == len(self.recorded) else f"$.steps[{at}]"
            raise InputError(f"the expert's path {end} as recorded: {reason}", where, evidence)
        executed.trajectory = {**self.trajectory, **self.offered, "steps": steps}
        if outcome := self.trajectory.get("outcome"):
            executed.trajectory["outcome"] = {**outcome, **self.notes_at_end}
        return executed

    def check_mask(self) -> None:
        """Raise AuditFailed if `mask` makes all observations of the trajectory equal. Call it after `run`."""
        if not self.env.has("mask"):
            return
        outcomes = [outcome["observation"] for outcome in self.outcomes.values()]
        path = [step["observation"] for step in self.recorded]
        for texts in (outcomes, [*path, *outcomes]):
            if n_texts := hidden_texts(self.env.mask, texts):
                raise mask_hides_all(self.trajectory["id"], self.env.spec, n_texts)

    def audit(self, places: Collection[Place]) -> dict[Place, dict]:
        """Execute alternatives a second time, each by a replay, and compare their outcomes. Call it after `run`.

        Those that were refused are left out. Where the outcome in a copy is another one than in a replay, a second
        replay tells whether the copy or the whole environment is to blame.

        Returns:
            The outcomes that were confirmed.
        """
        confirmed: dict[Place, dict] = {}
        believed = len(self.recorded) if self.difference is None else self.difference[0] - 1
        for i, k in places:
            outcome = self.outcomes.get((i, k))
            if outcome is None or i >= believed:
                continue
            replayed = self._replay(i, k)
            if difference := difference_between(self.env.mask, outcome, replayed):
                where, action = f"{self.trajectory['id']}: $.steps[{i}]", self.to_execute[i][k]["action"]
                changed = difference
                if self.way != "replay":
                    changed = difference_between(self.env.mask, replayed, self._replay(i, k))
                if changed is None:
                    raise copies_differ(where, action, self.env.spec, self.way, difference)
                before, now = changed.excerpts()
                raise replays_differ(where, action, self.env.spec, f"{changed.name} is {now}, and was {before}")
            self._count_audited("alternative[s] audited by replay: all equal", outcome, replayed)
            confirmed[i, k] = outcome
        return confirmed

    def audit_elsewhere(self, outcomes: dict[Place, dict]) -> None:
        """Execute alternatives by a replay, in this process, and compare with their outcomes in another one.

        No other method has to be called before.
        """
        self.replay = "a replay in another process"
        for (i, k), outcome in outcomes.items():
            replayed = self._replay(i, k)
            if difference := difference_between(self.env.mask, outcome, replayed):
                where, action = f"{self.trajectory['id']}: $.steps[{i}]", self.to_execute[i][k]["action"]
                raise processes_differ(where, action, self.env.spec, difference)
            self._count_audited("alternative[s] audited in another process: all equal", outcome, replayed)

    def _count_audited(self, label: str, outcome: dict, replayed: dict) -> None:
        """Count an alternative whose replay had the same outcome; apart if only `mask` makes both texts the same."""
        self.counts[label] += 1
        if outcome["observation"] != replayed["observation"]:
            self.counts[f"{label}, where `mask` hides what differs"] += 1

    def _replay(self, i: int, k: int) -> dict:
        """Return the outcome of alternative k of step i after a walk from the task's beginning."""
        before, self.difference = self.difference, None
        self._walk_to(i)
        if self.difference:
            at, reason, _ = self.difference
            action = self.recorded[at - 1]["action"] if at else None
            where = f"{self.trajectory['id']}: $.steps[{at}]"
            raise replays_differ(where, action, self.env.spec, reason, self.replay)
        self.difference = before
        self.on_step(None if self.env.light else [i, k])
        action = self.to_execute[i][k]["action"]
        try:
            return self.env.step(action).outcome()
        except (EexpError, MemoryError) as e:
            if isinstance(e, EnvironmentFailed):
                raise EnvironmentFailed(f"{short(action)} fails in its audit: {e.message}", f"$.steps[{i}]") from None
            raise

    def _judged(self, i: int, entries: list[dict], executed: Executed) -> list[dict]:
        """Return the outcomes at step i, or their refusal: observations i and i + 1 must both be as recorded."""
        if not self.difference or i + 1 < self.difference[0]:
            outcomes = [entry["outcome"] for entry in entries if entry["outcome"]]
            self.counts["branch point[s] verified"] += 1
            self.counts[f"alternative[s] executed by {self.way}"] += len(outcomes)
            if self.way == "replay" and (reason := self.env.why_no_copy()):
                reason = reason.replace("[", "(").replace("]", ")")  # square brackets mark plurals in what is counted
                self.counts[f"of them because the environment cannot copy its state: {reason}"] += len(outcomes)
            self.counts["alternative[s] answered as invalid"] += sum(not outcome["valid"] for outcome in outcomes)
            for k, entry in enumerate(entries):
                if not entry["outcome"]:
                    self._refuse_alternative(i, k, entry["refused"], executed)
            return entries
        at, reason, evidence = self.difference
        if i + 1 == at:
            reason = f"after its alternatives the expert's action leads elsewhere: {reason}"
        executed.refused.append(InputError(f"branch point refused: {reason}", f"$.steps[{i}]", evidence=evidence))
        self.counts["alternative[s] refused"] += len(self.to_execute[i])
        return [{"outcome": None, "refused": reason}] * len(self.to_execute[i])

    def _refuse_alternative(self, i: int, k: int, reason: str, executed: Executed) -> None:
        action = self.to_execute[i][k]["action"]
        evidence = {"action": action, **self.errors[i, k].evidence}
        error = InputError(f"alternative {short(action)} refused: {reason}", f"$.steps[{i}]", evidence)
        executed.refused.append(error)
        self.counts["alternative[s] refused"] += 1

    def _compare(self, i: int, observation: Observation) -> None:
        """Note where the environment differs from the record in step i; after the last step, in the outcome.

        An outcome holds how the episode stands. A step does not, but the episode was not over.
        """
        is_last = i == len(self.recorded)
        recorded = (self.trajectory.get("outcome") or {}) if is_last else {**self.recorded[i], "done": False}
        difference = outcome_difference(self.env.mask, observation.outcome(), recorded)
        if i == 0 and not difference:
            instruction = self.trajectory.get("instruction")
            difference = instruction_difference(self.env.mask, self.env.instruction(), instruction)
        if difference:
            self._note_difference(i, difference.message, difference.evidence)
        self._note_state(i, observation)

    def _note_state(self, i: int, observation: Observation) -> None:
        """Keep the environment's notes on its state at step i, and what it says of the observation."""
        if i in self.notes or self.difference:
            return
        if i == len(self.recorded):
            self.notes_at_end = observation.annotations()
            return
        notes = self.env.explain()
        if i == 0:
            self.offered, observation = offered(observation), observation.at_beginning()
        self.notes[i] = {**({"notes": notes} if notes else {}), **observation.annotations()}

    def _compare_list(self, i: int) -> None:
        """Note where the admissible actions at step i are not those recorded, or stand in another order.

        The record may hold only some of them, in their order.
        """
        listed = self.recorded[i].get("admissible")
        if listed is None or self.difference:
            return
        admissible = self.env.admissible()
        if admissible is None:
            return
        count = self.recorded[i].get("admissible_count") or len(listed)
        evidence = {"observed": admissible, "recorded": listed}
        if missing := sorted(set(listed) - set(admissible)):
            self._note_difference(i, f"{short(missing[0])} was admissible, and is not now", evidence)
        elif count != len(admissible):
            self._note_difference(i, f"{len(admissible)} actions are admissible, and {count} were", evidence)
        elif moved := _first_moved(listed, admissible):
            self._note_difference(i, f"the admissible actions are in another order, from {short(moved)} on", evidence)

    def _note_difference(self, i: int, reason: str, evidence: dict) -> None:
        if self.difference is None or i < self.difference[0]:
            self.difference = i, reason, evidence

    def _step(self, action: str) -> Observation:
        self.on_step()
        return self.env.step(action)

    def _execute(self, i: int, k: int, execute: Callable[[str], Observation]) -> dict | None:
        """Execute alternative k of step i; return its outcome, or None where the environment failed.

        A forked process that is lost is started again, because the process that it was forked from is unchanged.
        """
        if (i, k) in self.fatal:
            self.errors[i, k] = EnvironmentFailed(self.fatal[i, k])
            return None
        for attempt in range(1, TRIES + 1):
            self.on_step(None if self.env.light else [i, k])
            try:
                outcome = self.outcomes[i, k] = execute(self.to_execute[i][k]["action"]).outcome()
                return outcome
            except forking.ForkLost as e:
                self.counts["fork[s] lost"] += 1
                self.errors[i, k] = e
                if attempt == TRIES:
                    break
            except EnvironmentFailed as e:
                self.errors[i, k] = e
                break
            except (EexpError, MemoryError):
                raise
            except Exception as e:
                self.errors[i, k] = unexpected_error(e)
                break
        return None

    def _entry(self, i: int, k: int, outcome: dict | None) -> dict:
        """Return what a record keeps of alternative k of step i: its outcome, or why there is none."""
        return {"outcome": outcome} if outcome else {"outcome": None, "refused": self.errors[i, k].message}

    def _walk_and_fork(self) -> list[list[dict]]:
        """Walk the expert's path once and fork at every step; return the entries of each step."""
        self._walk_to(0)
        entries: list[list[dict]] = []
        for i, step in enumerate(self.recorded):
            if self.to_execute[i] and not self.difference:
                self._compare_list(i)
            with forking.executor(self.env, self.way, time_limit(STEP_LIMIT)) as in_fork:
                entries.append(self._fork_at(i, in_fork))
            self._compare(i + 1, self._step(step["action"]))
        return entries

    def _fork_at(self, i: int, in_fork: Callable[[str], Observation]) -> list[dict]:
        """Execute the alternatives at step i of the path; return their entries."""
        entries = []
        on_path = True
        for k, alternative in enumerate(self.to_execute[i]):
            if not on_path:
                self._walk_to(i)
            if self.difference:
                break
            in_place = self.env.harmless(alternative["action"])
            outcome = self._execute(i, k, self.env.step if in_place else in_fork)
            on_path = outcome is not None
            entries.append(self._entry(i, k, outcome))
        if not on_path:
            self._walk_to(i)
        return entries

    def _walk_and_replay(self) -> list[list[dict]]:
        """Walk to the branch point again before every alternative, except after one that changed nothing."""
        entries: list[list[dict]] = []
        for i, alternatives in enumerate(self.to_execute):
            entries.append([])
            on_path = False
            for k, alternative in enumerate(alternatives):
                if not on_path:
                    self._walk_to(i)
                    if not entries[-1]:
                        self._compare_list(i)
                    if self.difference:
                        break
                outcome = self._execute(i, k, self.env.step)
                on_path = outcome is not None and self.env.harmless(alternative["action"])
                entries[-1].append(self._entry(i, k, outcome))
        self._walk_to(len(self.recorded))
        return entries

    def _walk_to(self, i: int) -> None:
        """Walk from the task's beginning to observation number i, comparing all on the way."""
        self.on_step()
        self._compare(0, self.env.reset(self.trajectory["task"]))
        for j in range(i):
            self._compare(j + 1, self._step(self.recorded[j]["action"]))


def _first_moved(listed: list[str], admissible: list[str]) -> str | None:
    """Return the first of the listed actions that does not come after the one before it in the other list."""
    rest = iter(admissible)
    return next((action for action in listed if action not in rest), None)


def _with_outcome(alternative: dict, entry: dict) -> dict:
    """Return an alternative with its new outcome or the reason of its refusal, and without an earlier one."""
    return {**{key: value for key, value in alternative.items() if key != "refused"}, **entry}


def job(request: dict, environments: Any, on_step: Callable[..., None]) -> dict:
    """Execute the alternatives of one trajectory in a worker (eexp/workers/worker.py).

    Of the alternatives that are audited, those under "elsewhere" are replayed in another process, too. A world model is
    not loaded a second time for that.
    """
    trajectory, again = request["trajectory"], request["again"]
    fatal = {(i, k): reason for (i, k), reason in request.get("fatal", [])}
    env = environments.get(trajectory["env"])
    audit = [(i, k) for i, k in request.get("audit", [])]
    executed = execute(env, trajectory, request["fork"], on_step, again, fatal, audit)
    refused = [answer_from_error(error) for error in executed.refused]
    result = {"trajectory": executed.trajectory, "refused": refused, "counts": executed.counts}
    places = [(i, k) for i, k in request.get("elsewhere", []) if (i, k) in executed.audited]
    if places and not is_imagined(env.spec):
        outcomes = [(place, executed.audited[place]) for place in places]
        result[ELSEWHERE] = job_of(audit_job, trajectory=_until(trajectory, max(places)[0], again), outcomes=outcomes)
    return result


def _until(trajectory: dict, i: int, again: bool) -> dict:
    """Return what a replay to step i needs of a trajectory, with no alternatives but those to execute."""
    steps = []
    for step in trajectory["steps"][: i + 1]:
        alternatives = [{"action": a["action"]} for a in step.get("alternatives", []) if is_due(a, again)]
        steps.append({**{k: v for k, v in step.items() if k != "admissible"}, "alternatives": alternatives})
    return {**trajectory, "steps": steps}


def audit_job(request: dict, environments: Any, on_step: Callable[..., None]) -> dict:
    """Replay alternatives of one trajectory in another worker than the one that executed them; return the counts.

    Raises:
        NoRoom: The environment cannot be opened a second time.
    """
    trajectory = request["trajectory"]
    try:
        env = environments.get(trajectory["env"])
    except EexpError as e:
        raise NoRoom(str(e)) from None
    # A loss of this process is not the alternative's: `on_step` is not told where it is.
    execution = _Execution(env, trajectory, "replay", lambda part=None: on_step(), False, {})
    execution.audit_elsewhere({(i, k): outcome for (i, k), outcome in request["outcomes"]})
    return execution.counts
