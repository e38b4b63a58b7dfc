"""Trajectories as other projects write them: conversations, in which the world and the agent speak in turn.

agenttraj  AgentTraj-L of AgentGym (Xi et al. 2024, arXiv 2406.04151): `conversations` of `{"from": "human" | "gpt",
           "value", "loss"}`, and `item_id`. What comes first is how to answer, up to the last leading gpt turn with
           `loss` false; it is dropped. A list of available actions at the end of an observation becomes `admissible`
eto        the expert data of ETO (Song et al. 2024, arXiv 2403.02502): the same without `loss`, and `game_file` or
           `id`. The first two turns are dropped where the second names no action ("OK")
messages   OpenAI's: `messages` of `{"role": "system" | "developer" | "user" | "assistant" | "tool", "content"}`, and
           `id`. A call of a tool is an action, and the tool's answer what is observed. Of several calls in one turn,
           each is a step: what the one before it answered is seen before the next. `reasoning_content` is a thought

Where the first observation says the task on a line of its own ("Your task is to: ...", "Your goal: ..."), this line is
the instruction and no longer part of the observation; elsewhere what the system says is the instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from eexp.errors import InputError

SYSTEM, WORLD, AGENT = "system", "world", "agent"
MARKED, WHOLE, ARGUMENT = "marked", "whole", "argument"


@dataclass(frozen=True)
class Format:
    """Where a format keeps things.

    turns, speaker, text: keys. roles: what each speaker is here. task_keys: keys that may name the task, the best first.
    action: whether an action stands after "Action:" (MARKED) or is all that the agent says (WHOLE). tools: whether the
    agent may call tools, as in OpenAI's messages. adapt: makes such a record of another form's.
    """

    turns: str
    speaker: str
    text: str
    roles: dict[str, str]
    task_keys: tuple[str, ...]
    action: str
    tools: bool = False
    adapt: Callable[[dict], dict] | None = None

    def adapted(self, record: dict) -> dict:
        """Return a record in this form, where it came in another; raises InputError for what it should not hold."""
        return self.adapt(record) if self.adapt else record


_SHARED = {"human": WORLD, "gpt": AGENT}
FORMATS = {
    "agenttraj": Format("conversations", "from", "value", _SHARED, ("item_id",), MARKED),
    "eto": Format("conversations", "from", "value", _SHARED, ("game_file", "id"), MARKED),
    "messages": Format(
        "messages",
        "role",
        "content",
        {"system": SYSTEM, "developer": SYSTEM, "user": WORLD, "assistant": AGENT, "tool": WORLD},
        ("id",),
        WHOLE,
        tools=True,
    ),
}

_TASK = re.compile(
    r"^[ \t]*(?:(?:Your (?:task is to|task|goal)|Task|Goal):[ \t]*(?P<after>\S.*?)"
    r"|(?P<line>Your task is to\b.*?))[ \t]*$",
    re.MULTILINE,
)
_HEADING = re.compile(r"^\s*Task Description:[ \t]*$", re.MULTILINE)
_AVAILABLE = re.compile(r"\s*^(?:AVAILABLE ACTIONS|Available actions):(.*)\s*\Z", re.MULTILINE)
_OBSERVATION = re.compile(r"\s*Observation:[ \t]*\n?")
_THOUGHT = re.compile(r"\A\s*Thought:\s*")
_ACTION_LINE, _ACTION = re.compile(r"^[ \t]*Action:", re.MULTILINE), re.compile(r"\bAction:")


@dataclass(frozen=True)
class Call:
    """A call of a tool: the name of the function, and its arguments by their names."""

    id: str
    name: str
    arguments: dict[str, Any]
    at: str

    def as_action(self, how: str) -> str:
        """The action: the call in Python's notation or, for ARGUMENT, the only argument.

        Raises InputError where there is not one argument, a string.
        """
        if how != ARGUMENT:
            return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"
        if len(self.arguments) != 1 or not isinstance(text := next(iter(self.arguments.values())), str):
            raise InputError("expected one argument, a string (--action argument)", f"{self.at}.function.arguments")
        return text.strip()


@dataclass
class Utterance:
    """What one of the two says. at: its place in the record, as a JSON path.

    call: the action, where it is a call; the text then is what is said beside it. thought: what the agent thought
    before the text, where that stands by itself.
    """

    role: str
    text: str
    at: str
    loss: Any = None
    call: Call | None = None
    thought: str | None = None


@dataclass
class Conversation:
    """A conversation read.

    steps: as in a trajectory, except that `observation` is None where the agent acts twice in a row. last: what was
    seen after the last action, or None. recorded_forms, places: for each observation and for `last`, the forms in which the
    world said it (the whole turn, and the turn without its label and list, but with the task), and where it stands in
    the record. complete: an empty observation is one that was seen, not one that was not recorded. success, score: how
    the record says it ended, where it does.
    """

    instruction: str
    steps: list[dict]
    last: str | None
    recorded_forms: list[list[str]]
    places: list[str]
    complete: bool = False
    success: bool | None = None
    score: float | None = None


def task_name_of(record: dict, format: Format, key: str | None = None) -> str | None:
    """What the record calls its task, by `key` or by the format's own keys; None where it has none."""
    for found in (record.get(k) for k in ((key,) if key else format.task_keys)):
        if isinstance(found, (str, int)) and not isinstance(found, bool):
            return str(found)
    return None


