"""Read trajectories that other projects write as conversations between the environment and an agent.

agenttraj  AgentTraj-L of AgentGym (Xi et al. 2024, arXiv 2406.04151): `conversations` of `{"from": "human" | "gpt",
           "value", "loss"}`, and `item_id`. The first turns, up to the last leading gpt turn with `loss` false, say how
           to answer and are dropped. A list of available actions at the end of an observation becomes `admissible`
eto        the expert data of ETO (Song et al. 2024, arXiv 2403.02502): the same without `loss`, and `game_file` or
           `id`. The first two turns are dropped where the second names no action ("OK")
sharegpt   chats of ShareGPT: `conversations` of `{"from": "system" | "human" | "gpt" | "observation", "value"}`, and
           `id`. "user", "assistant" and "tool" are read, too
messages   OpenAI's: `messages` of `{"role": "system" | "developer" | "user" | "assistant" | "tool", "content"}`, and
           `id`. A call of a tool is an action, and the tool's answer the observation after it. Several calls in one
           turn are one step each: the answer to one call is the observation before the next. `reasoning_content` is a
           thought

A block `<think>...</think>` at the beginning of an agent's text is a thought in each of them.

Where the first observation states the task on a line of its own ("Your task is to: ...", "Your goal: ..."), this line
is the instruction and no longer part of the observation; elsewhere the system's messages are the instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import orjson

from eexp.errors import InputError
from eexp.formats.names import ARGUMENT, IMPORT_FORMATS, MARKED, WHOLE
from eexp.prompts.calls import format_call
from eexp.records.types import Step, explain

SYSTEM, ENVIRONMENT, AGENT = "system", "environment", "agent"  # roles of speakers


class GraphBranch(dict):
    """A record that is a graph, as one of its branches.

    Attributes:
        whole: The record as it came.
        number: The number of the branch, from 1.
        leaf: Where it ends, as the format says it.
    """

    def __init__(self, whole: dict, number: int, leaf: Any) -> None:
        super().__init__(whole)
        self.whole, self.number, self.leaf = whole, number, leaf


@dataclass(frozen=True)
class Format:
    """A format of conversations: its keys, its speakers, and where its actions stand.

    Attributes:
        speaker, text: The keys of a turn's speaker and of its text.
        adapt: A function that turns a record of another format into one of this format.
        documents: A function that finds the records in files, where they are not one a line or the items of an array:
            it yields (file, number, JSON text).
        branches: A function that yields each branch of a record that is a graph. `adapt` takes branches, too.
    """

    turns: str  # the key of the list of turns
    speaker: str
    text: str
    roles: dict[str, str]  # the role of each speaker (SYSTEM, ENVIRONMENT or AGENT)
    task_keys: tuple[str, ...]  # keys that may hold the task's name, the best first
    action: str  # MARKED if an action stands after "Action:", WHOLE if it is the agent's whole text
    tools: bool = False  # whether the agent may call tools, as in OpenAI's messages
    adapt: Callable[[dict], dict] | None = None
    documents: Callable[[Sequence[str]], Iterator[tuple[str, int, bytes]]] | None = None
    branches: Callable[[dict], Iterator[GraphBranch]] | None = None

    def adapted(self, record: dict) -> dict:
        """Return a record in this format, adapted if it is in another one.

        Raises:
            InputError: The record does not follow its own format.
        """
        return self.adapt(record) if self.adapt else record


_SHAREGPT = {"system": SYSTEM, "human": ENVIRONMENT, "gpt": AGENT}
AGENTTRAJ_FORMAT = Format("conversations", "from", "value", _SHAREGPT, ("item_id",), MARKED)
ETO_FORMAT = Format("conversations", "from", "value", _SHAREGPT, ("game_file", "id"), MARKED)
SHAREGPT_FORMAT = Format(
    "conversations",
    "from",
    "value",
    {**_SHAREGPT, "observation": ENVIRONMENT, "user": ENVIRONMENT, "assistant": AGENT, "tool": ENVIRONMENT},
    ("id",),
    WHOLE,
)
MESSAGES_FORMAT = Format(
    "messages",
    "role",
    "content",
    {"system": SYSTEM, "developer": SYSTEM, "user": ENVIRONMENT, "assistant": AGENT, "tool": ENVIRONMENT},
    ("id",),
    WHOLE,
    tools=True,
)


def import_format(name: str) -> Format:
    """Return a format of conversations by its name; a function in the table makes chat messages of its records.

    Raises:
        UsageError: There is no format of this name.
        EexpError: It cannot be loaded.
    """
    format = IMPORT_FORMATS.load(name)
    return format if isinstance(format, Format) else replace(MESSAGES_FORMAT, adapt=format)


#: The fields of a step that a conversation has no place for.
_FURTHER_FIELDS = {*Step.__struct_fields__} - {"observation", "action", "thought"}

_TASK = re.compile(
    r"^[ \t]*(?:(?:Your (?:task is to|task|goal)|Task|Goal):[ \t]*(?P<after>\S.*?)"
    r"|(?P<line>Your task is to\b.*?))[ \t]*$",
    re.MULTILINE,
)
_HEADING = re.compile(r"^\s*Task Description:[ \t]*$", re.MULTILINE)
_AVAILABLE = re.compile(r"\s*^(?:AVAILABLE ACTIONS|Available actions):(.*)\s*\Z", re.MULTILINE)
_OBSERVATION = re.compile(r"\s*Observation:[ \t]*\n?")
_THOUGHT = re.compile(r"\A\s*Thought:\s*")
_THINKING = re.compile(r"\A\s*<think>(?P<thought>.*?)</think>\s*", re.DOTALL)
_ACTION_LINE, _ACTION = re.compile(r"^[ \t]*Action:", re.MULTILINE), re.compile(r"\bAction:")


@dataclass(frozen=True)
class Call:
    """A call of a tool."""

    id: str  # the id to which the tool's answer refers
    name: str  # the name of the function
    arguments: dict[str, Any]  # the arguments by name
    at: str  # the place of the call in the record, as a JSON path

    def as_action(self, how: str) -> str:
        """Return the action: the call in Python's notation or, for ARGUMENT, its only argument.

        Raises:
            InputError: `how` is ARGUMENT, and the call does not have exactly one argument, a string.
        """
        if how != ARGUMENT:
            return format_call(self.name, self.arguments)
        if len(self.arguments) != 1 or not isinstance(text := next(iter(self.arguments.values())), str):
            raise InputError("expected one argument, a string (--action argument)", f"{self.at}.function.arguments")
        return text.strip()


@dataclass
class Utterance:
    """One turn of a conversation."""

    role: str  # SYSTEM, ENVIRONMENT or AGENT
    text: str  # the text of the turn; beside a call, the text that is not the call
    at: str  # the place of the text in the record, as a JSON path
    loss: Any = None  # the turn's `loss` in AgentTraj-L
    call: Call | None = None  # the action, where it is a call of a tool
    #: The agent's thought before the text, from a field of the format or a leading `<think>` block.
    thought: str | None = None
    own: dict = field(default_factory=dict)  # further fields of the step, which `eexp export-log` has written


@dataclass
class Conversation:
    """A conversation that has been read.

    Attributes:
        recorded_forms: For each observation and for `last`, the forms in which the record has it: the whole turn, and
            the turn without its label and its list of actions, but with the task.
        success, score: The end according to the record, where it holds them.
        valid: For each action, whether the environment accepted it; None where the record does not say. Empty where it
            says so of none.
    """

    instruction: str  # the task in words
    steps: list[dict]  # steps as in a trajectory, except that `observation` is None where the agent acts twice in a row
    last: str | None  # the observation after the last action, or None
    recorded_forms: list[list[str]]
    places: list[str]  # for each observation and for `last`, its place in the record, as a JSON path
    complete: bool = False  # whether an empty observation is one that was empty, not one that was not recorded
    success: bool | None = None
    score: float | None = None
    valid: list[bool | None] = field(default_factory=list)


def task_name_of(record: dict, format: Format, key: str | None = None) -> str | None:
    """Return the record's name of its task, under `key` or under the format's own keys; None where it has none."""
    for value in (record.get(k) for k in ((key,) if key else format.task_keys)):
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return str(value)
    return None


def read_conversation(
    record: dict, format: Format, action: str | None = None, drop_closing: bool = False
) -> Conversation:
    """Read the steps of a record.

    Args:
        action: MARKED, WHOLE or ARGUMENT, where actions do not stand as is usual in the format.
        drop_closing: Whether to leave out the agent's last turn where it calls no tool and others do ("Done.").

    Raises:
        InputError: The record cannot be read: an action is missing or a speaker unknown, for instance. The message
            names the place.
    """
    how = action or format.action
    marked = how == MARKED
    utterances = _utterances(record, format)
    system_text = "\n\n".join(utterance.text for utterance in utterances if utterance.role == SYSTEM)
    utterances = _without_prompt([utterance for utterance in utterances if utterance.role != SYSTEM], format)
    if drop_closing and utterances and _is_closing(utterances):
        utterances.pop()
    steps, recorded_forms, places, current = [], [], [], None
    for utterance in utterances:
        if utterance.role == ENVIRONMENT:
            if current:
                raise InputError("two observations in a row: expected an action", utterance.at)
            current = utterance
            continue
        thought, act = _thought_and_action(utterance, how)
        observation, available = _observation_and_actions(current, marked)
        step = {"observation": observation, "action": act, "admissible": available, "thought": thought}
        steps.append({**step, **utterance.own})
        recorded_forms.append([current.text, observation] if current else [])
        places.append((current or utterance).at)
        current = None
    if not steps:
        raise InputError("no action in it", f"$.{format.turns}")
    last = _observation_and_actions(current, marked)[0]
    recorded_forms.append([current.text, last] if current else [])
    places.append((current or utterances[-1]).at)
    conversation = Conversation(system_text, steps, last, recorded_forms, places)
    _extract_task(conversation)
    return conversation


def _utterances(record: dict, format: Format) -> list[Utterance]:
    """Return the turns of a record in order; several calls of one turn are one each, before their answers."""
    turns = record.get(format.turns)
    if not isinstance(turns, list):
        raise InputError("missing" if turns is None else "expected an array", f"$.{format.turns}")
    utterances: list[Utterance] = []
    waiting: list[Utterance] = []  # calls of one turn that are not answered yet
    for i, turn in enumerate(turns):
        at = f"$.{format.turns}[{i}]"
        if not isinstance(turn, dict):
            raise InputError("expected an object", at)
        role, text = turn.get(format.speaker), turn.get(format.text)
        if not isinstance(role, str) or role not in format.roles:
            raise InputError(f"expected {' or '.join(format.roles)}, got {role!r}", f"{at}.{format.speaker}")
        thought = turn.get("reasoning_content") if format.tools else None
        own = _own_fields(turn.get("eexp"), f"{at}.eexp") if format.tools and format.roles[role] == AGENT else {}
        if format.tools:
            text = joined_parts(text, f"{at}.{format.text}")
        if format.roles[role] == AGENT and isinstance(text, str):
            thinking, text = split_thinking(text)
            thought = join_thoughts(thought, thinking)
        if format.tools:
            if role == "tool":
                if not isinstance(text, (str, type(None))):
                    raise InputError("expected a string", f"{at}.{format.text}")
                answer = Utterance(ENVIRONMENT, text or "", f"{at}.{format.text}")
                utterances += [_pop_answered(turn.get("tool_call_id"), waiting, f"{at}.tool_call_id"), answer]
                continue
            utterances += waiting
            waiting = []
            if turn.get("tool_calls") and format.roles[role] == AGENT:
                comment = join_thoughts(thought, text) or ""
                calls = calls_of(turn["tool_calls"], f"{at}.tool_calls")
                waiting = [Utterance(AGENT, "" if n else comment, call.at, call=call) for n, call in enumerate(calls)]
                waiting[0].own = own
                continue
        if not isinstance(text, str):
            raise InputError("expected a string", f"{at}.{format.text}")
        utterance = Utterance(format.roles[role], text, f"{at}.{format.text}", turn.get("loss"))
        utterance.thought, utterance.own = thought.strip() if isinstance(thought, str) else None, own
        utterances.append(utterance)
    return utterances + waiting


def _own_fields(own: Any, at: str) -> dict:
    """Return the fields of a step that `eexp export-log` has written beside its texts; {} where there are none.

    Raises:
        InputError: They are no fields of a step.
    """
    if own is None:
        return {}
    if not isinstance(own, dict):
        raise InputError("expected an object", at)
    fields = {name: value for name, value in own.items() if name in _FURTHER_FIELDS and value is not None}
    try:
        msgspec.convert({"observation": "", "action": "", **fields}, Step)
    except msgspec.ValidationError as e:
        error = explain(str(e))
        raise InputError(error.message, (error.where or "$").replace("$", at, 1)) from None
    return fields


def split_thinking(text: str) -> tuple[str | None, str]:
    """Split an agent's text into the contents of a leading `<think>` block, or None, and the text after the block."""
    block = _THINKING.match(text)
    return (block["thought"].strip(), text[block.end() :]) if block else (None, text)


