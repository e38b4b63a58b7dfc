"""The types of records as classes, the check of a record, and JSON Schemas.

The classes only describe records, which are dicts (eexp/records/record.py): `check` compares a dict with one of them,
and `eexp schema` prints them as JSON Schema.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Optional

import msgspec
from msgspec import Meta, Struct

from eexp.errors import InputError, short
from eexp.records.record import LARGEST_WEIGHT


def _note(text: str) -> Meta:
    """Return what a field says of itself in its JSON Schema."""
    return Meta(description=text)


# Optional[...] rather than `| None`: msgspec evaluates these annotations, and Python 3.10 is supported.

_Lineage = Annotated[list[str], _note("the stages that made the record, with version and settings, oldest first")]
_Actions = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Range = Annotated[list[int], Meta(min_length=2, max_length=2)]
_Unknown = Annotated[
    Optional[list[_Range]],
    _note("[start, end) of the parts of the observation that nothing before in the episode determines"),
]
_Changed = Annotated[
    Optional[bool], _note("true where the action changed the state, though the text may repeat the last one")
]
_Screenshot = Annotated[Optional[str], _note("file of a picture of the observation, where one was kept")]
_Summary = Annotated[Optional[str], _note("the observation in fewer words, by `eexp summarise`")]
_PromptStyle = Annotated[Optional[str], _note("name@fingerprint of the words around a state")]


class Function(Struct, kw_only=True):
    """A function that an agent may call."""

    name: str
    description: str = ""
    parameters: Annotated[dict[str, Any], _note("JSON Schema of an object: the arguments by name")] = {}


class Tool(Struct, kw_only=True):
    """A function that an environment offers, in the form of OpenAI's `tools`."""

    type: Literal["function"]
    function: Function


_Tools = Annotated[Optional[list[Tool]], _note("the functions that the environment offers from here on")]

_Interface = Annotated[
    Optional[dict[str, Any]], _note("what a `changed:` environment did to the observation, by the kind of change")
]
_Imagined = Annotated[
    Optional[str], _note("fingerprint of the world model that wrote the observation; absent in a real environment")
]


class Outcome(Struct, kw_only=True):
    """The environment's answer to one action."""

    observation: str
    done: bool = False
    score: Annotated[Optional[float], _note("0 to 1, as the environment scores the episode so far")] = None
    valid: Annotated[bool, _note("false where the environment refused the action")] = True
    success: Annotated[Optional[bool], _note("as the environment judges; null while it cannot tell")] = None
    unknown: _Unknown = None
    changed: _Changed = None
    screenshot: _Screenshot = None
    summary: _Summary = None
    tools: _Tools = None
    interface: _Interface = None
    imagined: _Imagined = None


class LaterStep(Outcome, kw_only=True):
    """An action that a policy took after an alternative, and its outcome."""

    action: str
    thought: Annotated[Optional[str], _note("the policy's thought before the action")] = None


class Alternative(Struct, kw_only=True):
    """An action other than the expert's, and its outcome."""

    action: str
    source: Annotated[str, _note("policy, admissible or program")]
    logprob: Annotated[Optional[float], _note("log-probability of the whole text drawn, under the policy")] = None
    outcome: Annotated[Optional[Outcome], _note("null until `eexp rollout`, or where it refused")] = None
    refused: Annotated[Optional[str], _note("the reason why `eexp rollout` did not trust this branch")] = None
    pool: Annotated[Optional[str], _note("the name given by `eexp branch --pool`")] = None
    then: Annotated[
        Optional[list[LaterStep]], _note("what a policy did after it, in `eexp follow`; null until then")
    ] = None


class Step(Struct, kw_only=True):
    """One visit to a state: the observation and the expert's action."""

    observation: str
    action: str
    admissible: Annotated[Optional[list[str]], _note("actions the state accepts, maybe a sample")] = None
    admissible_count: Annotated[Optional[int], _note("number of admissible actions before sampling")] = None
    thought: Annotated[Optional[str], _note("the expert's thought before the action")] = None
    notes: Annotated[Optional[str], _note("the environment's account of what is known and still needed")] = None
    mistake: Annotated[bool, _note("an alternative put in by `eexp recover`: part of the history, never imitated")] = (
        False
    )
    repeated: Annotated[
        bool,
        _note("stands in an earlier branch or another correction of the same episode, too; imitated there"),
    ] = False
    noise: Annotated[
        bool, _note("drawn by `eexp expert --noise` instead of the expert's action; imitated like any other")
    ] = False
    unknown: _Unknown = None
    changed: _Changed = None
    screenshot: _Screenshot = None
    summary: _Summary = None
    tools: _Tools = None
    interface: _Interface = None
    imagined: _Imagined = None
    alternatives: list[Alternative] = []


