"""`eexp plan` and `--costs`: what runs took, and what a larger one would take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import read, run, write

from eexp.errors import InputError
from eexp.evidence.costing import _play, plan
from eexp.evidence.settings import PlanSettings


def cost(stage: str = "rollout", n: int = 100, seconds: float = 1.0, k: int = 2, **more) -> dict:
    """Return a line of --costs: `n` trajectories of k alternatives, one second of start and `seconds` for each."""
    return {
        "type": "cost",
        "stage": stage,
        "entry": f"{stage} 0.2.0 k={k} seed=0",
        "reads": ["trajectory"],
        "server": False,
        "in": n,
        "done_before": 0,
        "out": n,
        "bytes": 1000 * n,
        "alternatives": k * n,
        "seconds": 9.0,
        "start_seconds": 5.0,
        "cpu_seconds": 1 + seconds * (n - 1),
        "start_cpu_seconds": 1.0,
        "memory": 10**9,
        "worker_memory": 10**9,
        "cores": 2,
        **more,
    }


def test_costs_grow_with_the_trajectories():
    settings = PlanSettings(trajectories=7200, nodes=4, cores=2, parts=8)
    first, total = plan([cost(), cost(n=50)], settings)
    assert first["record_seconds"] == pytest.approx(1) and first["start"] == pytest.approx(1)
    assert first["core_hours"] == pytest.approx(2, rel=0.05) and first["hours"] == pytest.approx(0.25, rel=0.1)
    assert first["bytes"] == 7_200_000 and first["memory"] == 4e9
    assert first["lost_hours"] > first["hours"] * 1.3, "eight parts on eight cores leave nobody to help"
    many = plan([cost()], PlanSettings(trajectories=7200, nodes=4, cores=2, parts=800))[0]
    assert many["lost_hours"] < many["hours"] * 1.25, "a quarter of half of the time"
    assert (total["stage"], total["slowest"], total["parts"]) == ("all", "rollout", 8)


def test_the_time_of_a_server_counts_and_not_that_of_the_processor():
    first = plan([cost(server=True, n=5)], PlanSettings(trajectories=10))[0]
    assert first["record_seconds"] == pytest.approx(1.0) and first["start"] == 5 and first["server"]


def test_alternatives_cost_what_runs_with_several_say():
    """Without a second K everything grows with it."""
    one = plan([cost(k=2)], PlanSettings(trajectories=10, k=8))
    assert one[0]["record_seconds"] == pytest.approx(4) and "another K" in one[1]["notes"][0]
    expert = cost("expert", seconds=0.5, reads=[], alternatives=0, entry="expert 0.2.0 seed=0", **{"in": 0})
    assert plan([expert, cost()], PlanSettings(trajectories=10, k=8))[0]["record_seconds"] == pytest.approx(0.5)
    with pytest.raises(InputError, match="same number"):
        plan([cost(k=2), cost(k=4)], PlanSettings(trajectories=10, k=8))


def test_examples_and_episodes_are_left_out():
    total = plan([cost(), cost("mix", reads=["example"])], PlanSettings(trajectories=10))[-1]
    assert total["notes"] == ["left out, as they process no trajectories: mix"]


@given(
    work=st.lists(st.floats(0, 100), min_size=1, max_size=30),
    nodes=st.integers(1, 4),
    cores=st.integers(1, 3),
    start=st.floats(0, 5),
    share=st.floats(0, 1),
)
def test_no_part_is_lost_with_a_node(work, nodes, cores, start, share):
    whole = _play(work, start, nodes, cores)
    total = sum(work) + start * len(work)
    longest = max(work) + start
    assert max(longest, total / nodes / cores) - 1e-6 <= whole <= total / nodes / cores + longest + 1e-6
    lost = _play(work, start, nodes, cores, lost_at=share * whole)
    assert whole - 1e-6 <= lost + longest and lost <= whole + total + start * cores + 1e-6


def test_a_pipe_says_what_it_takes(tmp_path, monkeypatch):
    costs = tmp_path / "costs"
    monkeypatch.setenv("EEXP_COSTS", str(costs))
    expert, branched, rolled = (tmp_path / name for name in ("expert", "branched", "rolled"))
    run("expert", "house", "-n", 6, "-q", "-o", expert).ok()
    run("branch", "--from", "admissible", "-k", 2, "-q", "-o", branched, expert).ok()
    run("rollout", "-j", 1, "-q", "-o", rolled, branched).ok()
    monkeypatch.delenv("EEXP_COSTS")
    lines = read(costs)
    assert [line["stage"] for line in lines] == ["expert", "branch", "rollout"]
    for line, path in zip(lines, (expert, branched, rolled)):
        assert line["out"] == 6 and line["bytes"] == path.stat().st_size
        assert 0 < line["start_cpu_seconds"] <= line["cpu_seconds"]
    n_alternatives = sum(len(step["alternatives"]) for record in read(branched) for step in record["steps"])
    assert lines[1]["alternatives"] == lines[2]["alternatives"] == n_alternatives
    table = run("plan", costs, "--trajectories", 1000, "-k", 4, "--nodes", 3).ok().out.decode()
    assert "1,000 trajectories on 3 nodes" in table and "rollout" in table
    rows = run("plan", costs, "--trajectories", 1000, "--json").ok().records
    assert [row["stage"] for row in rows] == ["expert", "branch", "rollout", "all"]
    assert rows[1]["bytes"] == pytest.approx(branched.stat().st_size / 6 * 1000)


def test_records_an_earlier_run_has_done_are_not_counted(tmp_path):
    whole, part, costs = tmp_path / "whole", tmp_path / "part", tmp_path / "costs"
    run("expert", "house", "-n", 8, "-q", "-o", whole).ok()
    part.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:5]))
    run("expert", "house", "-n", 8, "--resume", "-q", "--costs", costs, "-o", part).ok()
    (line,) = read(costs)
    assert (line["done_before"], line["out"]) == (5, 3) and part.read_bytes() == whole.read_bytes()


def test_what_is_no_line_of_costs_is_refused(tmp_path):
    bad = write(tmp_path / "bad", [{"type": "trajectory"}])
    run("plan", bad, "--trajectories", 9).one_error(3, f"{bad}:1: $: not a line that --costs wrote")
    (tmp_path / "half").write_text(json.dumps(cost())[:-5])
    run("plan", tmp_path / "half", "--trajectories", 9).one_error(3, f"{tmp_path}/half:1: not valid JSON")
    few = write(tmp_path / "few", [{"type": "cost", "stage": "x"}])
    run("plan", few, "--trajectories", 9).one_error(3, "not a line that --costs wrote")
    examples = write(tmp_path / "examples", [cost("mix", reads=["example"])])
    run("plan", examples, "--trajectories", 9).one_error(3, "no run of a stage that processes trajectories")
    run("expert", "house", "-n", 1, "--costs", Path("/nothing/x"), "-q").one_error(1, "/nothing/x")
    same = tmp_path / "same"
    run("expert", "house", "-n", 1, "--costs", same, "-o", same).one_error(2, "both -o and --costs")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cores", "x"),
        ("cores", 1e308),
        ("cores", -3),
        ("cores", 10**9),
        ("entry", 5),
        ("stage", [1]),
        ("reads", [{}]),
        ("memory", None),
        ("alternatives", 1e308),
        ("start_cpu_seconds", 1e308),
        ("in", -5),
    ],
)
def test_a_wrong_field_of_costs_is_one_line(tmp_path, field, value):
    bad = write(tmp_path / "bad", [cost(), cost(**{field: value})])
    place = "$.reads[0]" if field == "reads" else f"$.{field}"
    run("plan", bad, "--trajectories", 9).one_error(3, f"{bad}:2: {place}: not a line that --costs wrote: expected ")


def test_the_largest_plan_is_simulated_and_a_larger_one_is_refused(tmp_path):
    costs = write(tmp_path / "costs", [cost(seconds=1e9, k=0)])
    size = ("--trajectories", 10**12, "--cores", 100, "--parts", 500)
    total = run("plan", costs, *size, "--nodes", 1000, "--json").ok().records[-1]
    assert total["core_hours"] == pytest.approx(10**21 / 3600, rel=0.01)
    run("plan", costs, *size, "--nodes", 1001).one_error(2, "--nodes 1,001 of 100 cores: at most 100,000 cores")
    run("plan", costs, *size, "--nodes", 10**9).one_error(2, "--nodes")
    run("plan", costs, "--trajectories", 10**400).one_error(2, "--trajectories")
