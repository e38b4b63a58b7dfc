"""The record types, their checks and their schemas.

A record is a plain dict, so that keys this version does not know are kept and passed on. The classes below only
describe: `check` holds a dict against one of them, and `eexp schema` prints them as JSON Schema.
All probabilities are natural logarithms; scores run from 0 to 1.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Literal, Optional

import msgspec
from msgspec import Meta, Struct

from eexp import __version__
from eexp.errors import InputError, short

# Optional[...] rather than `| None`: msgspec evaluates these annotations, and Python 3.10 is supported.


_Lineage = Annotated[list[str], Meta(description="the stages that made it, with version and settings, oldest first")]
_Range = Annotated[list[int], Meta(min_length=2, max_length=2)]
_Unknown = Annotated[
    Optional[list[_Range]],
    Meta(description="[start, end) of the parts of the observation that nothing before in the episode determines"),
]
_Summary = Annotated[Optional[str], Meta(description="the observation in fewer words, by `eexp summarise`")]
_PromptStyle = Annotated[Optional[str], Meta(description="name@fingerprint of the words around a state")]


class Outcome(Struct, kw_only=True):
    """What the environment answered to one action."""

    observation: str
    done: bool = False
    score: Annotated[Optional[float], Meta(description="0 to 1, as the environment scores the episode so far")] = None
    valid: Annotated[bool, Meta(description="false where the environment refused the action")] = True
    success: Annotated[Optional[bool], Meta(description="as the environment judges; null while it cannot tell")] = None
    unknown: _Unknown = None
    summary: _Summary = None


class Alternative(Struct, kw_only=True):
    """An action other than the expert's, and what it led to."""

    action: str
    source: Annotated[str, Meta(description="policy, admissible or program")]
    logprob: Annotated[Optional[float], Meta(description="of the whole text drawn, under the policy")] = None
    outcome: Annotated[Optional[Outcome], Meta(description="null until `eexp rollout`, or where it refused")] = None
    refused: Annotated[Optional[str], Meta(description="why `eexp rollout` did not trust this branch")] = None
    pool: Annotated[Optional[str], Meta(description="the name given by `eexp branch --pool`")] = None


class Step(Struct, kw_only=True):
    """One visit to a state: what was seen, and what the expert did."""

    observation: str
    action: str
    admissible: Annotated[Optional[list[str]], Meta(description="actions the state accepts, maybe a sample")] = None
    admissible_count: Annotated[Optional[int], Meta(description="how many there were before sampling")] = None
    thought: Annotated[Optional[str], Meta(description="what the expert said before acting")] = None
    notes: Annotated[Optional[str], Meta(description="what the environment says is known and still needed")] = None
    mistake: Annotated[
        bool, Meta(description="an alternative put in by `eexp recover`: part of the history, never imitated")
    ] = False
    noise: Annotated[
        bool, Meta(description="drawn by `eexp expert --noise` instead of the expert's action; imitated like any other")
    ] = False
    unknown: _Unknown = None
    summary: _Summary = None
    alternatives: list[Alternative] = []


class Trajectory(Struct, kw_only=True):
    """One expert episode; `branch` and `rollout` enrich it in place."""

    type: Literal["trajectory"]
    id: str
    env: Annotated[str, Meta(description="environment spec, as given to `eexp expert`")]
    task: Annotated[dict[str, Any], Meta(description="id, split, and what the environment needs to start it again")]
    instruction: Annotated[str, Meta(description="the task in words")]
    steps: list[Step]
    outcome: Annotated[Optional[Outcome], Meta(description="what the last action led to")] = None
    origin: Annotated[Optional[str], Meta(description="id of the trajectory it is a variant of; see eexp recover")] = (
        None
    )
    lineage: _Lineage = []


class Message(Struct, kw_only=True):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class Span(Struct, kw_only=True):
    """A part of a completion, and what its loss counts."""

    name: Annotated[str, Meta(description="thought, action or observation")]
    start: Annotated[int, Meta(ge=0, description="in characters of the last completion message")]
    end: Annotated[int, Meta(ge=0)]
    weight: Annotated[float, Meta(ge=0, description="multiplies its loss")] = 1.0


class SpanScore(Struct, kw_only=True):
    """How probable a model finds one span of a completion."""

    span: str
    logprob: Annotated[float, Meta(description="natural, of all its tokens; the last span has the stop token")]
    tokens: Annotated[int, Meta(ge=0)]


