"""Read episodes, as `eexp eval` writes them, as trajectories: an agent's own actions are experience, too.

Keeping the episodes that succeeded and training on them is rejection sampling fine-tuning (Yuan et al. 2023, arXiv
2308.01825); branching them is a further round of early experience.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from eexp.errors import InputError
from eexp.formats.conversations import Conversation
from eexp.records.equality import action_form
from eexp.records.imagination import imagined_by
from eexp.records.record import seed_of, succeeded

#: The keys of an episode that a trajectory holds in another form; all others are kept as its `source`.
_TAKEN_OVER = {"type", "env", "task", "instruction", "tools", "transcript", "final", "lineage"}


def conversation_of(episode: dict) -> Conversation:
    """Return an episode's turns as a conversation, for a replay. Raises InputError if the episode has no turns."""
    turns = episode.get("transcript") or []
    if not turns:
        raise InputError("no action in it", "$.transcript")
    steps = [
        {
            "observation": turn["observation"],
            "action": turn["action"],
            "admissible": turn.get("admissible"),
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
        # An action whose text was cut off was never valid, whatever the environment said of it.
        valid=[None if turn.get("cut_off") else turn.get("valid") for turn in turns],
    )


def trajectory_of(episode: dict, record_id: str, env: str | None = None) -> dict:
    """Return the trajectory that an episode holds, with admissible actions where its prompts listed them.

    Args:
        env: The environment's spec, where it is not the episode's.

    Raises:
        InputError: The episode has no turns.
    """
    conversation = conversation_of(episode)
    outcome = None
    if conversation.last is not None:
        last_turn = episode["transcript"][-1]
        # An episode does not hold the reason of its end; one that succeeded was over, another one may have been.
        outcome = {
            "observation": conversation.last,
            **({"done": True} if episode["success"] else {}),
            "score": conversation.score,
            "valid": last_turn.get("valid", True),
            "success": episode["success"],
            **({} if (world_model := imagined_by(episode)) is None else {"imagined": world_model}),
        }
    return {
        "type": "trajectory",
        "id": record_id,
        "env": env or episode["env"],
        "task": episode["task"],
        "instruction": conversation.instruction,
        **({} if episode.get("tools") is None else {"tools": episode["tools"]}),
        "steps": [
            step | {key: turn[key] for key in ("tools", "imagined") if turn.get(key) is not None}
            for step, turn in zip(conversation.steps, episode["transcript"])
        ],
        "outcome": outcome,
    }


def source_of(episode: dict) -> dict:
    """Return the model (`model`, `prompt_style`), the trial (`seed`) and all other fields that a trajectory lacks."""
    return {key: value for key, value in episode.items() if key not in _TAKEN_OVER}


@dataclass(frozen=True)
class Selection:
    """Conditions on trajectories that are imported."""

    success: bool = False  # accept only those that succeeded
    min_score: float | None = None  # accept only those that ended with this score or a higher one
    distinct: bool = False  # accept only the first of those with the same actions in one task

    def fault_of_end(self, outcome: dict | None) -> str | None:
        """Return why a trajectory with this outcome (`success`, `score`) is left out, or None."""
        if self.success and not succeeded(outcome):
            return "no success"
        score = (outcome or {}).get("score")
        if self.min_score is not None and (score is None or score < self.min_score):
            return f"no score of {self.min_score:g} or more"
        return None

    def fault_of(self, trajectory: dict, end: dict | None) -> str | None:
        """Return why a trajectory is left out for its actions or its end, or None."""
        if not trajectory["steps"]:
            return "every action was refused"
        if not all(step["action"].strip() for step in trajectory["steps"]):
            return "a turn without an action"
        return self.fault_of_end(end)


def actions_key(trajectory: dict) -> int:
    """Return a number that is equal for trajectories of one task with the same actions; thoughts do not count."""
    actions = map(action_form(trajectory), (step["action"] for step in trajectory["steps"]))
    return seed_of(trajectory["env"], trajectory["task"].get("id"), *actions)


class Selector:
    """Applies a Selection to trajectories one by one, and counts those left out and those that come twice.

    Args:
        earlier: Trajectories that an interrupted run has accepted already.
    """

    def __init__(
        self,
        selection: Selection,
        count: Callable[[str, int], None] = lambda what, n: None,
        earlier: Iterable[dict] = (),
    ):
        self.selection, self.count = selection, count
        self._keys = {actions_key(trajectory) for trajectory in earlier}

    def takes_end(self, episode: dict) -> bool:
        """Return whether an episode's end fits the selection, and count it if not."""
        return self._takes(self.selection.fault_of_end(episode))

    def takes(self, trajectory: dict, end: dict | None) -> bool:
        """Return whether a trajectory is accepted, and count it if not.

        Args:
            end: An outcome or an episode, with its `success` and `score`.
        """
        reason = self.selection.fault_of(trajectory, end)
        if reason is None:
            key = actions_key(trajectory)
            if key in self._keys and self.selection.distinct:
                reason = "the same actions as another of its task"
            elif key in self._keys:
                self.count("trajector[y|ies] with the same actions as another of [its|their] task", 1)
            self._keys.add(key)
        return self._takes(reason)

    def _takes(self, reason: str | None) -> bool:
        if reason is not None:
            self.count(f"trajector[y|ies] left out: {reason}", 1)
        return reason is None
