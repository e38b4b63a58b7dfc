"""Convert logs of agents in the formats of other projects from and to records.

atif       Harbor's Agent Trajectory Interchange Format (RFC 0001, version 1.7): a trajectory a line
verifiers  the traces.jsonl of verifiers 0.4 (its v1): an episode with one trace a line
inspect    an evaluation log of Inspect (version 2 of its JSON form): all samples in one object

Fields that these formats lack are written under the key "eexp" in their own place for further data, so that a record
that is exported and imported again keeps its task and its end. A log holds the actions that were taken. Alternatives
are exported on request: in ATIF under `extra.eexp` of their step, in verifiers' graph as branches of the state.

To be read, each log is turned into a record of chat messages, which conversations.py reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import msgspec

from eexp import __version__
from eexp.errors import InputError
from eexp.formats import conversations
from eexp.formats.base import ExportFormat
from eexp.formats.conversations import Call, GraphBranch
from eexp.formats.names import WHOLE
from eexp.records.imagination import imagined_by, is_imagined
from eexp.records.jsonl import Element, dumps, lines, loads
from eexp.records.record import is_judged, succeeded
from eexp.records.types import Outcome, explain

_OWN = "eexp"  # the key of fields that only records of eexp have
_ATIF_VERSION = "ATIF-v1.7"
_VERIFIERS_VERSION = "0.4.0"
_NO_TIME = "1970-01-01T00:00:00+00:00"  # records hold no times, and Inspect wants one


@dataclass(frozen=True)
class Log:
    """One run of an agent.

    Attributes:
        success, score: The end, where it is known.
    """

    id: str  # the id of the record
    instruction: str  # the task in words
    #: Dicts of `observation`, `action`, `thought` (or None), `more`, the turn's other fields, and `others`: its
    #: alternatives and admissible actions, empty unless they are to be exported.
    turns: list[dict]
    last: str | None  # the last observation, or None
    success: bool | None
    score: float | None
    model: str  # the name or the fingerprint of the model
    about: dict  # the other fields of the record

    def messages(self) -> Iterator[tuple[dict, dict]]:
        """Yield each chat message with the further fields of its turn."""
        if self.instruction:
            yield {"role": "system", "content": self.instruction}, {}
        for turn in self.turns:
            yield {"role": "user", "content": turn["observation"]}, {}
            yield {"role": "assistant", "content": turn["action"], "thought": turn["thought"]}, turn["more"]
        if self.last is not None:
            yield {"role": "user", "content": self.last}, {}


def log_of(record: dict, alternatives: bool = False) -> Log:
    """Return a trajectory or an episode as a log.

    Args:
        alternatives: Whether the log holds the alternatives and the admissible actions of each state.

    Raises:
        InputError: The record is of another type, or has no action.
    """
    if record["type"] == "trajectory":
        turns, key, end = record["steps"], "steps", record.get("outcome")
        last = end["observation"] if end else None
        model = (record.get("source") or {}).get("model") or "expert"
    elif record["type"] == "episode":
        turns, key, end, last = record.get("transcript") or [], "transcript", record, record.get("final")
        model = record.get("model") or "unknown"
    else:
        raise InputError("only trajectories and episodes are runs of an agent", "$.type")
    if not turns:
        raise InputError("no action in it", f"$.{key}")
    logged, others = ("observation", "action", "thought"), ("alternatives", "admissible")
    log_turns = [
        {
            "observation": turn["observation"],
            "action": turn["action"],
            "thought": turn.get("thought") or None,
            "more": {k: v for k, v in turn.items() if k not in (*logged, *others)},
            "others": {k: turn[k] for k in others if alternatives and turn.get(k)},
        }
        for turn in turns
    ]
    about = {k: v for k, v in record.items() if k not in (key, "final", "instruction")}
    if record.get("outcome"):
        about["outcome"] = {k: v for k, v in record["outcome"].items() if k != "observation"}
    is_known = end is not None and imagined_by(record) is None and is_judged(end)
    success = succeeded(end) if is_known else None
    return Log(
        record["id"], record.get("instruction") or "", log_turns, last, success, (end or {}).get("score"), model, about
    )


# -- export ------------------------------------------------------------------------------------------------------------


def to_atif(log: Log) -> dict:
    """Return a log as an ATIF trajectory."""
    steps: list[dict] = []
    others = iter([turn["others"] for turn in log.turns])
    for message, more in log.messages():
        text = message["content"]
        if message["role"] == "assistant":
            own = {**more, **next(others)}
            step = {
                "source": "agent",
                "message": text,
                "reasoning_content": message["thought"],
                "extra": {_OWN: own} if own else None,
            }
        elif message["role"] == "user" and steps and steps[-1]["source"] == "agent":
            steps[-1]["observation"] = {"results": [{"content": text}]}
            continue
        else:
            step = {"source": message["role"], "message": text}
        steps.append({"step_id": len(steps) + 1, **{k: v for k, v in step.items() if v is not None}})
    return {
        "schema_version": _ATIF_VERSION,
        "session_id": log.id,
        "trajectory_id": log.id,
        "agent": {"name": "eexp", "version": __version__, "model_name": log.model},
        "steps": steps,
        "final_metrics": {"total_steps": len(steps), "extra": {"success": log.success, "score": log.score}},
        "extra": {_OWN: log.about},
    }


def to_verifiers(log: Log) -> dict:
    """Return a log as an episode of verifiers with one trace.

    Alternatives are branches before the action that was taken, so that the last branch is the run itself.
    """
    nodes: list[dict] = []
    last: int | None = None  # the node before the next one
    others = iter([turn["others"] for turn in log.turns])
    for message, _ in log.messages():
        sampled = message["role"] == "assistant"
        for alternative in next(others).get("alternatives", ()) if sampled else ():
            _add_branch(nodes, last, alternative)
        nodes.append(_node(last, message["role"], message["content"], message.get("thought"), sampled))
        last = len(nodes) - 1
    task = {
        "type": "eexp",
        "key": _task_id(log),
        "data": {"id": _task_id(log), "prompt": log.instruction, "env": log.about.get("env")},
    }
    rewards = {} if log.success is None else {"success": {"score": float(log.success), "weight": 1.0}}
    metrics = {} if log.score is None else {"score": float(log.score)}
    turns = [turn["more"] for turn in log.turns]
    trace = {
        "version": 1,
        "id": _hex(log.id, "trace"),
        "verifiers": {"version": _VERIFIERS_VERSION},
        "task": task,
        "agent": {"config": {"model": log.model}, "name": "agent"},
        "nodes": nodes,
        "rewards": rewards,
        "metrics": metrics,
        "info": {_OWN: log.about, "turns": turns},
        "is_completed": True,
        "ok": True,
        "stop_condition": "agent_completed",
        "timing": {"start": 0.0},
    }
    return {
        "id": _hex(log.id),
        "env": {"id": str(log.about.get("env") or "")},
        "task": task,
        "ok": True,
        "traces": [trace],
    }


def _node(parent: int | None, role: str, text: str, thought: str | None = None, sampled: bool = False) -> dict:
    """Return a node of verifiers' graph; `sampled` says that a model wrote it."""
    content = {"role": role, "content": text, **({"reasoning_content": thought} if role == "assistant" else {})}
    return {"parent": parent, "message": content, "sampled": sampled, "timestamp": 0.0}