def read_conversation(record: dict, format: Format, action: str | None = None) -> Conversation:
    """The steps in `record`. action: MARKED, WHOLE or ARGUMENT, where it is not as usual in the format.

    Raises InputError, with its place, for what cannot be told: an action that is not there, an unknown speaker.
    """
    how = action or format.action
    marked = how == MARKED
    turns = _turns(record, format)
    said_by_system = "\n\n".join(turn.text for turn in turns if turn.role == SYSTEM)
    turns = _without_prompt([turn for turn in turns if turn.role != SYSTEM], format)
    steps, recorded_forms, places, now = [], [], [], None
    for turn in turns:
        if turn.role == WORLD:
            if now:
                raise InputError("two observations in a row: expected an action", turn.at)
            now = turn
            continue
        thought, act = _acts(turn, how)
        seen, available = _sees(now, marked)
        steps.append({"observation": seen, "action": act, "admissible": available, "thought": thought})
        recorded_forms.append([now.text, seen] if now else [])
        places.append((now or turn).at)
        now = None
    if not steps:
        raise InputError("no action in it", f"$.{format.turns}")
    last = _sees(now, marked)[0]
    recorded_forms.append([now.text, last] if now else [])
    places.append((now or turns[-1]).at)
    found = Conversation(said_by_system, steps, last, recorded_forms, places)
    _take_out_task(found)
    return found


def _turns(record: dict, format: Format) -> list[Utterance]:
    listed = record.get(format.turns)
    if not isinstance(listed, list):
        raise InputError("missing" if listed is None else "expected an array", f"$.{format.turns}")
    made: list[Utterance] = []
    waiting: list[Utterance] = []  # calls of one turn, the answers to which have not come yet
    for i, turn in enumerate(listed):
        at = f"$.{format.turns}[{i}]"
        if not isinstance(turn, dict):
            raise InputError("expected an object", at)
        role, text = turn.get(format.speaker), turn.get(format.text)
        if not isinstance(role, str) or role not in format.roles:
            raise InputError(f"expected {' or '.join(format.roles)}, got {role!r}", f"{at}.{format.speaker}")
        if format.tools:
            text = _text_of_parts(text, f"{at}.{format.text}")
            if role == "tool":
                if not isinstance(text, (str, type(None))):
                    raise InputError("expected a string", f"{at}.{format.text}")
                answer = Utterance(WORLD, text or "", f"{at}.{format.text}")
                made += [_answered(turn.get("tool_call_id"), waiting, f"{at}.tool_call_id"), answer]
                continue
            made += waiting
            waiting = []
            thought = turn.get("reasoning_content")
            if turn.get("tool_calls") and format.roles[role] == AGENT:
                said = "\n".join(part for part in (thought, text) if isinstance(part, str) and part)
                calls = _calls(turn["tool_calls"], f"{at}.tool_calls")
                waiting = [Utterance(AGENT, "" if n else said, call.at, call=call) for n, call in enumerate(calls)]
                continue
        if not isinstance(text, str):
            raise InputError("expected a string", f"{at}.{format.text}")
        made.append(Utterance(format.roles[role], text, f"{at}.{format.text}", turn.get("loss")))
        if format.tools and isinstance(thought, str):
            made[-1].thought = thought
    return made + waiting


