"""What the list of records filters and sorts by, read off a record."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from eexp.records.imagination import imagined_by
from eexp.records.outcomes import OUTCOMES, marks_of, success_of

#: The groups of filters, in the order in which they are shown, with their names.
GROUPS = {
    "type": "Type",
    "kind": "Kind",
    "env": "Environment",
    "success": "Success",
    "outcome": "Outcomes of alternatives",
    "source": "Source of alternatives",
    "pool": "Pool",
    "transition": "Transition",
    "worse": "Rejected because",
    "stage": "Set aside by",
    "reason": "Reason",
    "difference": "Difference",
}


class Numbers(NamedTuple):
    """Numbers of a record that a list can be sorted by; nan for those that it has not."""

    steps: float = math.nan
    refused: float = math.nan
    logprob: float = math.nan
    gain: float = math.nan


#: The values of the filter by success, for what `success_of` returns and for what episodes hold.
_SUCCESS = {True: "yes", False: "no", None: "unknown"}

_MOST_DIGITS = 9  # of a step's number


def text_of(record: dict, key: str) -> str:
    """Return a text of a record; "" where there is none, or another value, as in fields that its type does not have."""
    value = record.get(key)
    return value if isinstance(value, str) else ""


def facets_of(record: dict) -> Iterator[tuple[str, str]]:
    """Yield the filters that a record fits: a key of GROUPS and a value."""
    kind = text_of(record, "type")
    yield "type", kind
    for key in ("kind", "env"):
        if text := text_of(record, key):
            yield key, text
    if kind == "trajectory":
        for step, marks in zip(record["steps"], marks_of(record), strict=True):
            for alternative, mark in zip(step.get("alternatives") or [], marks, strict=True):
                yield "outcome", OUTCOMES[mark]
                yield "source", alternative.get("source") or "none"
                if alternative.get("pool"):
                    yield "pool", alternative["pool"]
        if record.get("outcome"):
            is_real = imagined_by(record) is None
            yield "success", _SUCCESS[success_of(record["outcome"]) if is_real else None]
    elif kind == "episode":
        yield "success", _SUCCESS[record["success"]]
    elif kind == "example" and record.get("transition"):
        yield "transition", record["transition"]
    elif kind == "preference" and record.get("worse"):
        yield "worse", record["worse"]
    elif kind == "reject":
        yield "stage", text_of(record, "stage") or "none"
        yield "reason", reason_of(record)


def reason_of(reject: dict) -> str:
    """Return why a record was set aside, without what differs from record to record: places, names and numbers."""
    text, field = str(reject.get("error")), text_of(reject, "field")
    text = text.removeprefix(f"{field}: ") if field else text
    words = [word for word in text.split("'")[0].split() if not any(c.isdigit() for c in word)]
    return " ".join(words).rstrip(" :,")[:60] or "none"


def numbers_of(record: dict) -> Numbers:
    """Return the numbers that a list can be sorted by."""
    kind = record.get("type")
    if kind == "trajectory":
        alternatives = [a for step in record["steps"] for a in step.get("alternatives") or []]
        refused = sum((a.get("outcome") or {}).get("valid") is False for a in alternatives)
        return Numbers(len(record["steps"]), refused, _mean([a.get("logprob") for a in alternatives]))
    if kind == "episode":
        return Numbers(record["steps"], record.get("invalid", 0))
    if kind == "example":
        logprob = _mean([score.get("logprob") for score in record.get("scores") or []])
        return Numbers(logprob=logprob, gain=record.get("gain") or math.nan)
    return Numbers()


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def title_of(record: dict) -> str:
    """Return the line that names a record in the list: its instruction, or the end of what it says."""
    kind = record.get("type")
    if kind == "reject":
        return str(record.get("error"))
    if kind == "example" and record["completion"]:
        return _text(record["completion"][-1])
    if kind == "preference" and record["chosen"]:
        return _text(record["chosen"][-1])
    if kind == "task":
        return str(record["task"].get("id"))
    return text_of(record, "instruction") or text_of(record, "id")


def _text(message: dict[str, Any]) -> str:
    if message.get("tool_calls"):
        from eexp.prompts.tool_calls import action_of

        return "; ".join(map(action_of, message["tool_calls"]))
    return message.get("content") or ""


def parent_of(record: dict) -> str | None:
    """Return the id of the trajectory that a record was made from; of an episode, the name of its task."""
    kind = record.get("type")
    if kind == "reject":
        inner = record.get("record")
        return (text_of(inner, "id") or None) if isinstance(inner, dict) else None
    if kind in ("episode", "task"):
        return f"{record.get('env')} {record['task'].get('id')}"
    return text_of(record, "group") or text_of(record, "origin") or None


def step_of(record: dict) -> int | None:
    """Return the step of the trajectory that an example, a preference or a reject is about; None if not known."""
    if record.get("type") == "reject":
        place = text_of(record, "field").partition("$.steps[")[2].partition("]")[0]
    else:
        group = text_of(record, "group")
        place = text_of(record, "id").removeprefix(f"{group}/").partition("/")[0] if group else ""
    return int(place) if place.isdecimal() and len(place) <= _MOST_DIGITS else None
