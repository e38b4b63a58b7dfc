"""Write runs as sessions for the trace viewer of Hugging Face's hub.

The hub takes one session a file, in one of a few forms. This one is the session format of Pi (version 3), which the hub
names for other programs, too: a header with the name of the program (`harness`), then entries that form a tree by `id`
and `parentId`. `datasets` reads such a file as one row of messages (datasets 5 with teich).

The task is the first message of the user, an observation the user's next one, and an action the assistant's, with its
thought. An alternative is a branch of its state: the action, its outcome, and what a policy did after it. The entries
of branches are of type custom_message, because programs that read messages in the order of the file, such as
`datasets`, would take messages of a branch for a part of the run. They stand before the action that was taken, so that
the last entry of the file, where Pi goes on, is the end of the run.

Everything else in the record stands under `eexp` in the header, and in the entry of the action.
"""

from __future__ import annotations

from typing import Any

from eexp import __version__
from eexp.formats.base import ExportFormat
from eexp.formats.logs import Log, log_of

_NO_TIME = "1970-01-01T00:00:00.000Z"  # records hold no times, and the format wants one
#: Records hold no counts of tokens, and the format wants them.
_NO_USAGE = {
    **dict.fromkeys(("input", "output", "cacheRead", "cacheWrite", "totalTokens"), 0),
    "cost": dict.fromkeys(("input", "output", "cacheRead", "cacheWrite", "total"), 0),
}
_OWN = "eexp"  # the key of fields that only records of eexp have, and the name of the program


class _Session:
    """The entries of one session, each with a number of its own as its id."""

    def __init__(self, header: dict) -> None:
        self.entries = [header]

    def add(self, parent: str | None, **fields: Any) -> str:
        """Add an entry after `parent`, and return its id."""
        entry_id = f"{len(self.entries):08x}"
        kind = fields.pop("type")
        self.entries.append({"type": kind, "id": entry_id, "parentId": parent, "timestamp": _NO_TIME, **fields})
        return entry_id

    def add_text(self, parent: str | None, text: str) -> str:
        """Add a message of the user."""
        return self.add(parent, type="message", message={"role": "user", "content": text, "timestamp": 0})

    def add_branch(self, parent: str | None, alternative: dict) -> None:
        """Add an alternative with its outcome, where it has one, and with what a policy did after it."""
        own = {k: v for k, v in alternative.items() if k not in ("outcome", "then")}
        parent = self._add_custom(parent, "alternative", alternative["action"], own)
        if outcome := alternative.get("outcome"):
            parent = self._add_outcome(parent, outcome)
        for step in alternative.get("then") or ():
            parent = self._add_custom(parent, "action", step["action"], {"thought": step.get("thought")})
            parent = self._add_outcome(parent, {k: v for k, v in step.items() if k not in ("action", "thought")})

    def _add_outcome(self, parent: str | None, outcome: dict) -> str:
        return self._add_custom(parent, "outcome", outcome["observation"], outcome)

    def _add_custom(self, parent: str | None, kind: str, text: str, details: dict) -> str:
        more = {"content": text, "display": True, "details": details}
        return self.add(parent, type="custom_message", customType=f"{_OWN}.{kind}", **more)


def to_session(log: Log) -> list[dict]:
    """Return a run as the lines of a session file: the header, and the entries."""
    name = log.instruction or log.id
    session = _Session(
        {
            "type": "session",
            "version": 3,
            "id": log.id,
            "timestamp": _NO_TIME,
            "cwd": "",
            "harness": _OWN,
            "name": name,
            _OWN: {"version": __version__, "success": log.success, "score": log.score, "record": log.about},
        }
    )
    last = session.add_text(None, log.instruction) if log.instruction else None
    for turn in log.turns:
        last = session.add_text(last, turn["observation"])
        for alternative in turn["others"].get("alternatives", ()):
            session.add_branch(last, alternative)
        thinking = [{"type": "thinking", "thinking": turn["thought"]}] if turn["thought"] else []
        message = {
            "role": "assistant",
            "content": [*thinking, {"type": "text", "text": turn["action"]}],
            "api": _OWN,
            "provider": _OWN,
            "model": log.model,
            "usage": _NO_USAGE,
            "stopReason": "stop",
            "timestamp": 0,
        }
        own = {**turn["more"], **{k: v for k, v in turn["others"].items() if k != "alternatives"}}
        last = session.add(last, type="message", message=message, **({_OWN: own} if own else {}))
    if log.last is not None:
        session.add_text(last, log.last)
    return session.entries


def as_session(record: dict, alternatives: bool = False) -> list[dict]:
    """Return a trajectory or an episode as the lines of a session file."""
    return to_session(log_of(record, alternatives))


SESSION = ExportFormat(as_session, with_alternatives=lambda record: as_session(record, True), file_each=True)
