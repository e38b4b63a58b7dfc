"""Environments that lie about what actions lead to, one for each kind of lie, in the houses of `house`.

All of LIARS but the last two answer as `house` does along the expert's path, so that no comparison of observations with
the record finds them: they add something to the answer to any other action, such as how many actions were heard.
`Honest` adds the same and copies it as it should.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from copy import copy, deepcopy
from dataclasses import replace
from itertools import count, islice
from typing import ClassVar

from eexp.envs.base import Environment, Observation
from eexp.envs.worlds.house import House


class Honest(House):
    """Tells how many actions were heard and understood in the episode, after some actions.

    Attributes:
        tells: How these actions begin.
    """

    spec = "liars:Honest"
    tells = ("close", "put")

    def splits(self) -> list[str]:
        return ["train"]

    def tasks(self, split: str) -> Iterator[dict]:
        return islice(super().tasks(split), 40)

    def reset(self, task: dict) -> Observation:
        self.heard = 0
        return super().reset(task)

    def step(self, action: str) -> Observation:
        tells = action != self.expert() and action.startswith(self.tells)
        observation = super().step(action)
        self.heard += observation.valid
        return self.off_path(observation) if tells else observation

    def off_path(self, observation: Observation) -> Observation:
        """Return the answer to an action that is not the expert's."""
        return replace(observation, text=f"{observation.text} {self.heard} said.")

    def fork(self) -> Environment:
        return deepcopy(self)


class ScoresOtherwiseInCopies(Honest):
    """All is restored but the score, which is 0 in a copy."""

    spec = "liars:ScoresOtherwiseInCopies"
    is_copy = False

    def off_path(self, observation: Observation) -> Observation:
        return observation if self.is_copy else replace(observation, score=0.25)

    def fork(self) -> Environment:
        other = deepcopy(self)
        other.is_copy = True
        return other


class RestoresPart(Honest):
    """What happened in the world is restored, and the count is not: every alternative is heard by those after it."""

    spec = "liars:RestoresPart"
    fork = Environment.fork

    def save(self) -> dict:
        return {key: value for key, value in deepcopy(vars(self)).items() if key != "heard"}

    def restore(self, state: dict) -> None:
        vars(self).update(deepcopy(state))


class SharesState(Honest):
    """A copy shares what was said with the original."""

    spec = "liars:SharesState"

    def reset(self, task: dict) -> Observation:
        self.said: list[str] = []
        return super().reset(task)

    def step(self, action: str) -> Observation:
        self.said.append(action)
        return super().step(action)

    def off_path(self, observation: Observation) -> Observation:
        return replace(observation, text=f"{observation.text} {len(self.said)} said.")

    def fork(self) -> Environment:
        other = deepcopy(self)
        other.said = self.said
        return other


class LeaksBetweenCopies(Honest):
    """Copies share a number with each other, and the original has its own."""

    spec = "liars:LeaksBetweenCopies"
    copies = 0

    def fork(self) -> Environment:
        LeaksBetweenCopies.copies += 1
        other = deepcopy(self)
        other.heard += LeaksBetweenCopies.copies // 4
        return other


class CopiesAnotherState(Honest):
    """A copy is in the state before the last action: the wrong branch point."""

    spec = "liars:CopiesAnotherState"

    def reset(self, task: dict) -> Observation:
        self.earlier = None
        return super().reset(task)

    def step(self, action: str) -> Observation:
        self.earlier = None
        self.earlier = copy(self)
        self.earlier.where, self.earlier.opened = dict(self.where), set(self.opened)
        self.earlier.state = {o: set(s) for o, s in self.state.items()}
        return super().step(action)

    def off_path(self, observation: Observation) -> Observation:
        return observation

    def fork(self) -> Environment:
        return deepcopy(self.earlier or self)


class LeaksAcrossResets(Honest):
    """The count goes on over episodes."""

    spec = "liars:LeaksAcrossResets"
    heard = 0

    def reset(self, task: dict) -> Observation:
        before = self.heard
        observation = super().reset(task)
        self.heard = before
        return observation


class AnswersAtRandom(Honest):
    """An answer of two is drawn by nothing that is fixed."""

    spec = "liars:AnswersAtRandom"

    def off_path(self, observation: Observation) -> Observation:
        drawn = random.choice(["A clock ticks.", "A door creaks."])
        return replace(observation, text=f"{observation.text} {drawn}")


