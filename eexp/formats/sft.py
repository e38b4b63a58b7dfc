"""Read and write rows of chat messages for training, in the form of the files that the paper's authors published.

expert_sft      imitation: a row is a whole episode, or an episode up to one answer. Every answer of the agent is
                learned
iwm_sft         world model: the last message is what is observed next. The messages before it hold the history and the
                action, often all in one
reflection_sft  reflections: the last message is a thought and the expert's action

A row is `{"messages": [{"role", "content"}, ...]}`, with `tool_calls` where the agent calls tools, and keys beside it
that differ from file to file, such as `metadata`, `case_id` or `tools`. This follows the scripts that wrote the files
(github.com/OSU-NLP-Group/EarlyExperience at f39f970). The rows do not say which trajectory they are from, nor which
outcome an action had, so they are read as examples, with the words that they have.

Rows that are written here hold all other fields of the example under `metadata.eexp`, from which it is read again.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson

from eexp.errors import InputError
from eexp.formats.conversations import calls_of, joined_parts
from eexp.formats.names import ROWS, WHOLE
from eexp.records.record import example
from eexp.records.spans import ACTION, OBSERVATION, THOUGHT, named_span
from eexp.records.types import check

_AGENT = "assistant"
_ROLES = ("system", "user", _AGENT, "tool")
_IN_MESSAGES = ("prompt", "completion", "tools")  # fields of an example that stand in the row itself
#: A thought before an action, with labels on lines of their own or in tags.
_FORMS = (
    re.compile(r"\AThought:\n.*\n\n(?=Action:\n)", re.DOTALL),
    re.compile(r"\A\s*<think>.*</think>\s*(?=<action>)", re.DOTALL),
)
#: Reflections may also be followed by a JSON object that is the action.
_BEFORE_OBJECT = re.compile(r"\A.*\n\n(?=\{.*\}\s*\Z)", re.DOTALL)


class Rows:
    """A reader of one file of rows."""

    def __init__(self, format: str, env: str, task_key: str | None = None) -> None:
        """Start a file.

        Args:
            format: A key of ROWS.
            env: The name of the environment, with which ids begin.
            task_key: The key of a row that names its task; without it, `id`, `case_id`, or `task_id` and `trial` of
                its metadata, and else the number of the row.
        """
        self._format, self._kind, self._env, self._task_key = format, ROWS[format], env, task_key
        self._number = 0
        self._ids: Counter[str] = Counter()
        self._learned: set[bytes] = set()

    def examples(self, row: dict) -> Iterator[dict]:
        """Yield the examples of a row, the first answer first.

        A row of expert_sft has one for each answer of the agent, but for those that an earlier row had after the same
        messages: where rows are beginnings of one episode, each answer is learned once. Other rows have one.

        Raises:
            InputError: The row cannot be read. The message names the place.
        """
        self._number += 1
        messages = row.get("messages")
        if not isinstance(messages, list):
            raise InputError("missing" if messages is None else "expected an array", "$.messages")
        own = _own_fields(row)
        if own is not None and messages and any(isinstance(it, dict) and it.get("tool_calls") for it in messages):
            yield self._written_here(messages, own, row.get("tools"))
            return
        chat = [_read_message(message, f"$.messages[{i}]") for i, message in enumerate(messages)]
        whole = self._kind == "imitation" and own is None
        if not any(message.role == _AGENT for message in (chat if whole else chat[-1:])):
            raise InputError("the last message is not the assistant's, so there is nothing to learn", "$.messages")
        if own is not None:
            yield self._written_here([message.as_dict() for message in chat], own, row.get("tools"))
            return
        group = f"{self._env}/{self._task_name(row)}"
        digest = hashlib.sha256()
        answers = 0
        for i, message in enumerate(chat):
            digest.update(orjson.dumps([message.role, message.text]))
            if message.role != _AGENT:
                continue
            answers += 1
            is_last = i + 1 == len(chat)
            if not i or not (self._kind == "imitation" or is_last):
                continue
            if not message.text.strip():
                if is_last:
                    raise InputError("the last message is empty, so there is nothing to learn", f"$.messages[{i}]")
                continue
            if self._kind == "imitation" and self._has_learned(digest.digest()[:16]):
                continue
            yield self._example(group, answers - 1, chat[:i], message)

    def _task_name(self, row: dict) -> str:
        if self._task_key:
            names = [row.get(self._task_key)]
        else:
            metadata = row.get("metadata")
            metadata = metadata if isinstance(metadata, dict) else {}
            names = [row.get("id"), row.get("case_id"), metadata.get("task_id")]
            if _is_name(names[-1]) and _is_name(metadata.get("trial")):
                names[-1] = f"{names[-1]}/{metadata['trial']}"
        name = next((name for name in names if _is_name(name)), None)
        if name is None and self._task_key:
            raise InputError("does not name its task; --task-key gives the key that does", f"$.{self._task_key}")
        return str(self._number if name is None else name)

    def _has_learned(self, answer: bytes) -> bool:
        """Return whether an answer after the same messages was met before, and remember it."""
        if answer in self._learned:
            return True
        self._learned.add(answer)
        return False

    def _example(self, group: str, answer: int, prompt: list[_ChatMessage], target: _ChatMessage) -> dict:
        name = f"{answer}/{self._kind}"
        self._ids[f"{group}/{name}"] += 1
        if (count := self._ids[f"{group}/{name}"]) > 1:
            name += f"#{count}"
        return example(
            {"id": group},
            name,
            self._kind,
            [message.as_dict() for message in prompt],
            [target.as_dict()],
            "",
            spans=_spans(target, self._kind),
            target="observation" if self._kind == "world_model" else "",
        )

    def _written_here(self, messages: list[dict], own: dict, tools: Any) -> dict:
        """Return the example that `to_row` wrote."""
        record = {**own, "prompt": messages[:-1], "completion": messages[-1:]}
        record |= {"tools": tools} if tools is not None else {}
        try:
            check(record, "example")
        except InputError as e:
            raise InputError(e.message, (e.where or "$").replace("$", "$.metadata.eexp", 1)) from None
        if record["kind"] != self._kind:
            name = next((format for format, kind in ROWS.items() if kind == record["kind"]), "no such file")
            raise InputError(f"an example of kind {record['kind']}, which is read as {name}", "$.metadata.eexp.kind")
        return record


class _ChatMessage:
    """One message: its role, and its text, of which the part from `action` on is a call of tools."""

    def __init__(self, role: str, text: str, action: int | None = None) -> None:
        self.role, self.text, self.action = role, text, action

    def as_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.text}


def _read_message(message: Any, at: str) -> _ChatMessage:
    if not isinstance(message, dict):
        raise InputError("expected an object", at)
    role, text = message.get("role"), joined_parts(message.get("content"), f"{at}.content")
    role = "system" if role == "developer" else role
    if role not in _ROLES:
        raise InputError(f"expected {' or '.join(_ROLES)}, got {role!r}", f"{at}.role")
    calls = message.get("tool_calls") if role == _AGENT else None
    if not calls:
        if not isinstance(text, str):
            raise InputError("expected a string", f"{at}.content")
        return _ChatMessage(role, text)
    if not isinstance(text, (str, type(None))):
        raise InputError("expected a string", f"{at}.content")
    thought = f"{text}\n\n" if text else ""
    actions = "\n".join(call.as_action(WHOLE) for call in calls_of(calls, f"{at}.tool_calls"))
    return _ChatMessage(role, thought + actions, len(thought))


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _spans(target: _ChatMessage, kind: str) -> list[dict]:
    """Return the thought and the action of an answer where they can be told apart, else the whole as one."""
    length = len(target.text)
    if kind == "world_model":
        return [named_span(OBSERVATION, 0, length)]
    start = target.action or 0
    if not start:
        forms = (*_FORMS, _BEFORE_OBJECT) if kind == "reflection" else _FORMS
        start = next((match.end() for form in forms if (match := form.match(target.text))), 0)
    return [*([named_span(THOUGHT, 0, start)] if start else []), named_span(ACTION, start, length)]


def _own_fields(row: dict) -> dict | None:
    """Return the fields that `to_row` has left in the row, or None."""
    metadata = row.get("metadata")
    own = metadata.get("eexp") if isinstance(metadata, dict) else None
    return own if isinstance(own, dict) else None


def to_row(record: dict) -> dict:
    """Return an example as a row: its messages, and under `metadata.eexp` all else.

    Raises:
        InputError: It is no example of one of ROWS, or its completion has several messages.
    """
    if record["type"] != "example" or record["kind"] not in ROWS.values():
        what = record["type"] if record["type"] != "example" else f"example of kind {record['kind']}"
        raise InputError(f"rows of messages are of examples of kind {', '.join(ROWS.values())}, not of {what}")
    if len(record["completion"]) != 1 or record["completion"][0]["role"] != _AGENT:
        raise InputError("a row has one message of the assistant to learn", "$.completion")
    messages = [*record["prompt"], *record["completion"]]
    return {
        "messages": messages,
        **({"tools": record["tools"]} if "tools" in record else {}),
        "metadata": {"eexp": {key: value for key, value in record.items() if key not in _IN_MESSAGES}},
    }
