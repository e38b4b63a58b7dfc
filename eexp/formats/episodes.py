"""Episodes, as `eexp eval` writes them, read as trajectories: what an agent did is experience, too.

Keeping those that succeeded and training on them is rejection sampling fine-tuning (Yuan et al. 2023, arXiv
2308.01825); branching them is another round of early experience.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from eexp.errors import InputError
from eexp.formats.conversations import Conversation
from eexp.records import canonical, seed_of, succeeded

#: The keys of an episode that a trajectory holds in another form; all others are kept as its `source`.
_TAKEN_OVER = {"type", "env", "task", "instruction", "transcript", "final", "lineage"}


def conversation_of(episode: dict) -> Conversation:
    """The episode's turns as a conversation, for a replay.

    Raises InputError, with its place, for an episode without turns.
    """
    turns = episode.get("transcript") or []
    if not turns:
        raise InputError("no action in it", "$.transcript")
    steps = [
        {
            "observation": turn["observation"],
            "action": turn["action"],
            "admissible": None,
            "thought": turn.get("thought") or None,
        }
        for turn in turns
    ]
    places = [f"$.transcript[{i}].observation" for i in range(len(turns))]
    return Conversation(
        episode.get("instruction") or "",
        steps,
        episode.get("final"),
        [[] for _ in range(len(turns) + 1)],
        [*places, "$.final"],
        complete=True,
        success=episode["success"],
        score=episode.get("score"),
    )


def trajectory_of(episode: dict, record_id: str, env: str | None = None) -> dict:
    """The trajectory that the episode alone tells of, without admissible actions. env: another environment's name."""
    found = conversation_of(episode)
    outcome = None
    if found.last is not None:
        last_turn = episode["transcript"][-1]
        # An episode says not why it ended; one that succeeded was over.
        outcome = {
            "observation": found.last,
            "done": episode["success"],
            "score": found.score,
            "valid": last_turn.get("valid", True),
            "success": episode["success"],
        }
    return {
        "type": "trajectory",
        "id": record_id,
        "env": env or episode["env"],
        "task": episode["task"],
        "instruction": found.instruction,
        "steps": found.steps,
        "outcome": outcome,
    }


def source_of(episode: dict) -> dict:
    """Who played (`model`, `prompt_style`), which trial (`seed`), and all else that the episode says of itself."""
    return {key: value for key, value in episode.items() if key not in _TAKEN_OVER}


@dataclass(frozen=True)
class Selection:
    """Which trajectories are wanted.

    success: only those that succeeded. min_score: only those that ended with this score or a higher one. distinct: of
    those of one task with the same actions, only the first.
    """

    success: bool = False
    min_score: float | None = None
    distinct: bool = False

    def against_end(self, outcome: dict | None) -> str | None:
        """Why something that ended with this `success` and `score` is left out, or None."""
        if self.success and not succeeded(outcome):
            return "no success"
        score = (outcome or {}).get("score")
        if self.min_score is not None and (score is None or score < self.min_score):
            return f"no score of {self.min_score:g} or more"
        return None

    def against(self, trajectory: dict, end: dict | None) -> str | None:
        """Why a trajectory is left out for its actions or its end, or None."""
        if not trajectory["steps"]:
            return "every action was refused"
        if not all(step["action"].strip() for step in trajectory["steps"]):
            return "a turn without an action"
        return self.against_end(end)


def actions_key(trajectory: dict) -> int:
    """The same for two trajectories of one task with the same actions, whatever was thought before them."""
    actions = [canonical(step["action"]) for step in trajectory["steps"]]
    return seed_of(trajectory["env"], trajectory["task"].get("id"), *actions)


class Selector:
    """Applies a Selection to trajectories one by one, and counts what it leaves out and what comes twice.

    written: trajectories that an interrupted run has taken already.
    """

    def __init__(
        self,
        selection: Selection,
        count: Callable[[str, int], None] = lambda what, n: None,
        written: Iterable[dict] = (),
    ):
        self.selection, self.count = selection, count
        self._keys = {actions_key(trajectory) for trajectory in written}

    def takes_end(self, episode: dict) -> bool:
        """Whether an episode that ended like this is wanted, whatever else is in it."""
        return self._takes(self.selection.against_end(episode))

    def takes(self, trajectory: dict, end: dict | None) -> bool:
        """Whether a trajectory is wanted. end: an outcome or an episode, with its `success` and `score`."""
        reason = self.selection.against(trajectory, end)
        if reason is None:
            key = actions_key(trajectory)
            if key in self._keys and self.selection.distinct:
                reason = "the same actions as another of its task"
            elif key in self._keys:
                self.count("with the same actions as another of their task", 1)
            self._keys.add(key)
        return self._takes(reason)

    def _takes(self, reason: str | None) -> bool:
        if reason is not None:
            self.count(f"left out: {reason}", 1)
        return reason is None
