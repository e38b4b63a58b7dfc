"""Taking the actions of a recorded conversation in an environment, to check what was seen and to fill in what was not.

Every observation must be the recorded one, or there is no telling whether a branch from it would start where the record
says it does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from os.path import commonprefix

from eexp.conversations import Conversation
from eexp.envs.base import Environment
from eexp.envs.listing import listed
from eexp.errors import InputError
from eexp.records import seed_of

RECORD, ENVIRONMENT = "record", "environment"


@dataclass
class Replayed:
    """A trajectory from the environment. differs: where it is not what was recorded first, or None."""

    trajectory: dict
    differs: InputError | None = None
    counts: Counter[str] = field(default_factory=Counter)


def replay(env: Environment, task: dict, found: Conversation, record_id: str, *, trust: str = RECORD,
           admissible: int | None = 50, seed: int = 0,
           on_step: Callable[[], None] = lambda: None) -> Replayed:  # fmt: skip
    """Take the recorded actions in `env` and write down what it says.

    trust: RECORD refuses (InputError) where the environment says something else than was recorded, ENVIRONMENT counts
    it. Blanks, line ends and what `env.mask` leaves out make no difference. An observation that was not recorded is
    filled in. Actions after the end of the episode are refused either way.
    """
    on_step()
    seen = env.reset(task)
    done = Replayed({"type": "trajectory", "id": record_id, "env": env.spec, "task": task,
                     "instruction": env.instruction() or found.instruction})  # fmt: skip
    steps: list[dict] = []
    for i, (step, heard, place) in enumerate(zip(found.steps, found.heard, found.places)):
        if seen.done:
            raise InputError(f"the episode was over after {i} actions, and {len(found.steps)} were recorded", place)
        if not (step["observation"] or "").strip():
            done.counts["observations filled in"] += 1
        else:
            _compare(env, done, seen.text, step["observation"], heard, place, trust)
        key = seed_of(seed, record_id, i)
        steps.append({"observation": seen.text, "action": step["action"], "admissible": None,
                      "thought": step["thought"], **listed(env, admissible, step["action"], key)})  # fmt: skip
        on_step()
        seen = env.step(step["action"])
        done.counts["actions answered as invalid"] += int(not seen.valid)
    if (found.last or "").strip():
        _compare(env, done, seen.text, found.last, found.heard[-1], found.places[-1], trust)
    done.counts["steps"] = len(steps)
    done.counts["without success"] = int(not seen.success and seen.score != 1.0)
    done.trajectory |= {"steps": steps, "outcome": seen.outcome()}
    return done


def _compare(env: Environment, done: Replayed, seen: str, recorded: str, heard: str, place: str,
             trust: str) -> None:  # fmt: skip
    """Note or refuse it if `seen` is neither the recorded observation nor all that the world said in that turn."""
    now = _form(env, seen)
    if now in (_form(env, recorded), _form(env, heard)):
        done.counts["observations verified"] += 1
        return
    done.counts["observations that differ"] += 1
    error = InputError(_difference(now, _form(env, recorded)), place, {"observed": seen, "recorded": recorded})
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
    cut = [("..." if start else "") + text[start : start + length] + ("..." if text[start + length :] else "")
           for text in (seen, recorded)]  # fmt: skip
    return f"the observation is {cut[0]!r}, and {cut[1]!r} was recorded"