class Trajectory(Struct, kw_only=True):
    """One expert episode; `branch` and `rollout` enrich it in place."""

    type: Literal["trajectory"]
    id: str
    env: Annotated[str, _note("environment spec, as given to `eexp expert`")]
    task: Annotated[dict[str, Any], _note("id, split, and all that the environment needs to start the task again")]
    instruction: Annotated[str, _note("the task in words")]
    steps: list[Step]
    tools: Annotated[Optional[list[Tool]], _note("the functions that the environment offers at the beginning")] = None
    outcome: Annotated[Optional[Outcome], _note("the outcome of the last action")] = None
    action_equality: Annotated[
        Optional[Literal["words", "exact"]],
        _note("when two actions are the same; absent where `env` or `tools` tell it"),
    ] = None
    origin: Annotated[Optional[str], _note("id of the trajectory of which this is a variant; see eexp recover")] = None
    lineage: _Lineage = []


class CalledFunction(Struct, kw_only=True):
    """The function of a call, and its arguments."""

    name: str
    arguments: Annotated[dict[str, Any], _note("by name; an object, and not its JSON as a string")]


class ToolCall(Struct, kw_only=True):
    """A call of a function by the assistant."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class Message(Struct, kw_only=True):
    """One message of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: Annotated[Optional[list[ToolCall]], _note("of the assistant; content is the thought")] = None
    tool_call_id: Annotated[Optional[str], _note("of a tool: the call that it answers")] = None
    name: Annotated[Optional[str], _note("of a tool: the function that was called")] = None


class Span(Struct, kw_only=True):
    """A part of a completion, and the weight of its loss."""

    name: Annotated[str, _note("thought, action or observation")]
    start: Annotated[int, Meta(ge=0, description="in characters of the last completion message")]
    end: Annotated[int, Meta(ge=0)]
    weight: Annotated[float, Meta(ge=0, le=LARGEST_WEIGHT, description="multiplies its loss")] = 1.0


class SpanScore(Struct, kw_only=True):
    """The log-probability of one span of a completion under a model."""

    span: str
    logprob: Annotated[float, _note("natural, of all tokens of the span; the last span has the stop token")]
    tokens: Annotated[int, Meta(ge=0)]


class Example(Struct, kw_only=True):
    """One training example: loss falls on the completion alone.

    Every stage writes every field, and never null, so that files of different kinds have the same columns of the same
    types. A field that does not apply is "", 0 or [].
    """

    type: Literal["example"]
    id: str
    kind: Annotated[str, _note("imitation, world_model, reflection, ...")]
    prompt: Annotated[list[Message], Meta(min_length=1)]
    completion: Annotated[list[Message], Meta(min_length=1)]
    tools: Annotated[Optional[list[Tool]], _note("the functions that the prompt shows; absent where it shows none")] = (
        None
    )
    weight: Annotated[
        float,
        Meta(
            ge=-LARGEST_WEIGHT,
            le=LARGEST_WEIGHT,
            description="multiplies its loss; below 0 in `eexp policy-data`: the answer becomes less likely",
        ),
    ] = 1.0
    group: Annotated[Optional[str], _note("id of the trajectory of which it was made")] = None
    spans: Annotated[Optional[list[Span]], _note("parts of the last completion message, in order")] = None
    transition: Annotated[
        Optional[str], _note('of a world-model example: invalid, unchanged, changed or done; "" of others')
    ] = None
    target: Annotated[
        Optional[str], _note('of a world-model example: observation, summary, changes or verdict; "" of others')
    ] = None
    scores: Annotated[Optional[list[SpanScore]], _note("of each span, by `eexp score`; [] before")] = None
    reflection_by: Annotated[
        Optional[str], _note('author of the thought: the name of a rule, or a model\'s fingerprint; "" of other kinds')
    ] = None
    gain: Annotated[
        Optional[float],
        _note("log-probability of the action after the thought, minus without (--verify); 0 if not verified"),
    ] = None
    prompt_style: _PromptStyle = None
    imagined: Annotated[
        Optional[str],
        _note("fingerprint of the world model that wrote observations of its trajectory or its prompt; else absent"),
    ] = None
    lineage: _Lineage = []


