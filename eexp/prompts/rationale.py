"""Reflections: composed by rule from recorded outcomes, and what a model's own must not say."""

from __future__ import annotations

import re

# Words of the training set-up that the policy never sees when it acts (about 16 % of published reflections had some).
_LEAKS = re.compile(
    r"\b(expert|demonstrat\w*|ground[- ]truth|gold (action|path)|as an ai|language model"
    r"|(action|option|alternative|possibility|candidate)\s*(#|number|no\.?)?\s*\d+)\b",
    re.IGNORECASE,
)
_WEIGHED = 2  # alternatives named in a rule's reflection: longer ones drown the action's few tokens in the loss
_GIST_WORDS = 14


def _gist(text: str) -> str:
    """What a reply amounts to: its first clause. Details behind a colon are nothing one could expect beforehand."""
    first = re.split(r"(?<=[.!?])\s|\n|:", " ".join(text.split()), maxsplit=1)[0].rstrip(".!?: ")
    words = first.split()
    return " ".join(words[:_GIST_WORDS]) + ("..." if len(words) > _GIST_WORDS else "")


def _weigh(alternative: dict, observation: str) -> str:
    outcome, action = alternative["outcome"], alternative["action"]
    if outcome.get("valid") is False:
        return f"To {action} would not work here."
    if outcome["observation"].strip() == observation.strip():
        return f"To {action} would change nothing."
    if outcome.get("done") and not outcome.get("success"):
        return f"To {action} would end it without success."
    return f"If I {action}, I expect: {_gist(outcome['observation'])}."


def compose(instruction: str, step: dict, outcome: dict) -> str:
    """A reflection by rule: the goal, up to two alternatives with what they would lead to, and the choice.

    Everything an action led to is put as an expectation. It claims no insight into why the choice is better than what
    the outcomes show: it is no substitute for a capable model's reflection, only better than none.
    """
    executed = [a for a in step.get("alternatives", []) if a.get("outcome")]
    said = [f"I need to do this: {' '.join(instruction.split())}"] if instruction else []
    said += [_weigh(a, step["observation"]) for a in executed[:_WEIGHED]]
    ends = " That completes the task." if outcome.get("done") and outcome.get("success") else ""
    said.append(f"So I rather {step['action']}, expecting: {_gist(outcome['observation'])}.{ends}")
    return " ".join(said)


def find_leak(text: str) -> str | None:
    """The first word in a reflection that gives away the set-up, or None."""
    found = _LEAKS.search(text)
    return found.group(0) if found else None


def once(text: str) -> str:
    """The text without a second copy of itself (about 3 % of long generations are written twice)."""
    text = text.strip()
    paragraphs = [p.strip() for p in text.split("\n\n") if p.strip()]
    half = len(paragraphs) // 2
    if half and paragraphs[:half] == paragraphs[half : 2 * half]:
        return "\n\n".join(paragraphs[:half])
    for cut in re.finditer(r"\s+", text):
        head, tail = text[: cut.start()], text[cut.end() :]
        if len(head) >= 20 and tail and head.startswith(tail) and len(tail) > 0.8 * len(head):
            return head
    return text
