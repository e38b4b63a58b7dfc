"""Environments with faults, for worker processes: this module imports little, so that each of them starts fast."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from eexp.envs.base import Environment, Observation
from eexp.envs.worlds.house import House


class Faulty(House):
    """A house whose process has faults. FAULTS is a folder; a fault happens once, when its file is there."""

    def step(self, action):
        faults = Path(os.environ["FAULTS"])
        here = f"{self.task['id'].replace('/', '-')}-{self.steps}"
        for kind in ("killed", "hung", "corrupted", "raised", "babbled", "grown", "unheld"):
            try:
                (faults / f"{here}.{kind}").unlink()
            except FileNotFoundError:
                continue
            getattr(self, kind)()
        return super().step(action)

    def killed(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def hung(self):
        time.sleep(600)

    def corrupted(self):
        self.where = dict.fromkeys(self.where, "desk")

    def raised(self):
        raise ValueError("the roof fell in")

    def babbled(self):
        os.write(1, b"printed by an environment\n")
        print("and more")

    def unheld(self):
        kill_actor()

    def grown(self):
        self.ballast = bytearray(600 << 20)
        for i in range(0, len(self.ballast), 4096):
            self.ballast[i] = 1
        time.sleep(600)


def kill_actor():
    """Kill the Ray actor that holds this process."""
    import psutil

    actor = next(p for p in psutil.Process().parents() if p.cmdline()[:1] and p.cmdline()[0].startswith("ray::"))
    actor.kill()
    time.sleep(600)


class Dying(House):
    def step(self, action):
        os.kill(os.getpid(), signal.SIGKILL)


class Unheld(House):
    """A house whose first task ends the Ray actor, every time."""

    def step(self, action):
        if self.task["id"] == "train/0":
            kill_actor()
        return super().step(action)


class Slow(House):
    light = False

    def step(self, action):
        time.sleep(0.2)
        return super().step(action)


def nap(job, opened, on_step):
    on_step()
    time.sleep(job["seconds"])
    return job["n"]


class Troubled(House):
    """A house with accidents, each where it finds its file in the folder FAULTS: STEP, dash, end of the task's id.

    One whose file ends in "-once" does not happen again.
    """

    light = False

    def step(self, action):
        here = f"{self.steps}-{self.task['id'].replace('/', '-')}"
        for kind in ("killed", "hung", "raised", "unspeakable"):
            for often in ("once", "always"):
                file = Path(os.environ["FAULTS"], f"{here}.{kind}-{often}")
                if file.exists():
                    if often == "once":
                        file.unlink()
                    return getattr(self, kind)()
        return super().step(action)

    def killed(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def hung(self):
        time.sleep(600)

    def raised(self):
        raise ValueError("the roof fell in")

    def unspeakable(self):
        observation = super().step("look")
        observation.text = "\ud800"
        return observation


class Fragile(Troubled):
    """The same in one process with others, for accidents that do not end the process."""

    light = True


class Wordy(House):
    """A house whose observations do not fit into a pipe."""

    light = False

    def reset(self, task):
        observation = super().reset(task)
        observation.text *= 10_000
        return observation


class Mortal(Environment):
    """Counts, with actions that kill or hang its process."""

    spec = "faulty_worlds:Mortal"
    in_process = True

    def splits(self):
        return ["train"]

    def tasks(self, split):
        return iter([{"id": "0", "split": "train"}])

    def reset(self, task):
        self.count = 0
        return Observation("0")

    def step(self, action):
        match action:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(600)
            case "raise":
                raise ValueError("the roof fell in")
        self.count += 1
        return Observation(str(self.count))
