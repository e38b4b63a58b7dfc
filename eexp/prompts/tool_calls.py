"""Actions as tool calls: in chat messages, and in the texts that language models write.

In a trajectory an action is text, a call in Python's notation (eexp/prompts/calls.py). In a chat it is OpenAI's
`tool_calls`, with the arguments as an object, as chat templates expect them. Between them is the text that a model
writes, whose form differs by family. A chat template writes calls into the history in the same form, so the form is
found by rendering one call. No table of families is needed, and llama.cpp and transformers read a model's text in the
same way (the parser of transformers itself needs a tokenizer with a `response_template`, which few bring). These forms
are known:

object  `{"name": ..., "arguments": {...}}` after a mark (Hermes, Qwen2.5 and 3: <tool_call>), perhaps in a list
        (Mistral: [TOOL_CALLS], Granite), or alone (Llama 3: `parameters`)
named   the name between marks, then the arguments as an object (Mistral since version 11: [TOOL_CALLS]name[ARGS]{...},
        DeepSeek, Kimi)
xml     `<function=name>` around `<parameter=key>value</parameter>` (Qwen3-Coder, Qwen3.5)
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eexp.prompts.calls import format_call, parse_call

Message = dict[str, Any]
Arguments = dict[str, Any]

_NAME, _KEY, _VALUE = "probe_function", "probe_key", "probe value"
#: The chat and the functions with which the form of a template is found.
PROBE_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": _NAME,
            "description": "A function.",
            "parameters": {
                "type": "object",
                "properties": {_KEY: {"type": "string", "description": "A value."}},
                "required": [_KEY],
            },
        },
    }
]
PROBE_PROMPT: list[Message] = [{"role": "user", "content": "?"}]
PRIVATE = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)  # the private thinking of a reasoning model
_JSON = json.JSONDecoder(strict=False)  # models write line ends into strings
_LARGEST = 2**63  # integers in records are below it


# -- actions and messages ----------------------------------------------------------------------------------------------


def call_id(number: int) -> str:
    """Return the id of the call at a step: nine letters and digits, as Mistral's templates demand."""
    return f"call{number:05d}"


def tool_call(action: str, number: int) -> dict | None:
    """Return an action as an entry of `tool_calls`; None where it is no call with JSON arguments, all by name.

    Args:
        number: The number of its step, which decides the id.
    """
    try:
        name, by_position, by_name = parse_call(action)
        arguments = {key: _json_value(value) for key, value in by_name.items()}
    except ValueError:
        return None
    return None if by_position else call_entry(name, arguments, number)


def call_message(name: str, arguments: Arguments, number: int = 0, content: str = "") -> Message:
    """Return the assistant's message with one call."""
    return {"role": "assistant", "content": content, "tool_calls": [call_entry(name, arguments, number)]}


def call_entry(name: str, arguments: Arguments, number: int) -> dict:
    """Return an entry of `tool_calls`."""
    return {"id": call_id(number), "type": "function", "function": {"name": name, "arguments": arguments}}


def action_of(call: dict) -> str:
    """Return an entry of `tool_calls` as an action."""
    return format_call(call["function"]["name"], call["function"]["arguments"])