def _add_branch(nodes: list[dict], parent: int | None, alternative: dict) -> None:
    """Add an alternative that was executed, its outcome and what a policy did after it; nothing for another one."""
    outcome = alternative.get("outcome")
    if not outcome:
        return
    sampled = alternative["source"] == "policy"
    for step in ({**outcome, "action": alternative["action"]}, *(alternative.get("then") or ())):
        nodes.append(_node(parent, "assistant", step["action"], step.get("thought"), sampled))
        nodes.append(_node(len(nodes) - 1, "user", step["observation"]))
        parent = len(nodes) - 1


def to_inspect(logs: Iterable[Log]) -> dict:
    """Return logs as one evaluation log of Inspect.

    Raises:
        InputError: They are of several models or environments: a log of Inspect is of one.
    """
    samples: list[dict] = []
    models: dict[tuple[str, str], None] = {}
    for log in logs:
        models[str(log.about.get("env")), log.model] = None
        if len(models) > 1:
            pairs = " and ".join(f"{model} in {env}" for env, model in models)
            raise InputError(f"a log of Inspect has one model and one environment, not {pairs}; export each alone")
        samples.append(_sample(log))
    ((env, model),) = models or {("", ""): None}
    scored = [name for name in ("success", "score") if any(name in sample["scores"] for sample in samples)]
    results = {
        "total_samples": len(samples),
        "completed_samples": len(samples),
        "scores": [_mean(name, samples) for name in scored],
    }
    ids = list(dict.fromkeys(sample["id"] for sample in samples))
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "created": _NO_TIME,
            "eval_id": _hex(*(sample["uuid"] for sample in samples))[:22],
            "task": env,
            "run_id": _hex(env, model)[:22],
            "task_id": _hex(env)[:22],
            "dataset": {"name": env, "samples": len(samples), "sample_ids": ids},
            "model": model,
            "config": {},
            "packages": {"eexp": __version__},
        },
        "plan": {"name": "eexp", "steps": []},
        "results": results,
        "stats": {"started_at": "", "completed_at": ""},
        "samples": samples,  # last, for readers of the rest alone
    }