class Preference(Struct, kw_only=True):
    """Two answers to one prompt, of which one did better; `prompt`, `chosen` and `rejected` are those of TRL."""

    type: Literal["preference"]
    id: str
    prompt: Annotated[list[Message], Meta(min_length=1)]
    chosen: Annotated[list[Message], Meta(min_length=1, description="the answer that did better")]
    rejected: Annotated[list[Message], Meta(min_length=1, description="the answer that did worse")]
    weight: Annotated[float, Meta(ge=0, le=LARGEST_WEIGHT, description="multiplies its loss")] = 1.0
    group: Annotated[Optional[str], _note("id of the trajectory of which it was made")] = None
    worse: Annotated[
        Optional[str],
        _note("how the rejected action did worse: refused, ended, score, unchanged, later or another judge"),
    ] = None
    chosen_outcome: Annotated[Optional[str], _note("the observation after the chosen action")] = None
    rejected_outcome: Annotated[Optional[str], _note("the observation after the rejected action")] = None
    chosen_actions: Annotated[
        int, _note("number of actions from here until the expert completed the task; 0 if it is not known")
    ] = 0
    rejected_actions: Annotated[
        int, _note("the same by way of the rejected action (`eexp follow`); 0 if it was not, or is not known")
    ] = 0
    tools: Annotated[Optional[list[Tool]], _note("the functions that the prompt shows; absent where it shows none")] = (
        None
    )
    prompt_style: _PromptStyle = None
    lineage: _Lineage = []


class Turn(Struct, kw_only=True):
    """One step of an evaluated episode."""

    observation: str
    action: str
    text: Annotated[Optional[str], _note("the model's text, where it is more than the action")] = None
    thought: Annotated[Optional[str], _note("the agent's thought before the action")] = None
    valid: bool = True
    cut_off: Annotated[bool, _note("the text ended at the token limit before its action was whole")] = False
    reward: Annotated[Optional[float], _note("of this turn alone, by `eexp reward`")] = None
    tools: _Tools = None
    admissible: Annotated[Optional[list[str]], _note("the admissible actions, where the prompt listed them")] = None
    interface: _Interface = None
    imagined: _Imagined = None


class Episode(Struct, kw_only=True):
    """One evaluated task."""

    type: Literal["episode"]
    id: str
    env: str
    task: dict[str, Any]
    split: Optional[str] = None
    kind: Annotated[Optional[str], _note("kind of the task, as the environment groups them")] = None
    panel: Annotated[Optional[str], _note("hash of the panel of tasks (`eexp eval --panel`)")] = None
    seed: Annotated[int, _note("number of the trial of the task, from 0")] = 0
    success: Annotated[Optional[bool], _note("null in an imagined environment, where nothing can tell")]
    score: Annotated[Optional[float], _note("0 to 1, at the end")] = None
    steps: Annotated[_Actions, _note("number of actions taken")]
    invalid: Annotated[_Actions, _note("number of actions that the environment refused")] = 0
    thoughts: Annotated[int, _note("number of turns with a thought")] = 0
    cut_off: Annotated[int, _note("number of turns whose text ended before its action was whole")] = 0
    outgrown: Annotated[bool, _note("whether it ended because the prompt outgrew the model's context")] = False
    instruction: Optional[str] = None
    tools: Annotated[Optional[list[Tool]], _note("the functions that the environment offered at the beginning")] = None
    recalled: Annotated[
        Optional[list[str]], _note("ids of past episodes that were shown before (`eexp eval --recall FILE`)")
    ] = None
    recalled_imagined: Annotated[
        Optional[list[str]], _note("those of `recalled` that are of an imagined environment; absent where none is")
    ] = None
    transcript: list[Turn] = []
    final: Annotated[Optional[str], _note("the last observation")] = None
    model: Annotated[Optional[str], _note("fingerprint of the model that acted")] = None
    prompt_style: _PromptStyle = None
    lineage: _Lineage = []


class Task(Struct, kw_only=True):
    """One line of a panel, by `eexp panel`: a task to play. The order of the lines means nothing."""

    type: Literal["task"]
    env: Annotated[str, _note("environment spec, as given to `eexp panel`")]
    task: Annotated[dict[str, Any], _note("id, split, and all that the environment needs to start the task")]
    split: Optional[str] = None
    kind: Annotated[Optional[str], _note("kind of the task, as the environment groups them")] = None


TYPES: dict[str, type] = {
    "trajectory": Trajectory,
    "example": Example,
    "preference": Preference,
    "episode": Episode,
    "task": Task,
}

#: The command that makes the records that are expected of those that were given, by both types.
_NEXT_COMMAND = {
    ("trajectory", "example"): ": make examples of trajectories with `eexp imitation-data`",
    ("preference", "example"): ": preferences are trained on with `eexp finetune --objective dpo`",
    ("example", "preference"): ": make preferences of trajectories with `eexp preference-data`",
    ("trajectory", "preference or example"): ": make preferences of trajectories with `eexp preference-data`",
    ("trajectory", "preference"): ": make preferences of trajectories with `eexp preference-data`",
    ("episode", "example"): ": make trajectories of episodes with `eexp import episodes`, and examples of those",
    ("trajectory", "episode"): ": play tasks with `eexp eval` to make episodes",
    ("example", "episode"): ": play tasks with `eexp eval` to make episodes",
    ("example", "trajectory"): ": give the trajectories that the examples were made from",
    ("preference", "trajectory"): ": give the trajectories that the preferences were made from",
    ("episode", "trajectory"): ": make trajectories of episodes with `eexp import episodes`",
}
#: The same for records of other projects, by the key of their turns.
_IMPORTS = {
    "messages": ": chats are imported with `eexp import messages`",
    "conversations": ": conversations are imported with `eexp import agenttraj` or `eexp import eto`",
}

