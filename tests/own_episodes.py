"""Episodes of an agent, made by hand, and the weights of the examples that `eexp policy-data` makes of them."""

from __future__ import annotations

from eexp.examples.policy_gradient import policy_data
from eexp.examples.settings import PolicySettings
from eexp.prompts import get_style

STYLE = get_style("react")


def episode(task: str, trial: int, success: bool, turns: tuple[bool, ...] = (True,), **more: object) -> dict:
    """Return an episode; `turns` says which actions were valid."""
    return {
        "type": "episode",
        "id": f"world/{task}/{trial}",
        "env": "world",
        "task": {"id": task},
        "seed": trial,
        "success": success,
        "steps": len(turns),
        "instruction": "Get out.",
        "transcript": [
            {"observation": f"Room {i}.", "action": f"go {trial}", "text": f"Action: go {trial}", "valid": valid}
            for i, valid in enumerate(turns)
        ],
        "prompt_style": STYLE.label,
        **more,
    }


def weights(episodes: list[dict], **settings: object) -> dict[str, float]:
    made = policy_data(iter(episodes), STYLE, PolicySettings(**settings))
    return {e["id"].removeprefix("world/").removesuffix("/policy"): e["weight"] for e in made}