def _sample(log: Log) -> dict:
    """Return a log as a sample of an evaluation log of Inspect."""
    messages = []
    for message, more in log.messages():
        content: dict[str, Any] = {"role": message["role"], "content": message["content"]}
        if message["role"] == "assistant":
            content |= {"source": "generate", "model": log.model}
            if message["thought"]:
                content["content"] = [
                    {"type": "reasoning", "reasoning": message["thought"]},
                    {"type": "text", "text": message["content"]},
                ]
        messages.append({**content, **({"metadata": more} if more else {})})
    is_episode = log.about["type"] == "episode"
    answer = next(m for m in reversed(messages) if m["role"] == "assistant")
    values = {"success": None if log.success is None else float(log.success), "score": log.score}
    return {
        "id": _task_id(log) if is_episode else log.id,
        "epoch": 1 + log.about.get("seed", 0) if is_episode else 1,
        "uuid": _hex(log.id)[:22],
        "input": log.instruction or log.turns[0]["observation"],
        "target": "",
        "messages": messages,
        "output": {"model": log.model, "choices": [{"message": answer, "stop_reason": "stop"}]},
        "scores": {name: {"value": value} for name, value in values.items() if value is not None},
        "metadata": {_OWN: log.about},
    }


def _mean(name: str, samples: list[dict]) -> dict:
    """Return Inspect's summary of a score over those samples that have it."""
    values = [sample["scores"][name]["value"] for sample in samples if name in sample["scores"]]
    mean = {"name": "mean", "value": sum(values) / len(values)}
    return {"name": name, "scorer": name, "scored_samples": len(values), "metrics": {"mean": mean}}


def _task_id(log: Log) -> str:
    return str((log.about.get("task") or {}).get("id") or log.id)


def _hex(*parts: str) -> str:
    """Return an id of 32 hexadecimal digits that depends on `parts` alone."""
    return hashlib.blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


# -- import ------------------------------------------------------------------------------------------------------------