class Example(Struct, kw_only=True):
    """One training example: loss falls on the completion alone.

    Every stage writes every field, and never null, so that files of different kinds have the same columns of the same
    types. What does not apply is "", 0 or [].
    """

    type: Literal["example"]
    id: str
    kind: Annotated[str, Meta(description="imitation, world_model, reflection, ...")]
    prompt: Annotated[list[Message], Meta(min_length=1)]
    completion: Annotated[list[Message], Meta(min_length=1)]
    weight: Annotated[float, Meta(ge=0, description="multiplies its loss")] = 1.0
    group: Annotated[Optional[str], Meta(description="id of the trajectory it was made from")] = None
    spans: Annotated[Optional[list[Span]], Meta(description="parts of the last completion message, in order")] = None
    transition: Annotated[
        Optional[str], Meta(description='of a world-model example: invalid, unchanged, changed or done; "" of others')
    ] = None
    target: Annotated[
        Optional[str], Meta(description='of a world-model example: observation, summary or changes; "" of others')
    ] = None
    scores: Annotated[Optional[list[SpanScore]], Meta(description="of each span, by `eexp score`; [] before")] = None
    reflection_by: Annotated[
        Optional[str],
        Meta(description='who wrote the thought: the name of a rule, or a model\'s fingerprint; "" of other kinds'),
    ] = None
    gain: Annotated[
        Optional[float],
        Meta(
            description="log-probability of the action after the thought, minus without (--verify); 0 if not verified"
        ),
    ] = None
    prompt_style: _PromptStyle = None
    lineage: _Lineage = []


class Turn(Struct, kw_only=True):
    """One step of an evaluated episode."""

    observation: str
    action: str
    text: Annotated[Optional[str], Meta(description="what the model wrote, where that is more than the action")] = None
    thought: Annotated[Optional[str], Meta(description="what the agent thought before the action")] = None
    valid: bool = True
    cut_off: Annotated[bool, Meta(description="the text ended at the token limit before its action was whole")] = False


class Episode(Struct, kw_only=True):
    """One evaluated task."""

    type: Literal["episode"]
    id: str
    env: str
    task: dict[str, Any]
    split: Optional[str] = None
    kind: Annotated[Optional[str], Meta(description="kind of the task, as the environment groups them")] = None
    panel: Annotated[Optional[str], Meta(description="hash of the panel that was played (`eexp eval --panel`)")] = None
    seed: Annotated[int, Meta(description="which trial of the task this is, from 0")] = 0
    success: bool
    score: Annotated[Optional[float], Meta(description="0 to 1, at the end")] = None
    steps: Annotated[int, Meta(description="how many actions were taken")]
    invalid: Annotated[int, Meta(description="actions the environment refused")] = 0
    thoughts: Annotated[int, Meta(description="turns in which a thought was written")] = 0
    cut_off: Annotated[int, Meta(description="turns whose text ended before its action was whole")] = 0
    instruction: Optional[str] = None
    transcript: list[Turn] = []
    final: Annotated[Optional[str], Meta(description="the last observation")] = None
    model: Annotated[Optional[str], Meta(description="fingerprint of who played")] = None
    prompt_style: _PromptStyle = None
    lineage: _Lineage = []


class Task(Struct, kw_only=True):
    """One line of a panel, by `eexp panel`: a task to play. The order of the lines means nothing."""

    type: Literal["task"]
    env: Annotated[str, Meta(description="environment spec, as given to `eexp panel`")]
    task: Annotated[dict[str, Any], Meta(description="id, split, and what the environment needs to start it")]
    split: Optional[str] = None
    kind: Annotated[Optional[str], Meta(description="kind of the task, as the environment groups them")] = None


TYPES: dict[str, type] = {"trajectory": Trajectory, "example": Example, "episode": Episode, "task": Task}

#: What a command that takes any record takes: tasks have no id, and only `eexp panel` and `eexp eval` read them.
_ANY = ("trajectory", "example", "episode")

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


def _in_words(text: str) -> str:
    """Put msgspec's `str | null` as 'a string or null'."""
    return " or ".join(_JSON_NAMES.get(part, part) for part in text.split(" | "))


def check(record: Any, kind: str) -> dict:
    """Return `record` if it is a `kind`.

    kind: "trajectory", "example", "episode", "task", "any" of the first three, or "all" for any of the four.

    Raises InputError, with the JSON path of the first field that is wrong, if it is not.
    """
    if kind in ("any", "all"):
        own = record.get("type") if isinstance(record, dict) else None
        known = _ANY if kind == "any" else TYPES
        kind = own if isinstance(own, str) and own in known else "trajectory, example or episode"
    if not isinstance(record, dict):
        article = "an" if kind[0] in "aeiou" else "a"
        raise InputError(f"expected {article} {kind} record, got something that is not a JSON object", "$")
    found = record.get("type")
    if found != kind:
        if isinstance(found, str) and found in TYPES:
            raise InputError(f"expected a record of type {kind}, got one of type {found}", "$.type")
        raise InputError(f'expected "{kind}", got {"nothing" if found is None else short(found)}', "$.type")
    try:
        msgspec.convert(record, TYPES[kind])
    except msgspec.ValidationError as e:
        raise explain(str(e)) from None
    return record