_JSON_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_TYPE_MISMATCH = re.compile(r"Expected `(?P<want>[^`]+)`(?: (?P<more>.+?))?(?:, got `(?P<got>[^`]+)`)?$")


def _type_names(text: str) -> str:
    """Return a type as msgspec names it, such as `str | null`, in words: 'a string or null'."""
    return " or ".join(_JSON_NAMES.get(part, part) for part in text.split(" | "))


def check(record: Any, *accepted: str) -> dict:
    """Check a record, and return it as it is.

    Args:
        record: The value that was read.
        accepted: The types that it may have, keys of TYPES.

    Raises:
        InputError: It is no such record; the message names the JSON path of the first field that is wrong.
    """
    if not isinstance(record, dict):
        expected = _listed(accepted)
        article = "an" if expected[0] in "aeiou" else "a"
        raise InputError(f"expected {article} {expected} record, got something that is not a JSON object", "$")
    record_type = record.get("type")
    if not (isinstance(record_type, str) and record_type in accepted):
        expected = _listed(accepted)
        if record_type == "shard":
            raise InputError(
                "one shard of a run with --shard ends here; `eexp merge` puts all of them together", "$.type"
            )
        if isinstance(record_type, str) and record_type in TYPES:
            hint = _NEXT_COMMAND.get((record_type, expected), "")
            raise InputError(f"expected a record of type {expected}, got one of type {record_type}{hint}", "$.type")
        got = "nothing" if record_type is None else short(record_type)
        hint = next((text for key, text in _IMPORTS.items() if isinstance(record.get(key), list)), "")
        raise InputError(f'expected "{expected}", got {got}{hint}', "$.type")
    try:
        msgspec.convert(record, TYPES[record_type])
    except msgspec.ValidationError as e:
        raise explain(str(e), TYPES[record_type]) from None
    return record


def _listed(words: Sequence[str]) -> str:
    """Return words as in a sentence: 'a, b or c'."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def check_tools(tools: Any) -> None:
    """Raise InputError, with the JSON path of what is wrong, for functions that are not in the form of `tools`."""
    try:
        msgspec.convert(tools, list[Tool])
    except msgspec.ValidationError as e:
        error = explain(str(e))
        raise InputError(error.message, (error.where or "$").replace("$", "$.tools", 1)) from None


def explain(message: str, kind: Any = None) -> InputError:
    """Return the error for a message of msgspec: in plainer words, with the JSON path that it names.

    Args:
        kind: The type that was asked for, so that a word that is none of several is answered with those there are.
    """
    text, _, path = message.partition(" - at ")
    path = path.strip("`") or "$"
    missing = re.match(r"Object missing required field `(.+)`", text)
    if missing:
        return InputError("missing", f"{path}.{missing.group(1)}")
    mismatch = _TYPE_MISMATCH.match(text)
    if mismatch:
        text = "expected " + _type_names(mismatch["want"])
        if mismatch["more"]:
            text += " " + mismatch["more"]
        if mismatch["got"]:
            text += ", got " + _type_names(mismatch["got"])
    if kind is not None and (wrong := re.match(r"Invalid enum value (.+)", text)):
        choices = _choices(msgspec.inspect.type_info(kind), re.findall(r"\.(\w+)|\[", path))
        if choices:
            text = f"expected {_listed(list(map(repr, choices)))}, got {wrong[1]}"
    return InputError(text[0].lower() + text[1:], path)


def _choices(info: Any, keys: list[str]) -> list[Any]:
    """Return the words that a type allows at a place; [] where it is not a type of words.

    Args:
        info: What msgspec says of the type.
        keys: The way to the place: names of fields, "" for an item of a list.
    """
    if isinstance(info, msgspec.inspect.Metadata):
        return _choices(info.type, keys)
    if isinstance(info, msgspec.inspect.UnionType):
        return [choice for one in info.types for choice in _choices(one, keys)]
    if not keys:
        return list(info.values) if isinstance(info, msgspec.inspect.LiteralType) else []
    if isinstance(info, msgspec.inspect.StructType):
        return [choice for f in info.fields if f.encode_name == keys[0] for choice in _choices(f.type, keys[1:])]
    inner = getattr(info, "item_type", None)
    return _choices(inner, keys[1:]) if inner is not None and not keys[0] else []


def schema(record_type: str) -> dict:
    """Return the JSON Schema (draft 2020-12) of a record type."""
    definition = msgspec.json.schema(TYPES[record_type])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": record_type, **definition}