def join_thoughts(*parts: Any) -> str | None:
    """Join the parts that are texts, one a line; return None where there is none."""
    return "\n".join(part for part in parts if isinstance(part, str) and part) or None


def joined_parts(content: Any, at: str) -> Any:
    """Join a message's content that is a list of parts of type text, as in OpenAI's messages.

    Args:
        content: The content; anything but a list is returned as it is.
        at: Its place in the record, as a JSON path.

    Raises:
        InputError: A part is no text.
    """
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for i, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise InputError("expected a part of type text", f"{at}[{i}]")
        texts.append(text)
    return "".join(texts)


def calls_of(tool_calls: Any, at: str) -> list[Call]:
    """Return the calls in a message's `tool_calls`; raise InputError, with the place, where they are no such list."""
    if not isinstance(tool_calls, list):
        raise InputError("expected an array", at)
    calls = []
    for i, call in enumerate(tool_calls):
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


def _pop_answered(call_id: Any, waiting: list[Utterance], at: str) -> Utterance:
    """Remove the call that a tool answers from those `waiting`, and return it."""
    for n, utterance in enumerate(waiting):
        if call_id is None or (utterance.call and utterance.call.id == str(call_id)):
            return waiting.pop(n)
    raise InputError(f"answers no call of the turn before: {call_id!r}", at)