def explain(message: str) -> InputError:
    """msgspec's message in our words, with the JSON path it names."""
    text, _, path = message.partition(" - at ")
    path = path.strip("`") or "$"
    missing = re.match(r"Object missing required field `(.+)`", text)
    if missing:
        return InputError("missing", f"{path}.{missing.group(1)}")
    mismatch = _TYPE_MISMATCH.match(text)
    if mismatch:
        text = "expected " + _in_words(mismatch["want"])
        if mismatch["more"]:
            text += " " + mismatch["more"]
        if mismatch["got"]:
            text += ", got " + _in_words(mismatch["got"])
    return InputError(text[0].lower() + text[1:], path)


def schema(kind: str) -> dict:
    """The JSON Schema (draft 2020-12) of a record type."""
    made = msgspec.json.schema(TYPES[kind])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": kind, **made}


def lineage_entry(stage: str, **settings: Any) -> str:
    """One line of lineage: the stage, its version, and every setting that decides what it writes."""
    said = " ".join(f"{k.replace('_', '-')}={v}" for k, v in settings.items() if v is not None)
    return f"{stage} {__version__} {said}".rstrip()


def with_lineage(record: dict, entry: str) -> dict:
    """A shallow copy of `record` with one more line of lineage, kept as the last key."""
    extended = dict(record)
    extended["lineage"] = [*extended.pop("lineage", []), entry]
    return extended


def canonical(action: str) -> str:
    """The form in which two actions are the same: case, outer punctuation and runs of blanks do not count."""
    return " ".join(action.split()).strip(" .!\"'`").casefold()


def seed_of(*parts: Any) -> int:
    """A 63-bit seed that depends on `parts` alone.

    Random draws are seeded by what a record is, never by when it came, so that order, resuming and parallel runs
    change nothing.
    """
    said = "\x1f".join(str(p) for p in parts).encode()
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big") >> 1


def succeeded(outcome: dict | None) -> bool:
    """Whether an outcome, or an episode, is a success: as the environment judges, else by a full score."""
    if outcome is None:
        return False
    success = outcome.get("success")
    return outcome.get("score") == 1.0 if success is None else success


def expert_outcome(trajectory: dict, i: int) -> dict | None:
    """What the expert's action at step `i` led to: the next observation, or the trajectory's outcome after the last."""
    if i + 1 < len(trajectory["steps"]):
        following = trajectory["steps"][i + 1]
        return {key: following[key] for key in ("observation", "unknown", "summary") if key in following}
    return trajectory.get("outcome")


def alternatives_of(step: dict, pool: str | None = None, first: int | None = None) -> list[dict]:
    """Return the alternatives of a step, executed or not, in the order of the record.

    Args:
        step: A step of a trajectory.
        pool: Only the alternatives of this pool; "" means those without a pool. None takes all pools, but each action
            only once (by `canonical`): where two pools hold the same action, the first one that was executed is taken.
        first: At most this many, counted within the selection, so that the first 3 are part of the first 5.
    """
    alternatives = step.get("alternatives") or []
    if pool is None:
        by_action: dict[str, dict] = {}
        for alternative in alternatives:
            key = canonical(alternative["action"])
            if key not in by_action or (not by_action[key].get("outcome") and alternative.get("outcome")):
                by_action[key] = alternative
        selected = list(by_action.values())
    else:
        selected = [alternative for alternative in alternatives if (alternative.get("pool") or "") == pool]
    return selected[:first]


def example_id(trajectory: dict, name: str) -> str:
    """The id of an example made from a trajectory; `name` tells it from the others of the same trajectory."""
    return f"{trajectory['id']}/{name}"


#: What a field of an example is where it does not apply. None would do for JSON, but a column that is null in all of a
#: file has no type, and readers of several files (datasets, say) take the types of the first one for all.
_NOT_APPLICABLE = {"spans": [], "transition": "", "target": "", "scores": [], "reflection_by": "", "gain": 0.0}


def example(
    trajectory: dict, name: str, kind: str, prompt: list[dict], completion: list[dict], prompt_style: str, **more: Any
) -> dict:
    """An example record made from a trajectory, with every field; `name` as in `example_id`."""
    return {
        "type": "example",
        "kind": kind,
        "id": example_id(trajectory, name),
        "group": trajectory.get("origin") or trajectory["id"],
        "prompt": prompt,
        "completion": completion,
        "weight": 1.0,
        "prompt_style": prompt_style,
        **_NOT_APPLICABLE,
        **more,
        "lineage": trajectory.get("lineage", []),
    }
