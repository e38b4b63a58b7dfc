"""Take the actions of a recorded conversation in an environment, to check its observations and fill in missing ones.

Every observation must be the recorded one. Otherwise nothing shows that a branch from it would start where the record
says it does. Where the record holds them, the instruction of an episode, which actions were valid, and the success and
the score at the end must be those of the environment, too (eexp/envs/differences.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from os.path import commonprefix

from eexp.envs.base import Environment, Observation
from eexp.envs.differences import Difference, instruction_difference, standing_difference
from eexp.envs.listing import equality_field, offered, trajectory_step
from eexp.errors import InputError, short
from eexp.formats.conversations import Conversation
from eexp.records.record import seed_of, succeeded

RECORD, ENVIRONMENT = "record", "environment"


@dataclass
class Replayed:
    """A trajectory from a replay, with what the environment answered."""

    trajectory: dict
    differs: InputError | None = None  # the first difference from the record
    kept_whole: str | None = None  # why its refused actions were not left out although that was requested
    counts: Counter[str] = field(default_factory=Counter)  # of observations verified, filled in and so on


@dataclass
class _Actions:
    """Actions taken in an environment, as steps; the first observation, and the one after each of the steps."""

    steps: list[dict]
    observations: list[Observation]


def replay(
    env: Environment,
    task: dict,
    conversation: Conversation,
    record_id: str,
    *,
    trust: str = RECORD,
    admissible: int | None = 50,
    seed: int = 0,
    drop_invalid: bool = False,
    on_step: Callable[[], None] = lambda: None,
) -> Replayed:
    """Take the recorded actions in an environment and return the trajectory with its answers.

    Blanks, line ends and what `env.mask` leaves out make no difference. An observation that was not recorded is filled
    in.

    Args:
        trust: RECORD refuses a record with which the environment does not agree, ENVIRONMENT counts the differences.
        admissible: How many admissible actions to keep a step (`sample_admissible`).
        seed: Decides which of them.
        drop_invalid: Leave out empty actions and those that the environment refused, if a second replay without them
            shows that they changed nothing: each of the others is answered as before, and the episode ends as before.
        on_step: Called before every step of the environment.

    Raises:
        InputError: An observation, the instruction, the validity of an action or the end differs from the record (with
            RECORD), or there are actions after the end of the episode.
    """
    replayed = Replayed({"type": "trajectory", "id": record_id, "env": env.spec, "task": task})
    recorded = [*(step["observation"] for step in conversation.steps), conversation.last]

    def check(i: int, observation: Observation) -> None:
        place = conversation.places[i]
        if i == 0:
            replayed.trajectory["instruction"] = env.instruction() or conversation.instruction
            replayed.trajectory |= offered(observation)
            _compare_instruction(env, replayed, conversation, trust)
        if i < len(conversation.steps) and observation.done:
            number = len(conversation.steps)
            rest = "cut the rest, or leave a closing remark out with --drop-closing"
            raise InputError(f"the episode was over after {i} actions, and {number} were recorded: {rest}", place)
        text = recorded[i]
        if text is not None and (conversation.complete or text.strip()):
            action = conversation.steps[i - 1]["action"] if i else None
            _compare(env, replayed, action, observation.text, text, conversation.recorded_forms[i], place, trust)
        else:
            replayed.counts["observation[s] filled in"] += int(i < len(conversation.steps))
        if i and conversation.valid:
            different = standing_difference(observation.outcome(), {"valid": conversation.valid[i - 1]})
            where = conversation.places[i - 1].replace(".observation", ".valid")
            _note_field(replayed, different, where, "answer[s] of another validity", trust)

    def play(steps: list[dict], check: Callable[[int, Observation], None]) -> _Actions:
        return _play(env, task, steps, admissible, seed, on_step, check)

    whole = play(conversation.steps, check)
    _compare_end(replayed, whole.observations[-1], conversation, trust)
    chosen = whole
    if drop_invalid and len(_accepted(whole)) < len(whole.steps):
        try:
            chosen = _without_refused(env, whole, play)
        except _RefusedActionsMatter as e:
            replayed.kept_whole = str(e)
    outcome = chosen.observations[-1].outcome()
    replayed.counts["refused action[s] left out"] = len(whole.steps) - len(chosen.steps)
    replayed.counts["action[s] answered as invalid"] = sum(not o.valid for o in chosen.observations[1:])
    replayed.counts["step[s]"] = len(chosen.steps)
    replayed.counts["trajector[y|ies] that did not succeed"] = int(not succeeded(outcome))
    replayed.trajectory |= {"steps": chosen.steps, "outcome": outcome}
    replayed.trajectory |= equality_field(env, replayed.trajectory)
    return replayed


def _play(
    env: Environment,
    task: dict,
    steps: list[dict],
    admissible: int | None,
    seed: int,
    on_step: Callable[[], None],
    check: Callable[[int, Observation], None],
) -> _Actions:
    """Take the actions of `steps` from the beginning of `task`; `check` is called with each observation's number."""
    on_step()
    observations = [env.reset(task)]
    check(0, observations[0])
    new_steps: list[dict] = []
    for i, step in enumerate(steps):
        key = seed_of(seed, f"{env.spec}/{task.get('id')}", i)  # as `eexp expert` draws them
        observation = observations[-1] if i else observations[0].at_beginning()
        marks = {name: True for name in ("mistake", "repeated") if step.get(name)}
        new_steps.append(trajectory_step(env, observation, step["action"], admissible, key, step["thought"]) | marks)
        on_step()
        observations.append(env.step(step["action"]))
        check(i + 1, observations[-1])
    return _Actions(new_steps, observations)