def from_atif(record: dict) -> dict:
    """Return an ATIF trajectory as a record of chat messages.

    Where a step has several calls and its results do not name the calls they answer, the calls are one action.
    """
    messages: list[dict] = []
    for i, step in enumerate(_list(record, "steps", "$")):
        at = f"$.steps[{i}]"
        source = step.get("source")
        if source not in ("system", "user", "agent"):
            raise InputError(f"expected system, user or agent, got {source!r}", f"{at}.source")
        text = _text(step.get("message"), f"{at}.message")
        if source != "agent":
            messages.append({"role": source, "content": text})
            continue
        calls = [
            _call(call.get("tool_call_id"), call.get("function_name"), call.get("arguments"))
            for call in _list(step, "tool_calls", at, missing=[])
        ]
        observation = step.get("observation") or {}
        if not isinstance(observation, dict):
            raise InputError("expected an object", f"{at}.observation")
        results = _list(observation, "results", f"{at}.observation", missing=[])
        texts = [_text(result.get("content"), f"{at}.observation.results[{n}]") for n, result in enumerate(results)]
        message = {"role": "assistant", "content": text, "reasoning_content": step.get("reasoning_content")}
        if (own := _object_or_empty(step.get("extra")).get(_OWN)) is not None and len(calls) < 2:
            message[_OWN] = own
        if calls and (len(calls) == 1 or any(result.get("source_call_id") for result in results)):
            messages.append({**message, "tool_calls": calls})
            for result, answer in zip(results, texts):
                messages.append({"role": "tool", "tool_call_id": result.get("source_call_id"), "content": answer})
            continue
        if calls:
            for n, call in enumerate(calls):
                if not isinstance(call["function"]["name"], str):
                    raise InputError("expected the name of a function", f"{at}.tool_calls[{n}]")
            thought = conversations.join_thoughts(message["reasoning_content"], *conversations.split_thinking(text))
            message |= {"content": "\n".join(_in_python(call) for call in calls), "reasoning_content": thought}
        messages.append(message)
        if texts:
            messages.append({"role": "user", "content": "\n".join(texts)})
    own = _own(record.get("extra"))
    rest = {k: v for k, v in record.items() if k not in ("steps", "extra")}
    return _adapted(own, record.get("trajectory_id") or record.get("session_id"), messages, rest, record.get("extra"))


def from_verifiers(record: dict) -> dict:
    """Return an episode of verifiers with one trace, or a trace, as a record of chat messages.

    Its last branch is read, unless the record is a `GraphBranch`.
    """
    trace, at = _trace_of(record)
    nodes = _list(trace, "nodes", at)
    leaf = record.leaf if isinstance(record, GraphBranch) else _leaves(nodes, at)[-1]
    messages = []
    own_turns = _own_turns(trace, nodes, at)
    for n in _path(nodes, leaf, at):
        message = nodes[n].get("message")
        if not isinstance(message, dict):
            raise InputError("expected an object", f"{at}.nodes[{n}].message")
        calls = [
            _call(call.get("id"), call.get("name"), call.get("arguments"))
            for call in _list(message, "tool_calls", f"{at}.nodes[{n}].message", missing=[])
        ]
        messages.append({**message, "tool_calls": calls or None} | own_turns.get(n, {}))
    task = _object_or_empty(trace.get("task"))
    data = _object_or_empty(task.get("data"))
    name = next(
        (v for v in (data.get("id"), data.get("name"), data.get("idx"), task.get("key")) if v is not None), None
    )
    own = _own(trace.get("info"))
    rest = {k: v for k, v in trace.items() if k not in ("nodes", "info")}
    rest |= {"branch": record.number} if isinstance(record, GraphBranch) else {}
    return _adapted(own, name, messages, rest, trace.get("info"))


def _own_turns(trace: dict, nodes: list[dict], at: str) -> dict[int, dict]:
    """Return the fields that eexp has exported of each turn, by the node of its action."""
    info = _object_or_empty(trace.get("info"))
    if not _own(info) or not isinstance(info.get("turns"), list):
        return {}
    path = _path(nodes, _leaves(nodes, at)[-1], at)
    actions = [n for n in path if _object_or_empty(nodes[n].get("message")).get("role") == "assistant"]
    return {n: {_OWN: turn} for n, turn in zip(actions, info["turns"])} if len(actions) == len(info["turns"]) else {}


def branches_of(record: dict) -> Iterator[GraphBranch]:
    """Yield each branch of a graph of verifiers in which the agent acts.

    A branch is the path from a root to a leaf. Branches come in the order of their leaves, as in verifiers, so the last
    one is what `from_verifiers` reads of the whole graph.

    Raises:
        InputError: The record holds no such graph.
    """
    trace, at = _trace_of(record)
    nodes = _list(trace, "nodes", at)
    number = 0
    for leaf in _leaves(nodes, at):
        messages = (_object_or_empty(nodes[n].get("message")) for n in _path(nodes, leaf, at))
        if any(message.get("role") == "assistant" for message in messages):
            number += 1
            yield GraphBranch(record, number, leaf)