def _without_prompt(utterances: list[Utterance], format: Format) -> list[Utterance]:
    """Drop the turns at the beginning that only tell the agent how to answer."""
    if format is AGENTTRAJ_FORMAT:
        answers = [utterance for utterance in utterances if utterance.role == AGENT]
        first = next((i for i, utterance in enumerate(answers) if utterance.loss is not False), len(answers))
        return utterances[utterances.index(answers[first - 1]) + 1 :] if first else utterances
    if format is ETO_FORMAT and [utterance.role for utterance in utterances[:2]] == [ENVIRONMENT, AGENT]:
        return utterances if _ACTION.search(utterances[1].text) else utterances[2:]
    return utterances


def _is_closing(utterances: list[Utterance]) -> bool:
    """Return whether a conversation of calls ends in a turn of the agent that is none."""
    last = utterances[-1]
    return last.role == AGENT and not last.call and any(utterance.call for utterance in utterances)


def _thought_and_action(utterance: Utterance, how: str) -> tuple[str | None, str]:
    """Return the thought, or None, and the action in a turn of the agent.

    Raises:
        InputError: There is no action, or more than one "Action:".
    """
    text = utterance.text
    if utterance.call:
        thought, action = text.strip() or None, utterance.call.as_action(how)
    elif how != MARKED:
        thought, action = utterance.thought or None, text.strip()
    else:
        marks = list(_ACTION_LINE.finditer(text)) or list(_ACTION.finditer(text))
        if len(marks) != 1:
            raise InputError(f'expected one "Action:", found {len(marks) or "none"}', utterance.at)
        thought = join_thoughts(utterance.thought, _THOUGHT.sub("", text[: marks[0].start()], count=1).strip())
        action = text[marks[0].end() :].strip()
    if not action:
        raise InputError("the action is empty", utterance.at)
    return thought, action


