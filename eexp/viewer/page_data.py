"""The answers that the page asks for, whether a server gives them or the page holds them: lists, records, states."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eexp.errors import EexpError, InputError
from eexp.records.outcomes import OUTCOMES, marks_of, success_of
from eexp.viewer.facets import parent_of, step_of, text_of, title_of
from eexp.viewer.index import ORDERS, Index, parse

_TITLE = 160  # characters of a record's line in the list
_LONGEST_TEXT = 100_000  # characters of a line that is shown as it is
_LARGEST_PICTURE = 8_000_000
_PICTURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def row(index: Index, entry: int) -> dict:
    """Return a record's line in the list."""
    base = {"entry": entry, "file": index.file[entry], "line": index.line[entry], "size": index.size[entry]}
    try:
        return {**base, **_row_of(parse(index.raw(entry)))}
    except Exception as e:
        return {**base, "type": "unreadable", "title": _in_words(e)[:_TITLE], "id": ""}


def _in_words(error: Exception) -> str:
    """Return why a line cannot be shown as a record; of a shape that is not expected here, with the type of error."""
    return str(error) if isinstance(error, EexpError) else f"{type(error).__name__}: {error}"


def _row_of(record: dict) -> dict:
    title = " ".join(title_of(record).split())[:_TITLE]
    line = {"type": record["type"], "title": title, "id": text_of(record, "id")}
    if kind := text_of(record, "kind"):
        line["kind"] = kind
    if (step := step_of(record)) is not None:
        line["step"] = step
    if record["type"] == "episode":
        line |= {"success": record["success"], "model": record.get("model")}
    if record["type"] == "trajectory":
        marks = [mark for step in marks_of(record) for mark in step]
        line["marks"] = {mark: marks.count(mark) for mark in OUTCOMES if mark in marks}
        line["steps"] = len(record["steps"])
    return line


def shown(index: Index, entry: int, tokens: Callable[[dict], list] | None = None) -> dict:
    """Return a record, with what the page says of it beside what it holds.

    Args:
        index: Of the files.
        entry: The record's number.
        tokens: Returns the tokens of an example, each with whether the loss falls on it; None to show text.
    """
    raw = index.raw(entry)
    place = {"entry": entry, "file": index.file[entry], "line": index.line[entry]}
    try:
        return {**place, **_answer(index, entry, parse(raw), tokens)}
    except Exception as e:
        return {**place, "error": _in_words(e), "text": raw.decode("utf-8", "replace")[:_LONGEST_TEXT]}


def _answer(index: Index, entry: int, record: dict, tokens: Callable[[dict], list] | None) -> dict:
    answer: dict[str, Any] = {"record": record}
    if record["type"] == "trajectory":
        answer["marks"] = marks_of(record)
        answer["success"] = success_of(record["outcome"]) if record.get("outcome") else None
        answer["then"] = [
            [[success_of(outcome) for outcome in alternative.get("then") or []] for alternative in _alternatives(step)]
            for step in record["steps"]
        ]
        answer["related"] = [row(index, other) for other in index.children(record["id"])]
    else:
        parent = parent_of(record)
        if parent and record["type"] in ("episode", "task"):
            answer["related"] = [row(index, other) for other in index.children(parent) if other != entry]
        elif parent and (origin := index.with_id(parent)) is not None:
            answer["related"] = [{**row(index, origin), "step": step_of(record)}]
    if tokens and record["type"] == "example":
        try:
            answer["tokens"] = tokens(record)
        except EexpError as e:  # the messages can still be shown
            answer["error"] = str(e)
    return answer


def state(index: Index) -> dict:
    """Return what is known of the files: their names, the filters, how much was read."""
    done, known = index.bytes_known()
    return {
        "files": [Path(file).name for file in index.files],
        "generation": index.generation,
        "records": len(index),
        "bytes": known,
        "read": done,
        "groups": index.groups(),
        "orders": ORDERS,
        "outcomes": OUTCOMES,
    }


def picture(index: Index, entry: int, name: str) -> tuple[str, bytes] | None:
    """Return the type and the contents of a picture that a record names; None where it cannot be shown.

    A record is not trusted: the file has to lie below this directory or that of its file of records, and to begin as a
    picture does.
    """
    try:
        if name not in pictures_of(parse(index.raw(entry))):
            return None
        for room in (Path(index.files[index.file[entry]]).resolve().parent, Path.cwd()):
            file = (room / name).resolve()
            if file.is_relative_to(room) and file.is_file() and file.stat().st_size <= _LARGEST_PICTURE:
                content = file.read_bytes()
                return next(((kind, content) for start, kind in _PICTURES.items() if content.startswith(start)), None)
    except (OSError, ValueError, InputError):
        pass
    return None


def pictures_of(record: dict) -> list[str]:
    """Return the files of pictures that a trajectory names."""
    if record.get("type") != "trajectory":
        return []
    alternatives = [alternative for step in record["steps"] for alternative in _alternatives(step)]
    states = [
        *record["steps"],
        *(alternative.get("outcome") or {} for alternative in alternatives),
        record.get("outcome") or {},
    ]
    return [state["screenshot"] for state in states if state.get("screenshot")]


def _alternatives(step: dict) -> list[dict]:
    return step.get("alternatives") or []


def as_link(kind: str, content: bytes) -> str:
    """Return a picture as a link that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