def answer_to(message: Message, text: str) -> Message:
    """Return an observation as the message after the assistant's: of the tool that it called, or else of the user."""
    if not message.get("tool_calls"):
        return {"role": "user", "content": text}
    call = message["tool_calls"][0]
    return {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": text}


def _json_value(value: Any) -> Any:
    """Return a literal of Python as the JSON value that a record can hold; raise ValueError where there is none."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int) and -_LARGEST <= value < _LARGEST:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [_json_value(one) for one in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _json_value(one) for key, one in value.items()}
    raise ValueError(f"{value!r} is no JSON value")


def json_object(value: Any) -> Arguments | None:
    """Return an object of JSON values, which may be given as a string; None where it is none."""
    try:
        value = json.loads(value or "{}") if isinstance(value, (str, type(None))) else value
        return _json_value(value) if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        return None


def text_of_message(message: Message) -> str:
    """Return the whole text of a message: its content, and its calls as actions, one a line."""
    calls = [action_of(call) for call in message.get("tool_calls") or ()]
    return "\n".join([*([message["content"]] if message["content"] or not calls else []), *calls])


def described_tool(tool: dict) -> str:
    """Return a function as one line: its name, its parameters and the first sentence of its description."""
    function = tool["function"]
    about = (function.get("description") or "").strip().partition("\n")[0]
    return f"{function['name']}({', '.join(_properties(tool))})" + (f": {about}" if about else "")


def _properties(tool: dict) -> dict[str, Any]:
    """Return the schemas of a function's parameters by name; none where the environment describes none so."""
    properties = (tool["function"].get("parameters") or {}).get("properties")
    return properties if isinstance(properties, dict) else {}


# -- the texts of models -----------------------------------------------------------------------------------------------


def unprivate(text: str) -> str:
    """Return a text without the private thinking of a reasoning model, whose beginning may stand in the prompt."""
    return PRIVATE.sub("", text).rpartition("</think>")[2]


@dataclass(frozen=True)
class CallFormat:
    """The form in which a family of models writes calls."""

    kind: str  # "object", "named" or "xml"
    open: str = ""  # the mark before a call; "" where there is none
    between: str = ""  # for "named", the regular expression of what stands between name and arguments

    def read(self, text: str, tools: Sequence[dict]) -> Message:
        """Read a model's text as the assistant's message.

        Args:
            text: The text, with the special tokens that mark calls.
            tools: The functions that were offered, whose schemas give values without quotes their types.

        Returns:
            The message with all calls that can be read, and the text before the first one as its content. Where there
            is none, the whole text is the content; a call in it that cannot be read is one line, its last paragraph.
        """
        text = unprivate(text)
        calls = list(self._calls(text, tools))
        if not calls:
            mark = "<tool_call>" if self.kind == "xml" else self.open
            place = text.find(mark) if mark else -1
            if place >= 0:
                text = f"{text[:place].strip()}\n\n{' '.join(text[place:].split())}".strip()
            return {"role": "assistant", "content": text}
        message = call_message("", {}, content=text[: calls[0][0]].strip())
        message["tool_calls"] = [call_entry(name, arguments, n) for n, (_, name, arguments) in enumerate(calls)]
        return message

    def _calls(self, text: str, tools: Sequence[dict]) -> Iterator[tuple[int, str, Arguments]]:
        """Yield (start, name, arguments) of each call that can be read."""
        if self.kind == "xml":
            yield from _xml_calls(text, tools)
        elif self.kind == "named":
            for match in re.finditer(rf"{re.escape(self.open)}\s*(?P<name>[^\s\[<{{]+?)\s*{self.between}\s*", text):
                arguments, _ = _object_at(text, match.end())
                if arguments is not None:
                    yield match.start(), match["name"], arguments
        else:
            yield from self._object_calls(text)

    def _object_calls(self, text: str) -> Iterator[tuple[int, str, Arguments]]:
        start = text.find(self.open)
        at = start + len(self.open)
        while start >= 0 and (place := text.find("{", at)) >= 0:
            value, end = _object_at(text, place)
            call = None if value is None else _named_call(value)
            if call:
                yield min(start, place) if self.open else _without_tag(text, place), *call
            at = end if call else place + 1
            if self.open and call is None:
                start = text.find(self.open, at)
                at = start + len(self.open)


def _without_tag(text: str, place: int) -> int:
    """Return where a call begins that may have Llama's <|python_tag|> before it."""
    return place - len(_PYTHON_TAG) if text[:place].endswith(_PYTHON_TAG) else place


_PYTHON_TAG = "<|python_tag|>"


def _object_at(text: str, place: int) -> tuple[Arguments | None, int]:
    """Return the JSON object at a place, and where it ends; None where there is none."""
    try:
        value, end = _JSON.raw_decode(text, place)
    except (ValueError, RecursionError):
        return None, place
    return (value, end) if isinstance(value, dict) else (None, place)


def _named_call(value: dict) -> tuple[str, Arguments] | None:
    """Return the name and the arguments in an object that is a call; None for any other."""
    function = value.get("function")
    if isinstance(function, dict):
        value = function
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments, _ = _object_at(arguments, 0)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    try:
        return name, _json_value(arguments)
    except ValueError:
        return None


_FUNCTION = re.compile(r"(?:<tool_call>\s*)?<function=(?P<name>[^>\n]+)>(?P<body>.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>", re.DOTALL)


def _xml_calls(text: str, tools: Sequence[dict]) -> Iterator[tuple[int, str, Arguments]]:
    schemas = {tool["function"]["name"]: _properties(tool) for tool in tools}
    for match in _FUNCTION.finditer(text):
        types = schemas.get(match["name"], {})
        pairs = [(one["key"], one["value"]) for one in _PARAMETER.finditer(match["body"])]
        yield match.start(), match["name"], {key: _typed(value, types.get(key)) for key, value in pairs}


def _typed(text: str, schema: Any) -> Any:
    """Return a value that was written without quotes, with the type that its schema names; text where it has none."""
    kinds = schema.get("type") if isinstance(schema, dict) else None
    if kinds is None or "string" in kinds:  # one name, or a list of them
        return text
    for read in (json.loads, ast.literal_eval):  # templates write truth values as Python does
        try:
            return _json_value(read(text.strip()))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return text


# -- the form of a template --------------------------------------------------------------------------------------------


def probe_message() -> Message:
    """Return the assistant's message with the call by which the form of a template is found."""
    return call_message(_NAME, {_KEY: _VALUE})


def format_of(rendered: str) -> CallFormat | None:
    """Return the form in which a chat template writes calls; None for one that is not known here.

    Args:
        rendered: The text of `probe_message`, as the template writes it after the prompt.
    """
    if f"<function={_NAME}>" in rendered and f"<parameter={_KEY}>" in rendered:
        return CallFormat("xml")
    for place in (match.start() for match in re.finditer(r"\{", rendered)):
        value, _ = _object_at(rendered, place)
        if value is None:
            continue
        if _named_call(value) == (_NAME, {_KEY: _VALUE}):
            return CallFormat("object", _last_mark(rendered[:place]).rstrip("["))
        before, name, between = rendered[:place].rpartition(_NAME)
        if value == {_KEY: _VALUE} and name:
            parts = [re.escape(part.strip()) for part in between.split(call_id(0))]
            return CallFormat("named", _last_mark(before), r"[^\[<{]*?".join(parts))
    return None


def _last_mark(text: str) -> str:
    """Return the last word of a text."""
    return (text.split() or [""])[-1]