def _observation_and_actions(utterance: Utterance | None, marked: bool) -> tuple[str | None, list[str] | None]:
    """Return the observation without its label, and the actions that it lists as available.

    Both are None where there is no turn of the environment, the second also where there is no such list.
    """
    if utterance is None:
        return None, None
    if not marked:
        return utterance.text, None
    label = _OBSERVATION.match(utterance.text)
    text = utterance.text[label.end() :] if label else utterance.text
    line = _AVAILABLE.search(text)
    available = _parse_actions(line[1].strip()) if line else None
    return (text[: line.start()], available) if line and available is not None else (text, None)


def _extract_task(conversation: Conversation) -> None:
    """Make the line that states the task the instruction, and leave it out of the first observation."""
    text = conversation.steps[0]["observation"] or ""
    if task := _TASK.search(text):
        conversation.instruction = task["after"] or task["line"]
        conversation.steps[0]["observation"] = _HEADING.sub("", text[: task.start()] + text[task.end() :]).strip()


def _parse_actions(text: str) -> list[str] | None:
    """Parse `["turn left", "turn right"]` or `look,go to bed 1`; return None where it is no such list."""
    if not text.startswith("["):
        return [action.strip() for action in text.split(",") if action.strip()]
    try:
        actions = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return actions if all(isinstance(action, str) for action in actions) else None
