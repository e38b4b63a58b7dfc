"""`eexp branch --add`: more alternatives go to the states whose alternatives still lead to something new."""

from __future__ import annotations

import random

import pytest
from running import read, run, write

from eexp.acting.allocation import allocate, surprise
from eexp.records.record import canonical


def state(*outcomes: str) -> dict:
    """Return a step with one executed alternative for each of the observations; "-" stands for a refusal."""
    alternatives = [
        {
            "action": f"go {n}",
            "source": "policy",
            "outcome": {"observation": "You cannot." if text == "-" else text, "done": False, "valid": text != "-"},
        }
        for n, text in enumerate(outcomes)
    ]
    return {"observation": "here", "action": "wait", "alternatives": alternatives}


def trajectory(name: str, *steps: dict) -> dict:
    outcome = {"observation": "the end", "done": True, "success": True}
    return {"type": "trajectory", "id": name, "steps": list(steps), "outcome": outcome}


def room(known: list[dict], most: int) -> list[list[int]]:
    return [[most] * len(t["steps"]) for t in known]


@pytest.mark.parametrize(
    ("outcomes", "probability"),
    [
        ((), 1.0),  # nothing is known
        (("a",), 1.0),
        (("a", "b"), 1.0),
        (("a", "a"), 1 / 3),
        (("a", "a", "b"), 1 / 2),
        (("-",), 1 / 2),
        (("-", "-", "a"), 1 / 2),
        (("the end", "a"), 2 / 3),  # where the expert's action leads
    ],
)
def test_something_new_is_as_probable_as_what_was_met_once(outcomes, probability):
    assert surprise(trajectory("t", state(*outcomes)), 0) == (pytest.approx(probability), len(outcomes))


def test_states_that_surprise_get_more_and_those_that_never_did_come_last():
    known = [trajectory("t", state("a", "b", "c"), state("a", "a", "a"), state("-", "-", "-"), state("a", "a", "b"))]
    ((first, *others, last),) = allocate(known, 8, room(known, 100))
    assert first > last > max(others) and first + last + sum(others) == 8
    assert min(*allocate(known, 100, room(known, 100))) > 0


def test_of_equal_states_the_one_with_the_fewest_alternatives_comes_first():
    known = [trajectory("t", state("a", "b", "c"), state(), state("a"))]
    assert allocate(known, 1, room(known, 4)) == [[0, 1, 0]]
    assert allocate(known, 2, room(known, 4)) == [[0, 1, 1]]


def test_the_total_and_the_most_of_a_state_are_kept():
    draw = random.Random(0)
    known = [
        trajectory(f"{n}", *(state(*draw.choices("abcd-", k=draw.randrange(4))) for _ in range(5))) for n in range(20)
    ]
    for total in (0, 1, 50, 1000):
        numbers = [number for row in allocate(known, total, room(known, 3)) for number in row]
        assert max(numbers) <= 3
        assert sum(numbers) == min(total, 3 * 5 * 20)
    assert allocate(known, 50, room(known, 3)) == [*reversed(allocate(known[::-1], 50, room(known, 3)))]


@pytest.mark.parametrize("source", [("--from", "admissible"), ("-m", "tiny", "--threads", 1, "--max-tokens", 12)])
def test_what_is_there_stays_and_n_more_come(tmp_path, source):
    expert, executed, more = (tmp_path / name for name in ("expert", "executed", "more"))
    run("expert", "house", "-n", 4, "--admissible", "all", "-q", "-o", expert).ok()
    run("branch", "-k", 1, "--from", "admissible", "-q", expert, "-o", tmp_path / "one").ok()
    run("rollout", "-q", tmp_path / "one", "-o", executed).ok()
    run("branch", "--add", 15, *source, executed, "-q", "-o", more).ok()
    added = 0
    for before, after in zip(read(executed), read(more)):
        for old, new in zip(before["steps"], after["steps"]):
            assert new["alternatives"][: len(old["alternatives"])] == old["alternatives"]
            actions = [canonical(a["action"]) for a in new["alternatives"]] + [canonical(new["action"])]
            assert len(actions) == len(set(actions))
            added += len(new["alternatives"]) - len(old["alternatives"])
            assert all(a["outcome"] is None for a in new["alternatives"][len(old["alternatives"]) :])
    assert added == 15
    result = run("rollout", more, "-o", tmp_path / "out").ok()
    assert "15 alternatives executed by" in result.err


def test_a_run_that_was_stopped_adds_the_same(tmp_path):
    run("expert", "house", "-n", 6, "-q", "-o", tmp_path / "expert").ok()
    options = ("branch", "--add", 20, "--from", "admissible", "-q", tmp_path / "expert")
    run(*options, "-o", tmp_path / "whole").ok()
    run(*options, "-o", tmp_path / "cut").ok()
    lines = (tmp_path / "cut").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").write_bytes(b"".join(lines[:3]))
    run(*options, "--resume", "-o", tmp_path / "cut").ok()
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_pools_are_kept_apart(tmp_path):
    steps = [state("a", "b"), state("-", "-")]
    for step in steps:
        for n, alternative in enumerate(step["alternatives"]):
            alternative["pool"] = f"p{n % 2}"
        step["admissible"] = [f"go {n}" for n in range(9)]
    record = trajectory("t", *steps) | {"env": "house", "task": {"id": "0"}, "instruction": "?", "lineage": []}
    write(tmp_path / "in", [record])
    (written,) = run("branch", "--add", 4, "--pool", "p0", "--from", "admissible", tmp_path / "in").ok().records
    first, second = written["steps"]
    assert [a["pool"] for a in first["alternatives"]] == ["p0", "p1", "p0", "p0", "p0"]
    assert [a["pool"] for a in second["alternatives"]] == ["p0", "p1", "p0"]  # its one in this pool was refused


def test_states_without_another_action_get_nothing_and_cost_nothing(tmp_path):
    run("expert", "house", "-n", 3, "--admissible", "all", "-q", "-o", tmp_path / "0").ok()
    added = 0
    for n in range(9):
        states = [step for t in read(tmp_path / f"{n}") for step in t["steps"]]
        left = sum(min(3, step["admissible_count"] - 1 - len(step.get("alternatives") or [])) for step in states)
        run("branch", "--add", 20, "-k", 3, "--from", "admissible", "-q", tmp_path / f"{n}", "-o", tmp_path / "b").ok()
        run("rollout", "-q", tmp_path / "b", "-o", tmp_path / f"{n + 1}").ok()
        now = sum(len(step["alternatives"]) for t in read(tmp_path / "b") for step in t["steps"])
        assert now - added == min(20, left)
        added = now
    assert added == sum(step["admissible_count"] - 1 for step in states)


def test_a_trajectory_that_comes_twice_ends_all_the_same(tmp_path):
    run("expert", "house", "-n", 2, "--admissible", "all", "-q", "-o", tmp_path / "expert").ok()
    states = [step for t in read(tmp_path / "expert") for step in t["steps"]]
    options = ("-k", 3, "--from", "admissible", tmp_path / "expert", tmp_path / "expert")
    written = run("branch", "--add", 5000, *options).ok().records
    numbers = [len(step["alternatives"]) for t in written for step in t["steps"]]
    assert len(written) == 4 and max(numbers) <= 3
    assert sum(numbers) >= sum(min(3, step["admissible_count"] - 1) for step in states)
