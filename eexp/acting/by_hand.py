"""An environment that a person plays by hand."""

from __future__ import annotations

from collections.abc import Callable

from eexp.envs.base import Environment, Observation
from eexp.envs.listing import equality_field, offered
from eexp.prompts.tool_calls import described_tool
from eexp.records.record import succeeded
from eexp.system.terminal import style


def play_by_hand(env: Environment, task: dict, read: Callable[[], str], show: Callable[[str], None]) -> dict:
    """Play one episode with actions of a person, and return it as a trajectory.

    Args:
        read: Returns the next action; "?" asks for the admissible actions, "!" for the expert's action, and "" ends the
            episode.
        show: Called with the text to show, which may have several lines.
    """
    first = observation = env.reset(task)
    instruction = env.instruction()
    show(style(instruction, bold=True))
    _show_observation(observation, show)
    steps = []
    while not observation.done and (action := read()):
        if action == "?":
            show("\n".join(f"  {a}" for a in env.admissible() or ["(no list)"]))
        elif action == "!":
            show(f"  {env.expert() or '(nothing to say)'}")
        else:
            listed = env.admissible()
            tools = offered(observation) if steps else {}
            state = {"observation": observation.text, "action": action, "admissible": listed, "thought": None, **tools}
            state |= {} if observation.imagined is None else {"imagined": observation.imagined}
            steps.append(state)
            observation = env.step(action)
            _show_observation(observation, show)
    trajectory = {
        "type": "trajectory",
        "id": f"{env.spec}/{task['id']}",
        "env": env.spec,
        "task": task,
        "instruction": instruction,
        **offered(first),
        "steps": steps,
        "outcome": observation.outcome(),
    }
    return trajectory | equality_field(env, trajectory)


def _show_observation(observation: Observation, show: Callable[[str], None]) -> None:
    """Show an observation, after the functions that come with it, one a line."""
    for tool in observation.tools or []:
        show(style(f"  {described_tool(tool)}", dim=True))
    show(style(observation.text, fg=None if observation.valid else "red"))
    if observation.done:
        score = "" if observation.score is None else f", score {observation.score:g}"
        success = ", success" if succeeded(observation.outcome()) else ", failure"
        if observation.imagined is not None:
            success = ", imagined"
        show(style(f"done{score}{success}", bold=True))