def _trace_of(record: dict) -> tuple[dict, str]:
    """Return the only trace of an episode of verifiers, or the record if it is a trace, and its JSON path."""
    if "traces" not in record:
        return record, "$"
    traces = _list(record, "traces", "$")
    if len(traces) != 1:
        raise InputError(f"expected one trace, got {len(traces)}", "$.traces")
    return traces[0], "$.traces[0]"


def _leaves(nodes: list[dict], at: str) -> list[int]:
    """Return the nodes that are the parent of no other one; there is at least one."""
    parents = {parent for node in nodes if isinstance(parent := node.get("parent"), int)}
    leaves = [n for n in range(len(nodes)) if n not in parents]
    if not leaves:
        raise InputError("no node at the end of a branch", f"{at}.nodes")
    return leaves


def _path(nodes: list[dict], leaf: int, at: str) -> list[int]:
    """Return the nodes from a root to a leaf."""
    path: dict[int, None] = {}  # in order
    n: Any = leaf
    while n is not None:
        if not isinstance(n, int) or not 0 <= n < len(nodes) or n in path:
            raise InputError("expected an earlier node", f"{at}.nodes[{next(reversed(path))}].parent")
        path[n] = None
        n = nodes[n].get("parent")
    return [*path][::-1]


def from_inspect(record: dict) -> dict:
    """Return a sample of an evaluation log of Inspect as a record of chat messages."""
    messages = []
    own = _own(record.get("metadata"))
    for i, message in enumerate(_list(record, "messages", "$")):
        calls = [
            _call(call.get("id"), call.get("function"), call.get("arguments"))
            for call in _list(message, "tool_calls", f"$.messages[{i}]", missing=[])
        ]
        content, thought = message.get("content"), None
        if isinstance(content, list):
            thoughts = [
                part.get("reasoning") for part in content if isinstance(part, dict) and part.get("type") == "reasoning"
            ]
            thought = "\n".join(part for part in thoughts if isinstance(part, str)) or None
            content = [part for part in content if not (isinstance(part, dict) and part.get("type") == "reasoning")]
        messages.append({**message, "content": content, "reasoning_content": thought, "tool_calls": calls or None})
        if own and message.get("metadata") is not None:
            messages[-1][_OWN] = message["metadata"]
    rest = {k: v for k, v in record.items() if k not in ("messages", "metadata", "output", "events")}
    return _adapted(own, record.get("id"), messages, rest, record.get("metadata"))


def recorded_end(record: dict) -> dict:
    """Return the outcome, without its observation, of an adapted record that eexp has exported; {} for other records.

    Raises:
        InputError: The record holds something that is no outcome.
    """
    own = _object_or_empty(record.get(_OWN))
    end = own.get("outcome") or {key: own[key] for key in ("success", "score") if key in own}
    try:
        msgspec.convert({"observation": "", **end} if isinstance(end, dict) else end, Outcome)
    except msgspec.ValidationError as e:
        error = explain(str(e))
        raise InputError(error.message, f"$.{_OWN}{error.where[1:]}") from None
    if isinstance(env := own.get("env"), str) and is_imagined(env):  # the last observation of an episode has no mark
        end = {**end, "imagined": end.get("imagined") or env}
    return end


def recorded_origin(record: dict, env: str) -> dict:
    """Return the key `origin` of the trajectory of an adapted record, where eexp has exported one.

    Args:
        env: The environment of the trajectory, which the origin's id begins with, too.
    """
    own = _object_or_empty(record.get(_OWN))
    origin, before = own.get("origin"), own.get("env")
    if not isinstance(origin, str):
        return {}
    if isinstance(before, str) and origin.startswith(f"{before}/"):
        origin = env + origin[len(before) :]
    return {"origin": origin}


