"""`eexp rollout`: execute every alternative from the state it belongs to (Early Experience, equation for D_rollout).

The expert's path is walked once. At every step its observation is compared with the recorded one, each alternative is
executed in a fork (or, where the environment cannot fork, in a second walk of the same path that is compared as well),
and the walk then goes on with the expert's action: were an alternative to leak into the path, the next comparison would
show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click

from eexp import options
from eexp.envs import Opened
from eexp.envs.base import Environment, Observation
from eexp.errors import InputError
from eexp.jsonl import OnError, stop_at_error


def _nothing(*_: object) -> None:
    return None


def rollout(trajectories: Iterator[dict], env_of: Callable[[dict], Environment], *,
            on_refused: OnError = _nothing, count: Callable[[str, int], None] = _nothing,
            on_error: OnError = stop_at_error) -> Iterator[dict]:  # fmt: skip
    """Fill in the outcome of every alternative.

    env_of: the environment for a trajectory. A branch point that is not where the record says is refused: its
    alternatives keep `outcome` null, say why in `refused`, and `on_refused` gets the evidence.
    """
    for trajectory in trajectories:
        try:
            yield _Walk(env_of(trajectory), trajectory, on_refused, count).run()
        except InputError as e:
            on_error(trajectory, e)


class _Walk:
    """One trajectory being walked."""

    def __init__(self, env: Environment, trajectory: dict, on_refused: OnError, count: Callable[[str, int], None]):
        self.env, self.trajectory, self.on_refused, self.count = env, trajectory, on_refused, count
        self.recorded = trajectory["steps"]
        self.refused = False

    def run(self) -> dict:
        can_fork = type(self.env).fork is not Environment.fork
        outcomes = self._walk_and_fork() if can_fork else self._walk_and_replay()
        steps = [{**step, "alternatives": [{**a, **o} for a, o in zip(step.get("alternatives", []), made)]}
                 for step, made in zip(self.recorded, outcomes)]  # fmt: skip
        return {**self.trajectory, "steps": steps}

    def _differs(self, i: int, seen: Observation) -> str | None:
        """Why `seen` is not the recorded observation number i; the last one is the trajectory's outcome."""
        if i < len(self.recorded):
            recorded = self.recorded[i]["observation"]
        elif (self.trajectory.get("outcome") or {}).get("observation") is not None:
            recorded = self.trajectory["outcome"]["observation"]
        else:
            return None
        if self.env.mask(seen.text) == self.env.mask(recorded):
            return None
        return f"the observation is {_short(seen.text)}, and {_short(recorded)} was recorded"

    def _refuse(self, i: int, why: str, seen: Observation) -> list[dict]:
        alternatives = self.recorded[i].get("alternatives", [])
        if not alternatives:
            return []
        self.refused = True
        error = InputError(f"branch point refused: {why}", f"$.steps[{i}]",
                           evidence={"observed": seen.text, "recorded": self.recorded[i]["observation"]})  # fmt: skip
        self.on_refused(self.trajectory, error)
        self.count("alternatives refused", len(alternatives))
        return [{"outcome": None, "refused": why}] * len(alternatives)

    def _execute(self, env: Environment, action: str) -> dict:
        outcome = env.step(action).outcome()
        self.count("executed", 1)
        if not outcome["valid"]:
            self.count("answered as invalid", 1)
        return {"outcome": outcome}

    def _walk_and_fork(self) -> list[list[dict]]:
        """Walk the expert's path once and fork at every step."""
        seen = self.env.reset(self.trajectory["task"])
        lost: str | None = None
        made: list[list[dict]] = []
        for i, step in enumerate(self.recorded):
            lost = lost or self._differs(i, seen)
            made.append(self._refuse(i, lost, seen) if lost else self._fork_each(step))
            seen = self.env.step(step["action"])
        self._check_end(lost, seen)
        return made

    def _fork_each(self, step: dict) -> list[dict]:
        outcomes = []
        for alternative in step.get("alternatives", []):
            with self.env.fork() as fork:
                outcomes.append(self._execute(fork, alternative["action"]))
        self.count("branch points verified", 1)
        return outcomes

    def _walk_and_replay(self) -> list[list[dict]]:
        """Reset and walk to the branch point again before every alternative."""
        made = [self._replay_each(i, step) for i, step in enumerate(self.recorded)]
        self._check_end(*self._return_to(len(self.recorded)))
        return made

    def _replay_each(self, i: int, step: dict) -> list[dict]:
        outcomes = []
        for alternative in step.get("alternatives", []):
            why, seen = self._return_to(i)
            if why:
                return self._refuse(i, why, seen)
            outcomes.append(self._execute(self.env, alternative["action"]))
        self.count("branch points verified", 1)
        return outcomes

    def _return_to(self, i: int) -> tuple[str | None, Observation]:
        """Walk to observation number i; the first difference on the way, and what is seen at its end."""
        seen = self.env.reset(self.trajectory["task"])
        why = self._differs(0, seen)
        for j in range(i):
            seen = self.env.step(self.recorded[j]["action"])
            why = why or self._differs(j + 1, seen)
        return why, seen

    def _check_end(self, lost: str | None, seen: Observation) -> None:
        """The expert's path must be as recorded to its end, or nothing that was branched from it can be trusted."""
        why = lost or self._differs(len(self.recorded), seen)
        if why and not self.refused:  # a refusal has told it already
            evidence = {"observed": seen.text, "recorded": (self.trajectory.get("outcome") or {}).get("observation")}
            raise InputError(f"the expert's path does not end as recorded: {why}", "$.outcome", evidence)


def _short(text: str, limit: int = 60) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


@click.command("rollout")
@options.env_override
@options.streams("trajectory", resume=True)
def command(env, stream) -> None:
    """Execute every alternative from its own state and record what happened.

    Before an alternative runs, the observation at its branch point must equal the recorded one; otherwise the branch is
    refused, counted, and kept with the evidence in the --rejects file (exit code 4). What the environment says to an
    invalid action is an outcome like any other. The environment is the one the records name.

    \b
    Example:
      eexp expert house -n 20 | eexp branch | eexp rollout > rollout.jsonl
    """
    from tqdm import tqdm

    with Opened(env) as opened, stream.open("rollout", "trajectory", env=env) as io:

        def refused(trajectory: dict, error: InputError) -> None:
            io.note(f"{trajectory['id']}: {error}")
            io.put_aside({"type": "trajectory", "id": trajectory["id"]}, error)

        made = rollout(io.records(), lambda t: opened.get(t["env"]), on_refused=refused, count=io.count,
                       on_error=io.fail)  # fmt: skip
        for trajectory in tqdm(made, disable=None, unit="trajectory", leave=False):
            io.write(trajectory)