def _text_of_parts(content: Any, at: str) -> Any:
    """The text of OpenAI's content, which may be a list of parts; anything else is returned as it came."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError("expected a part of type text", f"{at}[{i}]")
    return "".join(texts)


def _calls(listed: Any, at: str) -> list[Call]:
    if not isinstance(listed, list):
        raise InputError("expected an array", at)
    calls = []
    for i, call in enumerate(listed):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InputError('expected {"id": ..., "function": {"name": ..., "arguments": ...}}', f"{at}[{i}]")
        arguments = function.get("arguments") or {}
        try:
            arguments = orjson.loads(arguments) if isinstance(arguments, str) else arguments
        except orjson.JSONDecodeError as e:
            raise InputError(f"not valid JSON: {e}", f"{at}[{i}].function.arguments") from None
        if not isinstance(arguments, dict):
            raise InputError("expected an object", f"{at}[{i}].function.arguments")
        calls.append(Call(str(call.get("id") or i), function["name"], arguments, f"{at}[{i}]"))
    return calls


def _answered(call_id: Any, waiting: list[Utterance], at: str) -> Utterance:
    """Take the call that a tool answers out of those `waiting`."""
    for n, turn in enumerate(waiting):
        if call_id is None or (turn.call and turn.call.id == str(call_id)):
            return waiting.pop(n)
    raise InputError(f"answers no call of the turn before: {call_id!r}", at)


def _without_prompt(turns: list[Utterance], format: Format) -> list[Utterance]:
    """What is left without the turns in which the agent is told how to answer."""
    if format is FORMATS["agenttraj"]:
        said = [turn for turn in turns if turn.role == AGENT]
        learned = next((i for i, turn in enumerate(said) if turn.loss is not False), len(said))
        return turns[turns.index(said[learned - 1]) + 1 :] if learned else turns
    if format is FORMATS["eto"] and [turn.role for turn in turns[:2]] == [WORLD, AGENT]:
        return turns if _ACTION.search(turns[1].text) else turns[2:]
    return turns


def _acts(turn: Utterance, how: str) -> tuple[str | None, str]:
    """(thought, action)"""
    if turn.call:
        thought, action = turn.text.strip() or None, turn.call.as_action(how)
    elif how != MARKED:
        thought, action = (turn.thought or "").strip() or None, turn.text.strip()
    else:
        marks = list(_ACTION_LINE.finditer(turn.text)) or list(_ACTION.finditer(turn.text))
        if len(marks) != 1:
            raise InputError(f'expected one "Action:", found {len(marks) or "none"}', turn.at)
        thought = _THOUGHT.sub("", turn.text[: marks[0].start()], count=1).strip() or None
        action = turn.text[marks[0].end() :].strip()
    if not action:
        raise InputError("the action is empty", turn.at)
    return thought, action


def _sees(turn: Utterance | None, marked: bool) -> tuple[str | None, list[str] | None]:
    """(the observation without its label, the actions that it says are available)"""
    if turn is None or not marked:
        return turn and turn.text, None
    label = _OBSERVATION.match(turn.text)
    text = turn.text[label.end() :] if label else turn.text
    line = _AVAILABLE.search(text)
    available = _actions(line[1].strip()) if line else None
    return (text, None) if available is None else (text[: line.start()], available)


def _take_out_task(found: Conversation) -> None:
    """Make the line that says the task the instruction, and leave it out of the first observation."""
    text = found.steps[0]["observation"] or ""
    if task := _TASK.search(text):
        found.instruction = task["after"] or task["line"]
        found.steps[0]["observation"] = _HEADING.sub("", text[: task.start()] + text[task.end() :]).strip()


def _actions(listed: str) -> list[str] | None:
    """From `["turn left", "turn right"]` or `look,go to bed 1`; None where it is no such list."""
    if not listed.startswith("["):
        return [action.strip() for action in listed.split(",") if action.strip()]
    try:
        actions = orjson.loads(listed)
    except orjson.JSONDecodeError:
        return None
    return actions if all(isinstance(action, str) for action in actions) else None