def samples(files: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
    """Yield the samples in logs of Inspect as (file, number of the sample, JSON text), as `jsonl.elements` does.

    A log is one object, over many lines as Inspect writes it or on one line, and is held in memory. Each sample gets
    the task, the model and the time of the log's `eval`.

    Raises:
        InputError: A file is no log of Inspect.
    """
    for name, number, text in _documents(files):
        try:
            log = loads(text)
            if not isinstance(log, dict) or not isinstance(log.get("eval"), dict):
                raise InputError("no log of Inspect: expected an object", "$.eval" if isinstance(log, dict) else "$")
            about = {key: log["eval"].get(key) for key in ("task", "model", "created")}
            for n, sample in enumerate(_list(log, "samples", "$"), 1):
                yield name, Element(n), dumps({**sample, "eval": about})
        except InputError as e:
            raise InputError(f"{name}:{number}: {e}") from None


def _documents(files: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
    """Yield the JSON objects of files as (file, line number, text): one for each file, or one for each line."""
    for name, group in groupby(lines(files), key=lambda line: line[0]):
        pieces: list[tuple[str, int, bytes]] = list(group)
        one_a_line = pieces[0][2].strip().endswith(b"}") and pieces[0][2].strip() != b"}"
        yield from pieces if one_a_line else [(name, pieces[0][1], b"".join(line for _, _, line in pieces))]


def _own(more: Any) -> dict:
    """Return the fields that `eexp export-log` wrote into a log's further data; {} where there are none."""
    return _object_or_empty(_object_or_empty(more).get(_OWN))


def _object_or_empty(value: Any) -> dict:
    """Return a value that is a JSON object; {} for any other value."""
    return value if isinstance(value, dict) else {}


def _adapted(own: dict, name: Any, messages: list[dict], rest: dict, more: Any) -> dict:
    """Return the record of chat messages.

    Args:
        own: The fields that eexp has exported, or {}; the id of their task is the record's id.
        name: The id of a record that eexp has not exported.
        more: The log's further data, of which `own` is a part.
    """
    task = own.get("task")
    own_name = task.get("id") if isinstance(task, dict) else None
    own_fields = {k: v for k, v in own.items() if k not in ("type", "task", "lineage")}
    others = {k: v for k, v in more.items() if k != _OWN} if isinstance(more, dict) else {}
    fields = {"log": {**rest, **others}, _OWN: own_fields}
    return {"id": own_name or name, **{key: value for key, value in fields.items() if value}, "messages": messages}


def _in_python(call: dict) -> str:
    """Return a call in Python's notation."""
    function = call["function"]
    arguments = function["arguments"] if isinstance(function["arguments"], dict) else {}
    return Call("", function["name"], arguments, "").as_action(WHOLE)


def _call(call_id: Any, name: Any, arguments: Any) -> dict:
    """Return a call as OpenAI's messages have it."""
    return {"id": call_id, "function": {"name": name, "arguments": arguments}}


def _list(record: dict, key: str, at: str, missing: list | None = None) -> list[dict]:
    """Return a list of objects in a record, or `missing`; raise InputError, with the place, for anything else."""
    value = record.get(key)
    if value is None and missing is not None:
        return missing
    if not isinstance(value, list):
        raise InputError("missing" if value is None else "expected an array", f"{at}.{key}")
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise InputError("expected an object", f"{at}.{key}[{i}]")
    return value


def _text(content: Any, at: str) -> str:
    """Return the text of a message or a result; "" where there is none."""
    text = conversations.joined_parts(content, at)
    if not isinstance(text, (str, type(None))):
        raise InputError("expected a string, or parts of type text", at)
    return text or ""


INSPECT_FORMAT = replace(conversations.MESSAGES_FORMAT, adapt=from_inspect, documents=samples)
INSPECT_LOG = ExportFormat(log_of, to_inspect)
VERIFIERS_FORMAT = replace(conversations.MESSAGES_FORMAT, adapt=from_verifiers, branches=branches_of)


def _log_format(write: Callable[[Log], dict]) -> ExportFormat:
    """Return the format of logs that a function writes, one a line."""
    return ExportFormat(lambda record: write(log_of(record)), with_alternatives=lambda r: write(log_of(r, True)))


ATIF_LOG, VERIFIERS_LOG = _log_format(to_atif), _log_format(to_verifiers)
