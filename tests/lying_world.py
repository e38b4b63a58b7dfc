"""An environment of a stranger's class that breaks the contract in one way, named by the option `lie` of its spec."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from eexp.envs import Environment, Observation

#: By lie: the method that lies, and what it returns. A dict changes fields of the observation.
LIES: dict[str, tuple[str, Any]] = {
    "none": ("step", None),
    "text": ("step", "You go on."),
    "bytes": ("step", {"text": b"You go on."}),
    "one": ("step", {"done": 1}),
    "nan": ("step", {"score": float("nan")}),
    "full": ("step", {"score": True}),
    "word": ("step", {"success": "yes"}),
    "zero": ("step", {"valid": 0}),
    "range": ("step", {"unknown": [3]}),
    "tools": ("step", {"tools": [{"type": "function"}]}),
    "start": ("reset", None),
    "string": ("admissible", "on back"),
    "numbers": ("admissible", ["on", 3]),
    "number": ("expert", 3),
    "list": ("explain", ["on"]),
    "nothing": ("instruction", None),
    "names": ("splits", "train"),
    "self": ("fork", None),
    "copy": ("fork", "a copy"),
    "perhaps": ("harmless", "no"),
    "masked": ("mask", None),
    "kind": ("kind_of", 7),
}


class Corridor(Environment):
    """Three steps forward are a success. `record_options` is left empty: records may not name it."""

    spec = "lying_world:Corridor"

    def __init__(self, lie: str = "", light: str = "") -> None:
        self._lie, self._at, self._resets = lie, 0, 0
        self.light = bool(light)

    def _said(self, method: str, truth: Any) -> Any:
        lying, lie = LIES.get(self._lie, ("", None))
        if method != lying:
            return truth
        return replace(truth, **lie) if isinstance(lie, dict) else self if self._lie == "self" else lie

    def splits(self) -> list[str]:
        return self._said("splits", ["train", "test"])

    def tasks(self, split: str) -> Iterator[dict]:
        yield from ({"id": f"{split}/{n}"} for n in range(2))

    def reset(self, task: dict) -> Observation:
        self._at, self._resets = 0, self._resets + 1
        differs = f" for the {self._resets}. time" if self._lie == "differs" else ""
        return self._said("reset", Observation(f"You are at the beginning{differs}."))

    def step(self, action: str) -> Observation:
        self._at += {"on": 1, "back": -1}.get(action, 0)
        return self._said("step", Observation(f"You are at {self._at}.", self._at == 3, float(self._at == 3)))

    def instruction(self) -> str:
        return self._said("instruction", "Go to 3.")

    def admissible(self) -> list[str]:
        return self._said("admissible", ["on", "back", "wait"])

    def expert(self) -> str | None:
        return self._said("expert", "on")

    def explain(self) -> str | None:
        return self._said("explain", f"3 lies ahead of {self._at}.")

    def fork(self) -> Environment:
        if self._lie == "named":  # a copy that does not come from the class that was opened
            twin = Corridor("none")
            twin._at = self._at
            return twin
        return self._said("fork", copy.copy(self))

    def harmless(self, action: str) -> bool:
        return self._said("harmless", False)

    def mask(self, text: str) -> str:
        return self._said("mask", text)

    def kind_of(self, task: dict) -> str | None:
        return self._said("kind_of", "corridor")
