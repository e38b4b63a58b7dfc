"""`eexp rollout`: execute every alternative from the state it belongs to (Early Experience, equation for D_rollout).

The expert's path is walked once. At every step its observation is compared with the recorded one, each alternative is
executed in a fork (or, where the environment cannot fork, in a second walk of the same path that is compared as well),
and the walk then goes on with the expert's action. Were an alternative to leak into the path, the next comparison would
show it, and the branch before it is refused too.

An alternative on which the environment fails (its program ends, say) is refused by itself, with the cause. The path is
then walked anew to where it branched off, and all others are executed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import click

from eexp import options
from eexp.envs import forking
from eexp.envs.base import Environment, Observation
from eexp.errors import EexpError, EnvironmentFailed, InputError, short
from eexp.outcomes import Shares
from eexp.processes.child import time_limit
from eexp.stream import OnError, stop_at_error
from eexp.workers.crew import TRIES
from eexp.workers.worker import mistake


def _nothing(*_: object) -> None:
    return None


@dataclass
class Executed:
    """One trajectory with the outcomes of its alternatives, what was refused in it, and what was counted."""

    trajectory: dict
    refused: list[InputError] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def rollout(
    trajectories: Iterator[dict],
    env_of: Callable[[dict], Environment],
    *,
    fork: str = forking.AUTO,
    again: bool = False,
    on_refused: OnError = _nothing,
    count: Callable[[str, int], None] = _nothing,
    on_error: OnError = stop_at_error,
) -> Iterator[dict]:
    """Fill in the outcome of every alternative that has none, in this process.

    env_of: the environment for a trajectory. fork: how to leave the expert's path and come back (envs/forking.py).
    again: execute alternatives that have an outcome, too.
    A branch point that is not where the record says is refused: its alternatives keep `outcome` null, say why in
    `refused`, and `on_refused` gets the evidence.
    """
    for trajectory in trajectories:
        try:
            done = execute(env_of(trajectory), trajectory, fork, again=again)
        except InputError as e:
            on_error(trajectory, e)
            continue
        for error in done.refused:
            on_refused(trajectory, error)
        for what, n in done.counts.items():
            count(what, n)
        yield done.trajectory


def execute(
    env: Environment,
    trajectory: dict,
    fork: str = forking.AUTO,
    on_step: Callable[..., None] = _nothing,
    again: bool = False,
    fatal: dict[tuple[int, int], str] | None = None,
) -> Executed:
    """Execute the alternatives of one trajectory that have no outcome; with `again` all of them.

    The expert's path is walked and compared in any case. `on_step` is called before every step of the environment,
    before an alternative with its place [step, number of the alternative among those to execute]. fatal: what happened
    to the process that executed an alternative, by its place; these are refused without trying.

    Raises InputError where the expert's path does not end as recorded, EnvironmentFailed where the environment does.
    """
    return _Walk(env, trajectory, fork, on_step, again, fatal or {}).run()


class _Walk:
    """One trajectory being walked."""

    def __init__(
        self,
        env: Environment,
        trajectory: dict,
        fork: str,
        on_step: Callable[..., None],
        again: bool,
        fatal: dict[tuple[int, int], str],
    ):
        self.env, self.trajectory, self.on_step, self.fatal = env, trajectory, on_step, fatal
        self.recorded = trajectory["steps"]
        self.again = again
        #: The alternatives to execute at every step.
        self.wanted = [[a for a in step.get("alternatives", []) if self._wants(a)] for step in self.recorded]
        self.way = forking.choose(env, fork)
        self.counts: Counter[str] = Counter()
        self._told: dict[int, dict] = {}  # what the environment says of its own states, by step
        self.failed: dict[tuple[int, int], EnvironmentFailed] = {}  # (step, number of the alternative) -> its error
        self.lost: tuple[int, str, dict] | None = None  # where the path first differs from the record, why, evidence

    def run(self) -> Executed:
        outcomes = self._walk_and_replay() if self.way == "replay" else self._walk_and_fork()
        done = Executed(self.trajectory, counts=self.counts)
        steps = []
        for i, (step, made) in enumerate(zip(self.recorded, outcomes)):
            alternatives, wanted = step.get("alternatives", []), self.wanted[i]
            self.counts["executed before"] += len(alternatives) - len(wanted)
            if wanted:
                made = self._judge(i, made, done)
            outcome = iter(made)
            executed = [_with_outcome(a, next(outcome)) if self._wants(a) else a for a in alternatives]
            steps.append({**step, **self._told.get(i, {}), "alternatives": executed})
        if self.lost and not done.refused:
            at, why, evidence = self.lost
            end = "does not end" if at == len(self.recorded) else "is not"
            where = "$.outcome" if at == len(self.recorded) else f"$.steps[{at}]"
            raise InputError(f"the expert's path {end} as recorded: {why}", where, evidence)
        done.trajectory = {**self.trajectory, "steps": steps}
        return done

    def _wants(self, alternative: dict) -> bool:
        """Whether to execute an alternative; one whose branch point was refused before is tried again."""
        return self.again or not alternative.get("outcome")

    def _judge(self, i: int, made: list[dict], done: Executed) -> list[dict]:
        """The outcomes at step i, or their refusal: both observation i and the one after it must be as recorded."""
        if not self.lost or i + 1 < self.lost[0]:
            executed = [m["outcome"] for m in made if m["outcome"]]
            self.counts["branch points verified"] += 1
            self.counts[f"executed by {self.way}"] += len(executed)
            self.counts["answered as invalid"] += sum(not outcome["valid"] for outcome in executed)
            for k, m in enumerate(made):
                if not m["outcome"]:
                    self._refuse_alternative(i, k, m["refused"], done)
            return made
        at, why, evidence = self.lost
        if i + 1 == at:
            why = f"after its alternatives the expert's action leads elsewhere: {why}"
        done.refused.append(InputError(f"branch point refused: {why}", f"$.steps[{i}]", evidence=evidence))
        self.counts["alternatives refused"] += len(self.wanted[i])
        return [{"outcome": None, "refused": why}] * len(self.wanted[i])

    def _refuse_alternative(self, i: int, k: int, why: str, done: Executed) -> None:
        action = self.wanted[i][k]["action"]
        evidence = {"action": action, **self.failed[i, k].evidence}
        done.refused.append(InputError(f"alternative {short(action)} refused: {why}", f"$.steps[{i}]", evidence))
        self.counts["alternatives refused"] += 1

    def _compare(self, i: int, seen: Observation) -> None:
        """Note it if `seen` is not the recorded observation number i; the last one is the trajectory's outcome."""
        state = self.recorded[i] if i < len(self.recorded) else self.trajectory.get("outcome") or {}
        recorded = state.get("observation")
        if recorded is not None and self.env.mask(seen.text) != self.env.mask(recorded):
            why = f"the observation is {short(seen.text)}, and {short(recorded)} was recorded"
            self._lose(i, why, {"observed": seen.text, "recorded": recorded})
        self._note_state(i, seen)

    def _note_state(self, i: int, seen: Observation) -> None:
        """Keep what the environment says of its own state at step i: what is still needed, what was to be expected."""
        if i in self._told or i == len(self.recorded) or self.lost:
            return
        notes = self.env.explain()
        self._told[i] = {**({"notes": notes} if notes else {}), **seen.unknown_parts()}

    def _compare_list(self, i: int) -> None:
        """Note it if the admissible actions at branch point i are not those recorded (a record may hold only some)."""
        listed = self.recorded[i].get("admissible")
        found = self.env.admissible() if listed is not None and not self.lost else None
        if found is None:
            return
        count = self.recorded[i].get("admissible_count") or len(listed)
        evidence = {"observed": found, "recorded": listed}
        if missing := sorted(set(listed) - set(found)):
            self._lose(i, f"{short(missing[0])} was admissible, and is not now", evidence)
        elif count != len(found):
            self._lose(i, f"{len(found)} actions are admissible, and {count} were", evidence)

    def _lose(self, i: int, why: str, evidence: dict) -> None:
        if self.lost is None or i < self.lost[0]:
            self.lost = i, why, evidence

    def _step(self, action: str) -> Observation:
        self.on_step()
        return self.env.step(action)

    def _execute(self, i: int, k: int, execute: Callable[[str], Observation]) -> dict | None:
        """Execute alternative k of step i. Returns its outcome, or None where the environment failed.

        A forked process that was lost may do better at another try; what it was forked from is as it was.
        """
        if (i, k) in self.fatal:
            self.failed[i, k] = EnvironmentFailed(self.fatal[i, k])
            return None
        for attempt in range(1, TRIES + 1):
            self.on_step(None if self.env.light else [i, k])
            try:
                return execute(self.wanted[i][k]["action"]).outcome()
            except forking.ForkLost as e:
                self.counts["forks lost"] += 1
                self.failed[i, k] = e
                if attempt == TRIES:
                    break
            except EnvironmentFailed as e:
                self.failed[i, k] = e
                break
            except (EexpError, MemoryError):
                raise
            except Exception as e:
                self.failed[i, k] = mistake(e)
                break
        return None

    def _made(self, i: int, k: int, outcome: dict | None) -> dict:
        """Return what a record keeps of an alternative: its outcome, or why there is none."""
        return {"outcome": outcome} if outcome else {"outcome": None, "refused": self.failed[i, k].message}

    def _walk_and_fork(self) -> list[list[dict]]:
        """Walk the expert's path once and fork at every step."""
        self._walk_to(0)
        in_fork = forking.executor(self.env, self.way, time_limit(options.STEP_LIMIT))
        made: list[list[dict]] = []
        for i, step in enumerate(self.recorded):
            made.append([])
            here = True
            if self.wanted[i] and not self.lost:
                self._compare_list(i)
            for k, alternative in enumerate(self.wanted[i]):
                if not here:
                    self._walk_to(i)
                if self.lost:
                    break
                in_place = self.env.harmless(alternative["action"])
                outcome = self._execute(i, k, self.env.step if in_place else in_fork)
                here = outcome is not None
                made[-1].append(self._made(i, k, outcome))
            if not here:
                self._walk_to(i)
            self._compare(i + 1, self._step(step["action"]))
        return made

    def _walk_and_replay(self) -> list[list[dict]]:
        """Reset and walk to the branch point again before every alternative that changes the state."""
        made = []
        for i, alternatives in enumerate(self.wanted):
            made.append([])
            here = False
            for k, alternative in enumerate(alternatives):
                if not here:
                    self._walk_to(i)
                    if not made[-1]:
                        self._compare_list(i)
                    if self.lost:
                        break
                outcome = self._execute(i, k, self.env.step)
                here = outcome is not None and self.env.harmless(alternative["action"])
                made[-1].append(self._made(i, k, outcome))
        self._walk_to(len(self.recorded))
        return made

    def _walk_to(self, i: int) -> None:
        """From the task's beginning to observation number i, comparing all on the way."""
        self.on_step()
        self._compare(0, self.env.reset(self.trajectory["task"]))
        for j in range(i):
            self._compare(j + 1, self._step(self.recorded[j]["action"]))