class _RefusedActionsMatter(Exception):
    """Error raised when an episode without its refused actions goes differently."""


def _accepted(whole: _Actions) -> list[int]:
    """Return the indices of the actions that were not refused. An empty action counts as refused in any case."""
    return [i for i, step in enumerate(whole.steps) if whole.observations[i + 1].valid and step["action"].strip()]


def _without_refused(env: Environment, whole: _Actions, play: Callable[..., _Actions]) -> _Actions:
    """Play only the actions that were not refused. Raises _RefusedActionsMatter if the others made a difference."""
    accepted = _accepted(whole)

    def check(number: int, observation: Observation) -> None:
        before = whole.observations[accepted[number - 1] + 1 if number else 0]
        if _comparable(env, observation) != _comparable(env, before):
            after = f"after action {accepted[number - 1] + 1}" if number else "at the beginning"
            raise _RefusedActionsMatter(f"without its refused actions it goes differently {after}; they are kept")

    shorter = play([whole.steps[i] for i in accepted], check)
    numbers = [whole.steps[i].get("admissible_count") for i in accepted]
    if [step.get("admissible_count") for step in shorter.steps] != numbers:
        raise _RefusedActionsMatter("without its refused actions other actions are admissible; they are kept")
    ends = [(actions.observations[-1].score, actions.observations[-1].success) for actions in (shorter, whole)]
    if ends[0] != ends[1]:
        raise _RefusedActionsMatter("without its refused actions it ends differently; they are kept")
    return shorter


def _comparable(env: Environment, observation: Observation) -> tuple:
    """Return the parts of an observation that must be the same in both replays."""
    return env.mask(observation.text), observation.done, observation.score, observation.valid, observation.success


def _compare(
    env: Environment,
    replayed: Replayed,
    action: str | None,
    observed: str,
    recorded: str,
    forms: list[str],
    place: str,
    trust: str,
) -> None:
    """Note or refuse a difference between an observation and the recorded text; it may equal any of the `forms`."""
    normalised = _normalised(env, observed)
    if any(normalised == _normalised(env, text) for text in (recorded, *forms)):
        replayed.counts["observation[s] verified"] += 1
        return
    replayed.counts["observation[s] that differ[s|]"] += 1
    message = _difference(normalised, _normalised(env, recorded))
    if action is not None:
        message += f" after {short(action)}" + ("; see --action marked" if "Action:" in action else "")
    _note_difference(replayed, InputError(message, place, {"observed": observed, "recorded": recorded}), trust)


def _compare_instruction(env: Environment, replayed: Replayed, conversation: Conversation, trust: str) -> None:
    """Note or refuse it if an episode has another instruction; other formats word it in their own way."""
    if conversation.complete:
        observed, recorded = (_normalised(env, text) for text in (env.instruction(), conversation.instruction))
        different = instruction_difference(str, observed, recorded)
        _note_field(replayed, different, "$.instruction", "instruction[s] that differ[s|]", trust)


def _compare_end(replayed: Replayed, last: Observation, conversation: Conversation, trust: str) -> None:
    """Note or refuse it if the episode does not end with the recorded success and score."""
    recorded = {"success": conversation.success, "score": conversation.score}
    different = standing_difference(last.outcome(), recorded)
    _note_field(replayed, different, f"$.{different.key}" if different else "", "end[s] that differ[s|]", trust)


def _note_field(replayed: Replayed, different: Difference | None, where: str, counted: str, trust: str) -> None:
    """Note or refuse a difference, if there is one, between a field of the record and what the environment says."""
    if different:
        replayed.counts[counted] += 1
        _note_difference(replayed, InputError(different.message, where, different.evidence), trust)


def _note_difference(replayed: Replayed, error: InputError, trust: str) -> None:
    """Refuse the record or, where the environment is trusted, keep the first difference."""
    if trust == RECORD:
        raise error
    replayed.differs = replayed.differs or error


def _normalised(env: Environment, text: str) -> str:
    """Return the form in which two observations are compared.

    A mask may work on whole lines, so blanks within lines are normalised before it and line ends after it.
    """
    tidied = "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())
    return " ".join(env.mask(tidied).split())


def _difference(observed: str, recorded: str, before: int = 20, length: int = 60) -> str:
    """Return a message with both texts from `before` characters before their first difference."""
    start = max(0, len(commonprefix([observed, recorded])) - before)
    excerpts = [
        ("..." if start else "") + text[start : start + length] + ("..." if text[start + length :] else "")
        for text in (observed, recorded)
    ]
    return f"the observation is {excerpts[0]!r}, and {excerpts[1]!r} was recorded"
