"""Tests of the exchange of logs with other projects, in both directions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import jsonschema
import pytest
from running import lines, python_of, read, run, write

from eexp.errors import InputError
from eexp.formats import logs
from eexp.records.types import check

PEERS = Path(__file__).parents[1] / "peers"
FORMATS = ("atif", "verifiers", "inspect")
PACKAGES = {"atif": "harbor", "verifiers": "verifiers", "inspect": "inspect_ai"}


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> dict[str, Path]:
    """Return files of the expert's trajectories, with alternatives, and of episodes with thoughts."""
    here = tmp_path_factory.mktemp("runs")
    episodes = read(data["episodes"])
    for episode in episodes:
        for i, turn in enumerate(episode["transcript"]):
            turn |= {"thought": f"I try number {i}.", "text": f"Thought: I try number {i}.\nAction: {turn['action']}"}
    return {"trajectories": data["rollout"], "episodes": write(here / "episodes", episodes)}


def exported(format: str, file: Path) -> bytes:
    return run("export-log", "--format", format, file).ok().out


def steps_of(record: dict) -> list[tuple[str, str, str | None]]:
    turns = record["steps"] if record["type"] == "trajectory" else record["transcript"]
    return [(turn["observation"], turn["action"], turn.get("thought")) for turn in turns]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["trajectories", "episodes"])
def test_an_exported_run_is_imported_unchanged(format, kind, runs):
    own = read(runs[kind])
    imported = run("import", format, "--name", "house", stdin=exported(format, runs[kind])).ok().records
    for before, after in zip(own, imported, strict=True):
        assert steps_of(after) == steps_of(before)
        assert (after["instruction"], after["task"]) == (before["instruction"], {"id": before["task"]["id"]})
        end = before if kind == "episodes" else before["outcome"]
        assert after["outcome"]["observation"] == (before["final"] if kind == "episodes" else end["observation"])
        assert (after["outcome"]["success"], after["outcome"]["score"]) == (end["success"], end["score"])


@pytest.mark.parametrize("format", FORMATS)
def test_an_imported_run_can_be_replayed(format, runs):
    result = run("import", format, "--env", "house", stdin=exported(format, runs["trajectories"])).ok()
    assert [steps_of(t) for t in result.records] == [steps_of(t) for t in read(runs["trajectories"])]
    assert all(t["outcome"]["success"] and t["steps"][0]["admissible"] for t in result.records)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("how", [("--name", "other"), ("--env", "house")])
