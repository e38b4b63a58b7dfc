"""Mutations of a record's meaning: each of its fields is of the right type, but the record makes no sense."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from fuzz import hostile
from fuzz.mutations import Mutator

Mutation = Callable[[Mutator, dict], Any]


def _step(m: Mutator, t: dict) -> dict:
    """Return a step of a trajectory; a new one that belongs nowhere if it has none."""
    steps = [step for step in t.get("steps") or [] if isinstance(step, dict)]
    return m.rng.choice(steps) if steps else {"observation": "", "action": ""}


def _alternative(m: Mutator, t: dict) -> dict:
    step = _step(m, t)
    alternatives = step.get("alternatives")
    if not isinstance(alternatives, list) or not alternatives or not isinstance(alternatives[-1], dict):
        step["alternatives"] = [{"action": m.text(), "source": "policy"}]
    return m.rng.choice(step["alternatives"])


def _outcome(m: Mutator, t: dict) -> dict:
    holder = m.rng.choice([t, _alternative(m, t)])
    if not isinstance(holder.get("outcome"), dict):
        holder["outcome"] = {"observation": m.text()}
    return holder["outcome"]


def _shuffle(m: Mutator, t: dict) -> None:
    if isinstance(t.get("steps"), list):
        m.rng.shuffle(t["steps"])


def _drop_steps(m: Mutator, t: dict) -> None:
    t["steps"] = (t.get("steps") or [])[: m.rng.randrange(2)]


def _repeat_steps(m: Mutator, t: dict) -> None:
    t["steps"] = copy.deepcopy(t.get("steps") or []) * m.rng.choice([2, 3, 20])


def _no_outcome(m: Mutator, t: dict) -> None:
    alternative = _alternative(m, t)
    if m.rng.random() < 0.5:
        alternative["outcome"] = None
    else:
        alternative.pop("outcome", None)
    if m.rng.random() < 0.3:
        alternative["refused"] = m.text()


def _same_as_expert(m: Mutator, t: dict) -> None:
    step = _step(m, t)
    same = {"action": step["action"], "source": "policy", "outcome": {"observation": step["observation"]}}
    step["alternatives"] = [copy.deepcopy(same) for _ in range(m.rng.choice([1, 3, 40]))]


def _odd_alternative(m: Mutator, t: dict) -> None:
    alternative = _alternative(m, t)
    key = m.rng.choice(["action", "source", "pool", "refused", "logprob"])
    alternative[key] = m.text() if key != "logprob" else m._literal(m.rng.choice(["0", "1e308", "-1e308", "5"]))


def _odd_outcome(m: Mutator, t: dict) -> None:
    outcome = _outcome(m, t)
    outcome[m.rng.choice(["observation", "summary"])] = m.text()
    outcome["done"], outcome["valid"] = m.rng.random() < 0.5, m.rng.random() < 0.5
    outcome["success"] = m.rng.choice([None, True, False])
    outcome["score"] = m._literal(m.rng.choice(["null", "-1", "0", "1", "1.0", "2", "1e308", "0.999999999999999999"]))


def _unknown(m: Mutator, t: dict) -> None:
    """Give ranges that are reversed, overlap, or lie outside of the text."""
    number = lambda: m.rng.choice([-1, 0, 1, 3, 10, 10**6, 2**63 - 1, -(2**31)])  # noqa: E731
    ranges = [[number(), number()] for _ in range(m.rng.randrange(4))]
    m.rng.choice([_step(m, t), _outcome(m, t)])["unknown"] = ranges


def _odd_step(m: Mutator, t: dict) -> None:
    step = _step(m, t)
    step[m.rng.choice(["observation", "action", "thought", "notes", "summary"])] = m.text()
    step[m.rng.choice(["mistake", "noise"])] = True


def _admissible(m: Mutator, t: dict) -> None:
    step = _step(m, t)
    step["admissible"] = m.rng.choice(
        [[], [""], [m.text()], [step["action"]] * 5, [m.text() for _ in range(50)], [" ", ".", "!"], None]
    )
    step["admissible_count"] = m.rng.choice([None, -1, 0, 1, 10**9, 2**63 - 1])


def _all_mistakes(m: Mutator, t: dict) -> None:
    for step in t.get("steps") or []:
        if isinstance(step, dict):
            step["mistake"] = True


def _identity(m: Mutator, record: dict) -> None:
    """Give an id, origin, group, task, environment or lineage that another record has, or none should."""
    key = m.rng.choice(["id", "id", "env", "env", "task", "origin", "group", "lineage", "instruction", "type", "kind"])
    if key == "env":
        record["env"] = hostile.pick(m.rng, hostile.ENVIRONMENTS, hostile.CONTROL)
    elif key == "task":
        record["task"] = m.rng.choice(
            [{}, {"id": m.text()}, {"id": m._hostile()}, {"id": "train/3", "x": m._hostile()}]
        )
    elif key == "lineage":
        record["lineage"] = m.rng.choice([[], [""], [m.text()], [m.text()] * 100, ["expert 0.2.0", "mix 9.9.9 seed=x"]])
    else:
        record[key] = m.rng.choice([m.text(), hostile.pick(m.rng, hostile.NAMES, hostile.WORDS)])


def _other_type(m: Mutator, record: dict) -> None:
    """Mix the record with one of another kind."""
    other = copy.deepcopy(m.rng.choice(m.strangers))
    if m.rng.random() < 0.5:
        record.update({key: other[key] for key in other if key not in record})
    else:
        record.update(other)


def _span(m: Mutator, e: dict) -> None:
    number = lambda: m.rng.choice([0, 1, 2, 5, 100, 10**6, 2**63 - 1])  # noqa: E731
    weight = lambda: m._literal(m.rng.choice(["0", "1", "1e308", "0.5", "1e-320"]))  # noqa: E731
    names = ["thought", "action", "observation", "unknown", "", m.text()]
    spans = [
        {"name": m.rng.choice(names), "start": number(), "end": number(), "weight": weight()}
        for _ in range(m.rng.randrange(5))
    ]
    e["spans"] = m.rng.choice([spans, spans, [], None])


def _messages(m: Mutator, e: dict) -> None:
    key = m.rng.choice(["prompt", "completion"])
    roles = ["system", "user", "assistant", "tool"]
    n = m.rng.choice([1, 1, 2, 3, 10])
    e[key] = [{"role": m.rng.choice(roles), "content": m.rng.choice(["", m.text(), "look"])} for _ in range(n)]


def _weight(m: Mutator, e: dict) -> None:
    e["weight"] = m._literal(m.rng.choice(["0", "1e308", "1e-320", "0.5", "-0.0", "1", "1.7976931348623157e308"]))


def _score(m: Mutator, e: dict) -> None:
    e["scores"] = [{"span": m.text(), "logprob": m.rng.choice([0, -1e308, 5]), "tokens": m.rng.choice([0, 1, 2**40])}]
    e["gain"] = m.rng.choice([None, 0, 1e308, -1e308])
    e["transition"] = m.rng.choice([None, "", "invalid", "done", m.text()])
    e["target"] = m.rng.choice([None, "summary", "changes", m.text()])


def _episode(m: Mutator, e: dict) -> None:
    number = lambda: m.rng.choice([-1, 0, 1, 2**31, 2**53, 2**63 - 1])  # noqa: E731
    e[m.rng.choice(["seed", "steps", "invalid", "thoughts", "cut_off"])] = number()
    e["success"] = m.rng.random() < 0.5
    e["score"] = m.rng.choice([None, -1, 0, 1, 1e308])
    e[m.rng.choice(["split", "panel", "final", "model", "prompt_style", "instruction", "kind"])] = m.text()


def _turn(m: Mutator, e: dict) -> None:
    turns = e.get("transcript")
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        e["transcript"] = [{"observation": m.text(), "action": m.text()}]
    else:
        turn = m.rng.choice(turns)
        if isinstance(turn, dict):
            turn[m.rng.choice(["observation", "action", "text", "thought"])] = m.text()
            turn["valid"], turn["cut_off"] = m.rng.random() < 0.5, m.rng.random() < 0.5
        if m.rng.random() < 0.2:
            e["transcript"] = turns * m.rng.choice([0, 2, 30])


def _panel(m: Mutator, t: dict) -> None:
    t["split"] = m.rng.choice([None, "train", "test", m.text()])
    t["kind"] = m.rng.choice([None, m.text()])


def _conversation(m: Mutator, c: dict) -> None:
    """Reorder, remove, double or rewrite the turns of a conversation."""
    key = "messages" if "messages" in c else "conversations"
    turns = c.get(key)
    if not isinstance(turns, list) or not turns:
        c[key] = [{"role": "assistant", "content": m.text()}, {"from": "gpt", "value": m.text()}]
        return
    turn = m.rng.choice(turns)
    what = m.rng.randrange(6)
    if what == 0:
        m.rng.shuffle(turns)
    elif what == 1:
        turns.remove(turn)
    elif what == 2:
        turns.insert(m.rng.randrange(len(turns)), copy.deepcopy(turn))
    elif what == 3 and isinstance(turn, dict):
        turn["role" if "role" in turn else "from"] = m.rng.choice(
            ["user", "assistant", "system", "tool", "gpt", "human", ""]
        )
    elif what == 4 and isinstance(turn, dict):
        call = {"id": m.text(), "type": "function", "function": {"name": m.text(), "arguments": m.text()}}
        turn["tool_calls"] = m.rng.choice([[call], [call, call], [], [{}], None, m._hostile()])
        turn["content"] = m.rng.choice([None, "", [{"type": "text", "text": m.text()}], m.text()])
    elif isinstance(turn, dict):
        turn["content" if "content" in turn else "value"] = m.text()


def _name(m: Mutator, c: dict) -> None:
    c[m.rng.choice(["id", "item_id", "game_file", "data_idx"])] = m.rng.choice([m.text(), m._hostile(), 0, 2**63])


_ANY: list[Mutation] = [_identity, _identity, _other_type]
MEANINGS: dict[str, list[Mutation]] = {
    "trajectory": [
        _shuffle,
        _drop_steps,
        _repeat_steps,
        _no_outcome,
        _same_as_expert,
        _odd_alternative,
        _odd_outcome,
        _odd_outcome,
        _unknown,
        _unknown,
        _odd_step,
        _odd_step,
        _admissible,
        _all_mistakes,
        *_ANY,
    ],
    "example": [_span, _span, _messages, _messages, _weight, _score, *_ANY],
    "episode": [_episode, _episode, _turn, _turn, *_ANY],
    "task": [_panel, *_ANY],
    "messages": [_conversation, _conversation, _name],
    "conversations": [_conversation, _conversation, _name],
    "": [_identity],
}
