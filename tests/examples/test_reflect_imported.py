"""Tests of reflections on trajectories of other projects, with and without the experts' thoughts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conversations import agenttraj_of, eto_of
from running import read, run, write

FORMS = {"agenttraj": (agenttraj_of, "Thought:\nI need it.\n\n"), "eto": (eto_of, "Thought: I need it.\n")}
THOUGHT = "Somebody once told me that this helps."


@pytest.fixture(
    scope="module",
    params=[(form, thinks) for form in FORMS for thinks in (True, False)],
    ids=lambda param: f"{param[0]}-{'with' if param[1] else 'without'}-thoughts",
)
def imported(request, data, tmp_path_factory) -> tuple[Path, bool]:
    """Return house trajectories imported from another format, branched and executed, and whether they have thoughts."""
    (form, thinks), here = request.param, tmp_path_factory.mktemp("imported")
    convert, thought = FORMS[form]
    experts = read(data["expert"])
    text = json.dumps([convert(t, i) for i, t in enumerate(experts)])
    encoded = json.dumps(thought)[1:-1]
    assert text.count(encoded) == sum(len(t["steps"]) for t in experts)
    text = text.replace(encoded, encoded.replace("I need it.", THOUGHT) if thinks else "")
    (here / "foreign").write_text(text)
    names = {f"house_{i}": t["task"]["id"] for i, t in enumerate(experts)}
    mapped = ["--map", write(here / "map", [names])] if form == "agenttraj" else []
    imported_run = run("import", form, "--env", "house", *mapped, here / "foreign").ok()
    branched = run("branch", "--from", "admissible", "-k", "3", stdin=imported_run.out).ok()
    run("rollout", "-o", here / "executed", stdin=branched.out).ok()
    executed = read(here / "executed")
    assert [[s["observation"] for s in t["steps"]] for t in executed] == [
        [s["observation"] for s in t["steps"]] for t in experts
    ]
    assert all(step["thought"] == (THOUGHT if thinks else None) for t in executed for step in t["steps"])
    return here / "executed", thinks


def _followed_by(trajectory: dict, i: int) -> str:
    """Return the observation after the expert's action at step `i`."""
    after = [*(step["observation"] for step in trajectory["steps"][1:]), trajectory["outcome"]["observation"]]
    return after[i]


def _contenders(trajectory: dict, i: int) -> list[dict]:
    """Return the alternatives at step `i` that did worse: executed, not successful, without the expert's outcome."""
    executed = [a["outcome"] for a in trajectory["steps"][i]["alternatives"] if a["outcome"]]
    return [o for o in executed if not o["success"] and o["observation"] != _followed_by(trajectory, i)]


def test_every_step_with_an_executed_alternative_gets_a_reflection_or_is_counted(imported):
    file, _ = imported
    executed = read(file)
    result = run("reflect", "--rationale", "outcome", file).ok()
    reflections = {r["id"]: r for r in result.records}
    steps = {f"{t['id']}/{i}/reflection": (t, i) for t in executed for i in range(len(t["steps"]))}
    expected = {name for name, (t, i) in steps.items() if _contenders(t, i)}
    declined = expected - set(reflections)
    assert f"{len(declined)} states of which the record says nothing" in result.err and len(declined) < 0.2 * len(steps)
    assert set(reflections) <= set(steps)
    assert len(expected) > 0.9 * len(steps), "hardly a step is without an alternative worth weighing"
    for name, reflection in reflections.items():
        (completion,) = reflection["completion"]
        trajectory, i = steps[name]
        action = trajectory["steps"][i]["action"]
        assert completion["content"].rstrip().endswith(action)
        assert THOUGHT not in completion["content"], "the expert's thought is no reflection"
        assert len(completion["content"]) > len(action) + 40, "a reflection weighs something"
        assert reflection["kind"] == "reflection" and reflection["reflection_by"] != "expert"


def test_imitation_keeps_the_expert_s_thoughts(imported):
    file, thinks = imported
    executed = read(file)
    rows = run("imitation-data", file).ok().records
    actions = [step["action"] for t in executed for step in t["steps"]]
    for row, action in zip(rows, actions, strict=True):
        (completion,) = row["completion"]
        assert completion["content"].rstrip().endswith(action)
        assert (THOUGHT in completion["content"]) is thinks
