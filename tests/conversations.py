"""Trajectories written in the formats of other projects, which `eexp import` reads."""

from __future__ import annotations

import json
from collections.abc import Callable


def messages_of(trajectory: dict, observations: bool = True) -> dict:
    """Return chat messages; without `observations`, the actions alone."""
    turns = [("assistant" if agent else "user", text) for agent, text in _turns(trajectory)]
    if not observations:
        turns = [turn for turn in turns if turn[0] == "assistant"]
    messages = [{"role": "system", "content": trajectory["instruction"]}]
    messages += [{"role": role, "content": text} for role, text in turns]
    return {"id": trajectory["task"]["id"], "messages": messages}


def calling_of(trajectory: dict) -> dict:
    """Return chat messages in which every action is the call of a tool."""
    record = messages_of(trajectory)
    for n, message in enumerate(record["messages"]):
        if message["role"] == "assistant":
            function = {"name": "act", "arguments": json.dumps({"command": message["content"]})}
            message |= {"content": None, "tool_calls": [{"id": f"call {n}", "type": "function", "function": function}]}
        elif n > 1 and message["role"] == "user":
            message |= {"role": "tool", "tool_call_id": f"call {n - 1}"}
    return record


def agenttraj_of(trajectory: dict, number: int) -> dict:
    """Return a record of ALFWorld as AgentTraj-L has it: the task after the first observation, actions after each."""
    turns = [
        {
            "from": "human",
            "loss": None,
            "value": 'Your output: "Thought:\nyour thoughts.\n\nAction:\nyour next action".',
        },
        {"from": "gpt", "loss": False, "value": "OK. I'll follow your instructions and try my best to solve the task."},
    ]
    task = f"\nYour task is to: {trajectory['instruction']}"
    lists = [f"\nAVAILABLE ACTIONS: {','.join(step['admissible'])}" for step in trajectory["steps"]]
    lists[0] = task + lists[0]
    for i, (agent, text) in enumerate(_turns(trajectory, lambda action: f"Thought:\nI need it.\n\nAction:\n{action}")):
        more = lists[i // 2] if not agent and i // 2 < len(lists) else ""
        turns.append({"from": "gpt" if agent else "human", "loss": True if agent else None, "value": text + more})
    return {"conversations": turns, "item_id": f"house_{number}"}


def eto_of(trajectory: dict, number: int) -> dict:
    """Return a record of ALFWorld as ETO has it: labels on one line, the game by its path."""
    turns = [
        {"from": "human", "value": "Interact with a household.\n\nAction: <your next action>"},
        {"from": "gpt", "value": "OK"},
    ]
    for i, (agent, text) in enumerate(_turns(trajectory, lambda action: f"Thought: I need it.\nAction: {action}")):
        if i == 0:
            text += f"\n\nYour task is to: {trajectory['instruction']}"
        elif not agent:
            text = f"Observation: {text}"
        turns.append({"from": "gpt" if agent else "human", "value": text})
    return {"id": number, "game_file": f"data/games/{trajectory['task']['id']}", "conversations": turns}


def _turns(trajectory: dict, act: Callable[[str], str] = str) -> list[tuple[bool, str]]:
    """Return the turns as pairs: whether it is the agent's turn, and its text."""
    turns = [
        turn for step in trajectory["steps"] for turn in ((False, step["observation"]), (True, act(step["action"])))
    ]
    return [*turns, (False, trajectory["outcome"]["observation"])] if trajectory["outcome"] else turns