def _with_outcome(alternative: dict, made: dict) -> dict:
    """An alternative with its new outcome, or with the reason of its refusal, and nothing of an earlier one."""
    return {**{key: value for key, value in alternative.items() if key != "refused"}, **made}


# -- in workers -----------------------------------------------------------------------------------------------------


def job(asked: dict, opened: Any, on_step: Callable[..., None]) -> dict:
    """What a worker does for one trajectory (eexp/workers/worker.py)."""
    trajectory = asked["trajectory"]
    fatal = {(i, k): why for (i, k), why in asked.get("fatal", [])}
    done = execute(opened.get(trajectory["env"]), trajectory, asked["fork"], on_step, asked["again"], fatal)
    refused = [{"message": e.message, "where": e.where, "evidence": e.evidence} for e in done.refused]
    return {"trajectory": done.trajectory, "refused": refused, "counts": done.counts}


@click.command("rollout")
@options.env_override
@click.option(
    "--fork",
    type=click.Choice([forking.AUTO, *forking.WAYS]),
    default=forking.AUTO,
    show_default=True,
    help="How to leave the expert's path and be back: by the environment's own copy of its state, a fork of "
    "its process, or walking there again.",
)
@click.option("--again", is_flag=True, help="Execute alternatives that have an outcome, too.")
@options.workers
@options.streams("trajectory", resume=True)
def command(env, fork, again, open_pool, stream) -> None:
    """Execute every alternative from its own state and record what happened.

    Alternatives that have an outcome keep it (see --again), so that a second pool costs only its own execution.

    Before an alternative runs, the observation at its branch point must equal the recorded one, and so must the one
    after it, where the expert's path goes on; otherwise the branch is refused, counted, and kept with the evidence in
    the --rejects file (exit code 4). What the environment says to an invalid action is an outcome like any other. The
    environment is the one the records name.

    Environments live in processes of their own. One that crashes, hangs or grows costs a retry. An alternative on which
    the environment's program ends, or its process is lost three times, is refused with the cause, and all others are
    executed; a trajectory whose own path fails so is a bad record. Order and content of the output do not depend on the
    number of processes.

    The summary tells, by source and pool, what share of the executed alternatives is valid, changes the state (a
    different observation, or the end), leads to the expert's own outcome (the same observation), and finishes the task.

    \b
    Example:
      eexp expert house -n 20 | eexp branch | eexp rollout > rollout.jsonl
    """
    from tqdm import tqdm

    # Which way to fork and how many workers change nothing in the output, so they are no part of its lineage.
    shares = Shares()
    with stream.open("rollout", "trajectory", env=env, again=again or None) as io, open_pool(env) as pool:
        do = f"{__name__}:{job.__name__}"
        jobs = (((io.where, t), {"do": do, "fork": fork, "again": again, "trajectory": t}) for t in io.records())
        for trajectory, result in io.results(tqdm(pool.run(jobs), disable=None, unit="trajectory", leave=False)):
            for e in result["refused"]:
                error = InputError(**e)
                io.note(f"{trajectory['id']}: {error}")
                io.reject({"type": "trajectory", "id": trajectory["id"]}, error)
            io.counts.update(result["counts"])
            io.write(result["trajectory"])
            shares.add(result["trajectory"])
        io.counts.update(pool.counts)
        for line in shares.lines():
            io.note(line)