def test_mistakes_stay_mistakes(format, how, data):
    """What `eexp recover` put into a path is not imitated after an exchange, and the path stays with its original."""
    demonstrations = read(data["expert"])[:2]
    for trajectory in demonstrations:
        trajectory["steps"][1]["alternatives"] = [{"action": "open moon", "source": "policy"}]
    own = run("recover", stdin=run("rollout", stdin=lines(demonstrations)).ok().out).ok().records
    result = run("import", format, *how, stdin=run("export-log", "--format", format, stdin=lines(own)).ok().out).ok()
    marks = [[bool(step.get("mistake")) for step in record["steps"]] for record in own]
    assert [[bool(step.get("mistake")) for step in record["steps"]] for record in result.records] == marks
    assert any(map(any, marks))
    origins = [t["origin"].replace("house/", f"{how[1]}/", 1) if "origin" in t else None for t in own]
    assert [record.get("origin") for record in result.records] == origins


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_logs_are_exchanged_with_the_package_of_the_format(format, runs, tmp_path):
    """The package reads texts, ends, model and task of the records; its own log is imported with calls as steps."""
    python = python_of(PACKAGES[format])
    files = []
    for kind in runs:
        files.append(tmp_path / f"{kind}.json")
        files[-1].write_bytes(exported(format, runs[kind]))
    own = tmp_path / "own.json"
    script = PEERS / f"{PACKAGES[format].removesuffix('_ai')}_peer.py"
    rollout = read(runs["trajectories"])
    forked = tmp_path / "forked.json"
    if format != "inspect":
        forked.write_bytes(run("export-log", "--format", format, "--alternatives", runs["trajectories"]).ok().out)
    process = subprocess.run([python, script, *files, forked, own], capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    *summaries, alternatives = process.stdout.splitlines()
    if format == "atif":
        assert json.loads(alternatives) == [[step["alternatives"] for step in t["steps"]] for t in rollout]
    elif format == "verifiers":
        assert json.loads(alternatives) == [branches(t) for t in rollout]
    for line, records in zip(summaries, map(read, runs.values()), strict=True):
        summary = json.loads(line)
        logged = [logs.log_of(record) for record in records]
        assert [r["texts"] for r in summary["runs"]] == [[m["content"] for m, _ in log.messages()] for log in logged]
        assert [r["roles"] for r in summary["runs"]] == [[m["role"] for m, _ in log.messages()] for log in logged]
        assert [r["success"] for r in summary["runs"]] == [float(log.success) for log in logged]
        assert summary["mean"] == pytest.approx(sum(log.success for log in logged) / len(logged))
        assert (summary["model"], summary["task"]) == (logged[0].model, "house")
    if format == "verifiers":
        (branch,) = run("import", format, "--branches", "all", own).ok().records  # the other one has no action
        assert steps_of(branch) == steps_of(run("import", format, own).ok().records[0])
    (imported,) = run("import", format, own).ok().records
    assert imported["instruction"] == "Find the gold." and imported["task"] == {"id": "one"}
    assert steps_of(imported) == [
        ("A safe.", "open(what='safe')", "I look."),
        ("Gold.", "I take it.", "It is in there."),
    ]


def _object(required: list[str], **properties: dict) -> dict:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


_TEXT, _ANYTHING = {"type": "string"}, {"type": "object"}
#: What ATIF 1.7 asks of the parts that we write (harbor 0.25): which keys each may have and must have, and their types.
ATIF = _object(
    ["schema_version", "agent", "steps"],
    schema_version={"const": "ATIF-v1.7"},
    session_id=_TEXT,
    trajectory_id=_TEXT,
    agent=_object(["name", "version"], name=_TEXT, version=_TEXT, model_name=_TEXT, extra=_ANYTHING),
    steps={
        "type": "array",
        "minItems": 1,
        "items": _object(
            ["step_id", "source", "message"],
            step_id={"type": "integer", "minimum": 1},
            source={"enum": ["system", "user", "agent"]},
            message=_TEXT,
            reasoning_content=_TEXT,
            observation=_object(
                ["results"], results={"type": "array", "items": _object([], content=_TEXT, extra=_ANYTHING)}
            ),
            extra=_ANYTHING,
        ),
    },
    final_metrics=_object([], total_steps={"type": "integer", "minimum": 0}, extra=_ANYTHING),
    extra=_ANYTHING,
)


@pytest.mark.parametrize("kind", ["trajectories", "episodes"])
def test_atif_follows_its_schema(kind, runs):
    """Steps are numbered in order. (Harbor itself, which needs Python 3.12, reads them in the test above.)"""
    for line in exported("atif", runs[kind]).splitlines():
        log = json.loads(line)
        jsonschema.validate(log, ATIF)
        assert [step["step_id"] for step in log["steps"]] == list(range(1, len(log["steps"]) + 1))
        assert all("reasoning_content" not in step or step["source"] == "agent" for step in log["steps"])
        assert log["final_metrics"]["total_steps"] == len(log["steps"])


def test_alternatives_are_exported_only_if_asked_for(runs):
    assert any(step["alternatives"] for t in read(runs["trajectories"]) for step in t["steps"])
    for format in FORMATS:
        assert b"alternatives" not in exported(format, runs["trajectories"])
    message = "--alternatives: inspect has no place for them"
    run("export-log", "--format", "inspect", "--alternatives", runs["trajectories"]).one_error(2, message)


def test_alternatives_in_atif_come_back_unchanged(runs):
    """They stand in `extra` of their step, which ATIF leaves to others, with all other fields of the step."""
    own = read(runs["trajectories"])
    text = run("export-log", "--format", "atif", "--alternatives", runs["trajectories"]).ok().out
    for line in text.splitlines():
        jsonschema.validate(json.loads(line), ATIF)
    for before, after in zip(own, run("import", "atif", stdin=text).ok().records, strict=True):
        assert after["steps"] == [{k: v for k, v in step.items()} for step in before["steps"]]
    one = json.loads(text.splitlines()[0])
    step = next(n for n, step in enumerate(one["steps"]) if step["source"] == "agent")
    odd = replaced(one, ("steps", step, "extra", "eexp", "alternatives", 0, "source"), 3)
    run("import", "atif", stdin=lines([odd])).one_error(3, ".eexp.alternatives[0].source: expected a string")


def branches(trajectory: dict) -> list[list[str]]:
    """Return the texts of every branch of a trajectory's graph: one for each executed alternative, and the run."""
    path = [trajectory["instruction"]]
    found = []
    for step in trajectory["steps"]:
        path.append(step["observation"])
        executed = [a for a in step["alternatives"] if a["outcome"]]
        found += [[*path, a["action"], a["outcome"]["observation"]] for a in executed]
        path.append(step["action"])
    return [*found, [*path, trajectory["outcome"]["observation"]]]


def test_all_branches_of_a_graph_are_imported(runs):
    """Each branch is a trajectory, the last one is the run, and each action of the run is imitated once."""
    own = read(runs["trajectories"])[:2]
    text = run("export-log", "--format", "verifiers", "--alternatives", stdin=lines(own)).ok().out
    expected = [branch for trajectory in own for branch in branches(trajectory)]
    records = run("import", "verifiers", "--branches", "all", "--name", "house", stdin=text).ok().records
    assert len(records) == len(expected) > len(own)
    for record, branch in zip(records, expected, strict=True):
        texts = [text for observation, action, _ in steps_of(record) for text in (observation, action)]
        assert [record["instruction"], *texts, record["outcome"]["observation"]] == branch
    runs_alone = run("import", "verifiers", "--name", "house", stdin=text).ok().records
    assert [steps_of(r) for r in runs_alone] == [steps_of(t) for t in own]
    learned = run("imitation-data", stdin=lines(records)).ok().records
    histories = {tuple(branch[: 2 * n + 3]) for branch in expected for n in range((len(branch) - 1) // 2)}
    assert len(learned) == len(histories) < sum(len(record["steps"]) for record in records)
    run("import", "atif", "--branches", "all", stdin=b"").one_error(2, "--branches all is for graphs of messages")


def test_a_branch_can_be_replayed(runs):
    own = read(runs["trajectories"])[:1]
    text = run("export-log", "--format", "verifiers", "--alternatives", stdin=lines(own)).ok().out
    result = run("import", "verifiers", "--branches", "all", "--env", "house", stdin=text).ok()
    assert len(result.records) == len(branches(own[0]))
    assert sum(not step.get("repeated") for r in result.records for step in r["steps"]) == len(
        {tuple(b[: 2 * n + 3]) for b in branches(own[0]) for n in range((len(b) - 1) // 2)}
    )


def test_records_that_are_no_runs_are_refused(data, runs):
    run("export-log", "--format", "atif", data["imitation"]).one_error(3, "1: $.type: only trajectories and episodes")
    empty = {**read(runs["episodes"])[0], "transcript": []}
    run("export-log", "--format", "atif", stdin=lines([empty])).one_error(3, "<stdin>:1: $.transcript: no action in it")


def test_a_log_of_inspect_has_one_model(runs):
    one, other = read(runs["episodes"])[:2]
    both = [logs.log_of(one), logs.log_of({**other, "model": "another"})]
    with pytest.raises(InputError, match="one model and one environment"):
        logs.to_inspect(iter(both))
    assert run("export-log", "--format", "inspect").ok().out == b""


def test_calls_are_one_action_if_results_do_not_name_them():
    """Harbor's terminal agents write such steps."""
    calls = [
        {"tool_call_id": str(n), "function_name": "keys", "arguments": {"text": text}} for n, text in enumerate("ab")
    ]
    step = {
        "step_id": 2,
        "source": "agent",
        "message": "I type.",
        "tool_calls": calls,
        "observation": {"results": [{"content": [{"type": "text", "text": "$ ab"}]}]},
    }
    record = {
        "schema_version": "ATIF-v1.6",
        "session_id": "s",
        "agent": {"name": "t", "version": "1"},
        "steps": [{"step_id": 1, "source": "user", "message": "Type."}, step],
    }
    (trajectory,) = run("import", "atif", stdin=lines([record])).ok().records
    assert steps_of(trajectory) == [("Type.", "keys(text='a')\nkeys(text='b')", "I type.")]
    assert trajectory["outcome"]["observation"] == "$ ab" and trajectory["id"] == "atif/s"
    assert trajectory["source"]["log"]["agent"] == record["agent"]


def test_a_log_of_inspect_over_many_lines_and_several_in_a_file(runs, tmp_path):
    text = exported("inspect", runs["episodes"])
    indented = tmp_path / "indented.json"
    indented.write_text(json.dumps(json.loads(text), indent=2))
    plain = run("import", "inspect", stdin=text).ok().records
    assert run("import", "inspect", indented).ok().records == plain
    assert len(run("import", "inspect", stdin=text + text).ok().records) == 2 * len(plain)
    run("import", "inspect", stdin=b"\n\n").ok()


@pytest.mark.parametrize(
    ("format", "log", "message"),
    [
        ("atif", {}, "<stdin>:1: $.steps: missing"),
        ("atif", {"steps": [3]}, "$.steps[0]: expected an object"),
        ("atif", {"steps": [{"source": "world"}]}, "$.steps[0].source: expected system, user or agent, got 'world'"),
        (
            "atif",
            {"steps": [{"source": "user", "message": [{"type": "image"}]}]},
            "$.steps[0].message[0]: expected a part of type text",
        ),
        ("atif", {"steps": [{"source": "agent", "message": "a", "observation": 3}]}, "observation: expected an object"),
        ("verifiers", {"nodes": "x"}, "$.nodes: expected an array"),
        ("verifiers", {"traces": []}, "$.traces: expected one trace, got 0"),
        ("verifiers", {"nodes": [{"message": 3}]}, "$.nodes[0].message: expected an object"),
        ("verifiers", {"nodes": [{"parent": 0, "message": {}}]}, "$.nodes: no node at the end"),
        ("verifiers", {"nodes": [{"parent": 5, "message": {}}]}, "$.nodes[0].parent: expected an earlier node"),
        ("verifiers", {"nodes": [{"parent": {}, "message": {}}]}, "$.nodes[0].parent: expected an earlier node"),
        ("atif", {"steps": [{"source": "agent", "tool_calls": [{}, {}]}]}, "tool_calls[0]: expected the name of"),
        (
            "atif",
            {
                "trajectory_id": "t",
                "steps": [
                    {"source": "user", "message": "a"},
                    {"source": "agent", "message": "b", "observation": {"results": [{"content": "c"}]}},
                ],
                "extra": {"eexp": {"success": 3}},
            },
            "$.eexp.success: expected",
        ),
        ("inspect", {"eval": {}, "samples": [{"messages": [{"role": "tool", "content": 3}]}]}, "expected a string"),
        ("inspect", {}, "<stdin>:1: $.eval: no log of Inspect"),
        ("inspect", {"eval": {}, "samples": None}, "$.samples: missing"),
        ("inspect", {"eval": {}, "samples": [{"messages": 3}]}, "<stdin>:element 1: $.messages: expected an array"),
    ],
)
def test_values_that_are_no_logs_are_refused(format, log, message):
    assert message in run("import", format, stdin=lines([log])).one_error(3)


def test_errors_name_their_place():
    with pytest.raises(InputError) as e:
        logs.from_atif({"steps": [{"source": "agent", "message": "a", "tool_calls": {}}]})
    assert str(e.value) == "$.steps[0].tool_calls: expected an array"


def places(value: object, at: tuple = ()):
    """Yield the place of every part of a JSON value, as the keys that lead there."""
    yield at
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*at, key))


def replaced(value: object, at: tuple, part: object) -> object:
    if not at:
        return part
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[at[0]] = replaced(copy[at[0]], at[1:], part)
    return copy


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("odd", [None, 3, True, "x", [], {}, [3], [{}]], ids=repr)
def test_odd_values_at_any_place_are_read_or_refused(format, odd, runs):
    """A log with an odd value becomes a trajectory, or is refused with one line."""
    episode = read(runs["episodes"])[0]
    (log,) = map(
        json.loads,
        exported(
            format, write(runs["episodes"].with_name("one"), [{**episode, "transcript": episode["transcript"][:2]}])
        ).splitlines(),
    )
    calls = (
        {"tool_calls": [{"tool_call_id": "c", "function_name": "f", "arguments": {}}]}
        if format == "atif"
        else {
            "tool_calls": [{"id": "c", "name": "f", "function": "f", "arguments": {} if format == "inspect" else "{}"}]
        }
    )
    turn = {
        "atif": ("steps", 2),
        "verifiers": ("traces", 0, "nodes", 2, "message"),
        "inspect": ("samples", 0, "messages", 2),
    }
    for at in list(places(log := with_calls(log, turn[format], calls))):
        result = run("import", format, stdin=lines([replaced(log, at, odd)]))
        assert result.code in (0, 3) and "Traceback" not in result.err, (at, result.err)
        for record in result.records:
            check(record, "trajectory")


def with_calls(log: dict, at: tuple, calls: dict) -> dict:
    turn = log
    for key in at:
        turn = turn[key]
    return replaced(log, at, {**turn, **calls})
