"""Taking the actions of a recorded conversation in an environment, to check what was seen and to fill in what was not.

Every observation must be the recorded one, or there is no telling whether a branch from it would start where the record
says it does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from os.path import commonprefix

from eexp.envs.base import Environment, Observation
from eexp.envs.listing import step_of
from eexp.errors import InputError
from eexp.formats.conversations import Conversation
from eexp.records import seed_of, succeeded

RECORD, ENVIRONMENT = "record", "environment"


@dataclass
class Replayed:
    """A trajectory from the environment.

    differs: where it is not what was recorded first, or None. kept_whole: why its refused actions were not left out
    although that was asked for, or None.
    """

    trajectory: dict
    differs: InputError | None = None
    kept_whole: str | None = None
    counts: Counter[str] = field(default_factory=Counter)


@dataclass
class _Play:
    """Actions taken in an environment. answers: the first observation, and the one after each of the `steps`."""

    steps: list[dict]
    answers: list[Observation]


def replay(
    env: Environment,
    task: dict,
    found: Conversation,
    record_id: str,
    *,
    trust: str = RECORD,
    admissible: int | None = 50,
    seed: int = 0,
    drop_invalid: bool = False,
    on_step: Callable[[], None] = lambda: None,
) -> Replayed:
    """Take the recorded actions in `env` and write down what it says.

    trust: RECORD refuses (InputError) where the environment says something else than was recorded, ENVIRONMENT counts
    it. Blanks, line ends and what `env.mask` leaves out make no difference. An observation that was not recorded is
    filled in. Actions after the end of the episode are refused either way.

    drop_invalid: leave out empty actions and those that the environment refused, if a second replay without them shows
    that they changed nothing: each of the others is answered as before, and the episode ends as before.
    """
    done = Replayed({"type": "trajectory", "id": record_id, "env": env.spec, "task": task})
    recorded = [*(step["observation"] for step in found.steps), found.last]

    def check(i: int, seen: Observation) -> None:
        place = found.places[i]
        if i == 0:
            done.trajectory["instruction"] = env.instruction() or found.instruction
        if i < len(found.steps) and seen.done:
            raise InputError(f"the episode was over after {i} actions, and {len(found.steps)} were recorded", place)
        if recorded[i] is not None and (found.complete or recorded[i].strip()):
            _compare(env, done, seen.text, recorded[i], found.recorded_forms[i], place, trust)
        else:
            done.counts["observations filled in"] += int(i < len(found.steps))

    def play(steps: list[dict], check: Callable[[int, Observation], None]) -> _Play:
        return _play(env, task, steps, admissible, seed, on_step, check)

    full = play(found.steps, check)
    _compare_end(done, full.answers[-1], found, trust)
    chosen = full
    if drop_invalid and len(_accepted(full)) < len(full.steps):
        try:
            chosen = _without_refused(env, full, play)
        except _OtherPath as e:
            done.kept_whole = str(e)
    done.counts["refused actions left out"] = len(full.steps) - len(chosen.steps)
    done.counts["actions answered as invalid"] = sum(not answer.valid for answer in chosen.answers[1:])
    done.counts["steps"] = len(chosen.steps)
    outcome = chosen.answers[-1].outcome()
    done.counts["without success"] = int(not succeeded(outcome))
    done.trajectory |= {"steps": chosen.steps, "outcome": outcome}
    return done


def _play(
    env: Environment,
    task: dict,
    steps: list[dict],
    admissible: int | None,
    seed: int,
    on_step: Callable[[], None],
    check: Callable[[int, Observation], None],
) -> _Play:
    """Take the actions of `steps` from the beginning of `task`; `check` is given every observation with its number."""
    on_step()
    answers = [env.reset(task)]
    check(0, answers[0])
    played: list[dict] = []
    for i, step in enumerate(steps):
        key = seed_of(seed, f"{env.spec}/{task.get('id')}", i)  # as `eexp expert` draws them
        played.append(step_of(env, answers[-1], step["action"], admissible, key, step["thought"]))
        on_step()
        answers.append(env.step(step["action"]))
        check(i + 1, answers[-1])
    return _Play(played, answers)


class _OtherPath(Exception):
    """Without its refused actions the episode goes differently."""


def _accepted(full: _Play) -> list[int]:
    """The numbers of the actions that were not refused; an empty one is none, whatever the environment answers."""
    return [i for i, step in enumerate(full.steps) if full.answers[i + 1].valid and step["action"].strip()]


def _without_refused(env: Environment, full: _Play, play: Callable[..., _Play]) -> _Play:
    """Play the actions that were not refused alone; raises _OtherPath where the refused ones made a difference."""
    kept = _accepted(full)

    def check(number: int, seen: Observation) -> None:
        before = full.answers[kept[number - 1] + 1 if number else 0]
        if _answer(env, seen) != _answer(env, before):
            after = f"after action {kept[number - 1] + 1}" if number else "at the beginning"
            raise _OtherPath(f"without its refused actions it goes differently {after}; they are kept")

    shorter = play([full.steps[i] for i in kept], check)
    lists = [full.steps[i].get("admissible_count") for i in kept]
    if [step.get("admissible_count") for step in shorter.steps] != lists:
        raise _OtherPath("without its refused actions other actions are admissible; they are kept")
    ends = [(answer.score, answer.success) for answer in (shorter.answers[-1], full.answers[-1])]
    if ends[0] != ends[1]:
        raise _OtherPath("without its refused actions it ends differently; they are kept")
    return shorter


def _answer(env: Environment, seen: Observation) -> tuple:
    return env.mask(seen.text), seen.done, seen.score, seen.valid, seen.success


def _compare(
    env: Environment, done: Replayed, seen: str, recorded: str, recorded_forms: list[str], place: str, trust: str
) -> None:
    """Note or refuse it if `seen` is neither the recorded observation nor a form in which the world said it."""
    now = _form(env, seen)
    if any(now == _form(env, text) for text in (recorded, *recorded_forms)):
        done.counts["observations verified"] += 1
        return
    done.counts["observations that differ"] += 1
    difference = _difference(now, _form(env, recorded))
    _differ(done, InputError(difference, place, {"observed": seen, "recorded": recorded}), trust)


def _compare_end(done: Replayed, seen: Observation, found: Conversation, trust: str) -> None:
    """Note or refuse it if the episode does not end with the recorded success and score."""
    success = succeeded(seen.outcome())
    if found.success is not None and success != found.success:
        observed, recorded, where = success, found.success, "$.success"
    elif found.score is not None and (seen.score is None or not math.isclose(seen.score, found.score, abs_tol=1e-9)):
        observed, recorded, where = seen.score, found.score, "$.score"
    else:
        return
    done.counts["ends that differ"] += 1
    message = f"the {where[2:]} is {observed}, and {recorded} was recorded"
    _differ(done, InputError(message, where, {"observed": observed, "recorded": recorded}), trust)


def _differ(done: Replayed, error: InputError, trust: str) -> None:
    """Refuse the record or, where the environment is trusted, keep the first difference."""
    if trust == RECORD:
        raise error
    done.differs = done.differs or error


def _form(env: Environment, text: str) -> str:
    """The form in which two observations are the same. A mask may go by line, so blanks within lines come first."""
    tidied = "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())
    return " ".join(env.mask(tidied).split())


def _difference(seen: str, recorded: str, before: int = 20, length: int = 60) -> str:
    """Both texts from a little before where they part."""
    start = max(0, len(commonprefix([seen, recorded])) - before)
    cut = [
        ("..." if start else "") + text[start : start + length] + ("..." if text[start + length :] else "")
        for text in (seen, recorded)
    ]
    return f"the observation is {cut[0]!r}, and {cut[1]!r} was recorded"