class Drifts(Honest):
    """Answers change with the number of steps since the process was started."""

    spec = "liars:Drifts"
    clock = count()

    def off_path(self, observation: Observation) -> Observation:
        return replace(observation, text=f"{observation.text} It is {next(Drifts.clock) // 8} o'clock.")


class DriftsWithTime(Honest):
    """Answers change with the time of the day."""

    spec = "liars:DriftsWithTime"

    def off_path(self, observation: Observation) -> Observation:
        return replace(observation, text=f"{observation.text} It is {time.perf_counter_ns() // 200_000} o'clock.")


class EndsOtherwise(Honest):
    """An action that is not the expert's ends the episode with a success, and in a copy it does not."""

    spec = "liars:EndsOtherwise"
    is_copy = False

    def off_path(self, observation: Observation) -> Observation:
        over = not self.is_copy and self.steps % 2 == 0
        return replace(observation, done=True, success=True, score=1.0) if over else observation

    def fork(self) -> Environment:
        other = deepcopy(self)
        other.is_copy = True
        return other


class ListsOtherwise(Honest):
    """The list of admissible actions has another one after a copy was made."""

    spec = "liars:ListsOtherwise"
    copied = False

    def off_path(self, observation: Observation) -> Observation:
        return observation

    def admissible(self) -> list[str]:
        return [*super().admissible(), *(["dance"] if self.copied else [])]

    def fork(self) -> Environment:
        other = deepcopy(self)
        self.copied = True
        return other


class ChangesItsTask(Honest):
    """The task in words is another one after some resets."""

    spec = "liars:ChangesItsTask"
    begun = 0

    def reset(self, task: dict) -> Observation:
        self.begun += 1
        return super().reset(task)

    def off_path(self, observation: Observation) -> Observation:
        return observation

    def instruction(self) -> str:
        return super().instruction() + (" Be quick." if self.begun > 3 else "")


class MasksAll(Drifts):
    """Answers drift, and the mask leaves nothing of any text."""

    spec = "liars:MasksAll"

    def mask(self, text: str) -> str:
        return ""


class MasksAllAlike(Drifts):
    """Answers drift, and the mask makes all texts the same one."""

    spec = "liars:MasksAllAlike"

    def mask(self, text: str) -> str:
        return "You see something."


class CachesInTheProcess(Honest):
    """The first answer to an action that is not the expert's stays in the memory of the process, for any state."""

    spec = "liars:CachesInTheProcess"
    cache: ClassVar[dict[str, int]] = {}

    def off_path(self, observation: Observation) -> Observation:
        heard = CachesInTheProcess.cache.setdefault(observation.text, self.heard)
        return replace(observation, text=f"{observation.text} {heard} said.")


class ListsByHash(Honest):
    """The list of admissible actions is in the order of a hash table, which differs from process to process."""

    spec = "liars:ListsByHash"

    def admissible(self) -> list[str]:
        return list(set(super().admissible()))


#: What nothing in one process finds: the path, the audit and the check in it are as they would be without the lie.
UNSEEN_IN_ONE_PROCESS = [CachesInTheProcess, ListsByHash]
MASKS = [MasksAll, MasksAllAlike]
LIARS = [
    RestoresPart,
    ScoresOtherwiseInCopies,
    LeaksAcrossResets,
    LeaksBetweenCopies,
    AnswersAtRandom,
    Drifts,
    DriftsWithTime,
    SharesState,
    CopiesAnotherState,
    EndsOtherwise,
    ListsOtherwise,
    ChangesItsTask,
]


class Hurried(Honest):
    """A room of every second task is described when it is entered for the first time in the process, and not again."""

    spec = "liars:Hurried"
    depends_on_timing = True
    seen: set[str] = set()

    def reset(self, task: dict) -> Observation:
        self.id, self.taken = task["id"], 0
        return super().reset(task)

    def step(self, action: str) -> Observation:
        observation = super().step(action)
        self.taken += 1
        if self.taken != 2 or int(self.id.rpartition("/")[2]) % 2 or self.id in self.seen:
            return observation
        self.seen.add(self.id)
        return replace(observation, text=f"{observation.text} All is quiet.")
