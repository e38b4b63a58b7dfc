"""Tests of the kinds of outcomes, and of the shares of alternatives that had them."""

from __future__ import annotations

import pytest

from eexp.records.outcomes import Shares, finishes, outcome_kinds, same_as_expert, transition_of
from eexp.records.record import alternatives_of, succeeded


def outcome_of(observation: str, **more: object) -> dict:
    return {"observation": observation, "done": False, "valid": True, **more}


def alternative(action: str, outcome: dict | None = None, **more: object) -> dict:
    return {"action": action, "source": "policy", "outcome": outcome, **more}


@pytest.mark.parametrize(
    ("outcome", "transition"),
    [
        (outcome_of("a room"), "unchanged"),
        (outcome_of("a hall"), "changed"),
        (outcome_of("a room", done=True), "done"),
        (outcome_of("a room", valid=False), "invalid"),
        (outcome_of("The task is over.", valid=False, done=True), "invalid"),
        ({"observation": "a hall"}, "changed"),
        (outcome_of("a room", changed=True), "changed"),
        (outcome_of("a hall", changed=False), "unchanged"),
    ],
)
def test_transitions(outcome, transition):
    assert transition_of("a room", outcome) == transition


def test_an_episode_that_ended_without_success_is_not_finished():
    assert finishes(outcome_of("x", done=True)) and finishes(outcome_of("x", done=True, success=True))
    assert not finishes(outcome_of("x", done=True, success=False)) and not finishes(outcome_of("x", success=None))
    assert finishes(outcome_of("x", success=True)), "some environments go on after a success"


@pytest.mark.parametrize(
    ("score", "success", "finished"),
    [
        (0.0, None, False),
        (0.5, None, False),
        (0.99, None, False),
        (1.0, None, True),
        (None, None, True),
        (0.0, True, True),
        (1.0, False, False),
    ],
)
def test_an_end_completes_the_task_where_it_is_a_success_or_is_not_judged(score, success, finished):
    end = outcome_of("x", done=True, score=score, success=success)
    assert finishes(end) is finished
    assert finishes({**end, "done": False}) is (finished and (score, success) != (None, None))
    assert finishes(end) == succeeded(end) or (score is None and success is None)


def test_same_as_the_expert():
    step = {"observation": "a room", "action": "open door"}
    expert = outcome_of("The door is open.")
    assert same_as_expert(step, expert, alternative("pull door", outcome_of("The door is open.", score=0.5)))
    assert not same_as_expert(step, expert, alternative("kick door", outcome_of("The door is open.", valid=False)))
    assert not same_as_expert(step, expert, alternative("wait", outcome_of("a room")))
    assert not same_as_expert(step, expert, alternative("pull door"))
    assert not same_as_expert(step, None, alternative("pull door", outcome_of("The door is open.")))
    assert same_as_expert(step, None, alternative("Open  door."))


def trajectory() -> dict:
    last = outcome_of("done", done=True, success=True)
    first = [
        alternative("fly", outcome_of("You cannot.", valid=False)),
        alternative("wait", outcome_of("a room")),
        alternative("go out", outcome_of("a hall")),
        alternative("climb", refused="lost"),
        alternative("go out", outcome_of("a hall"), pool="sr"),
    ]
    second = [alternative("finish", last), alternative("sit", None)]
    steps = [
        {"observation": "a room", "action": "leave", "alternatives": first},
        {"observation": "a hall", "action": "end", "alternatives": second},
    ]
    return {"steps": steps, "outcome": last}


def test_kinds_of_an_outcome():
    record = trajectory()
    kinds = [
        outcome_kinds(record, i, a)
        for i, step in enumerate(record["steps"])
        for a in step["alternatives"]
        if a["outcome"]
    ]
    assert kinds == [
        [],
        ["valid"],
        ["valid", "changing", "as the expert"],
        ["valid", "changing", "as the expert"],
        ["valid", "changing", "as the expert", "finishing"],
    ]


def test_shares_by_source_and_pool():
    shares = Shares()
    assert shares.lines() == []
    shares.add(trajectory())
    shares.add({"steps": [{"observation": "a room", "action": "leave"}]})
    assert shares.lines() == [
        "from policy: 6 alternatives, 4 executed, 1 refused, 75 % valid, 50 % change the state, "
        "50 % lead to the expert's outcome, 25 % finish the task",
        "from policy, pool sr: 1 alternative, 100 % valid, 100 % change the state, "
        "100 % lead to the expert's outcome, 0 % finish the task",
    ]
    shares.counts["policy", "sr"].update(alternatives=199, executed=199)
    assert "0.5 % valid" in shares.lines()[1]


def test_alternatives_of_a_step():
    step = {
        "alternatives": [
            alternative("a", pool="iwm"),
            alternative("b"),
            alternative("c", pool="sr"),
            alternative("A.", pool="sr"),
            alternative("d", pool="sr"),
        ]
    }

    def actions(**selection: object) -> list[str]:
        return [a["action"] for a in alternatives_of(step, **selection)]

    assert actions() == ["a", "b", "c", "d"]
    assert actions(first=3) == ["a", "b", "c"] and actions(first=0) == [] and actions(first=9) == actions()
    assert actions(pool="sr") == ["c", "A.", "d"] and actions(pool="sr", first=2) == ["c", "A."]
    assert actions(pool="") == ["b"] and actions(pool="unknown") == []
    assert alternatives_of({}) == [] and alternatives_of({"alternatives": None}) == []


def test_an_action_in_two_pools_is_taken_from_the_one_that_executed_it():
    waiting = {"action": "look", "pool": "a", "outcome": None}
    executed = {"action": "Look.", "pool": "b", "outcome": {"observation": "A room."}}
    assert alternatives_of({"alternatives": [waiting, executed]}) == [executed]
    assert alternatives_of({"alternatives": [executed, waiting]}) == [executed]
