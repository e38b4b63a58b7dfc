"""`reactions`: a hidden table of outcomes, and thoughts that search what was executed.

The law: a task is solved by a way of two operations of its table, and nothing that is shown tells the table.
"""

from __future__ import annotations

import pytest
from running import lines, run

from eexp.envs import open_env
from eexp.envs.worlds import reactions as world
from eexp.errors import UsageError


def test_the_expert_solves_every_task_in_two_operations():
    with open_env("reactions?table=3") as env:
        tasks = [*env.list_tasks("train"), *env.list_tasks("test")]
        assert len(tasks) > 400
        for task in tasks[::9]:
            observation = env.reset(task)
            for _ in range(env.max_steps):
                assert not observation.done
                action = env.expert()
                assert action in env.admissible()
                observation = env.step(action)
            assert observation.success and env.admissible() == [] and env.expert() is None


def test_names_of_bases_and_of_studies_are_different():
    bases, studies = (
        {name for n in numbers for name in world.names_of(n)} for numbers in (range(1000, 1040), range(40))
    )
    assert not bases & studies and len(studies) > 150
    assert world.table_of(0) != world.table_of(1)


def test_what_an_operation_may_do():
    env = open_env("reactions")
    kinds = {"nothing": 0, "ash": 0, "other": 0}
    for task in list(env.list_tasks("test"))[:60]:
        env.reset(task)
        for action in env.admissible():
            copy = env.fork()
            observation = copy.step(action)
            assert observation.valid
            kind = "nothing" if observation.changed is False else "ash" if "ash" in observation.text else "other"
            kinds[kind] += 1
            assert observation.done == (kind == "ash") and observation.score == 0
            if kind == "ash":
                assert copy.step(action).valid is False
        assert env.step("boil the sea").valid is False and not env.over
    assert all(kinds.values())


def test_a_shifted_table_differs_in_the_test_split_alone():
    plain, shifted = open_env("reactions"), open_env("reactions?shift=0.5")
    for env in (plain, shifted):
        env.reset({"id": "train/0"})
    assert plain.table == shifted.table
    for env in (plain, shifted):
        env.reset({"id": "test/0"})
    share = sum(plain.table[key] != shifted.table[key] for key in plain.table) / len(plain.table)
    assert 0.3 < share < 0.6


@pytest.mark.parametrize("options", ["table=x", "table=-1", "words=none", "shift=2", "shift=nan", "shift=x"])
def test_options_that_make_no_sense(options):
    with pytest.raises(UsageError, match="reactions"):
        open_env(f"reactions?{options}")


def test_thoughts_search_what_was_executed_anywhere():
    expert = run("expert", "reactions?words=program", "-n", 12).ok().out
    rolled = run("rollout", stdin=run("branch", "-k", 6, "--from", "admissible", stdin=expert).ok().out).ok()
    for record in run("reflect", "--rationale", "search", stdin=rolled.out).ok().records:
        thought, _, action = record["completion"][0]["content"].removeprefix("Thought: ").partition("\nAction: ")
        *claims, choice = thought.removesuffix(".").split(". ")
        assert choice == f"So I {action}"
        listed = [action for step in (s for r in rolled.records for s in r["steps"]) for action in step["admissible"]]
        assert all(claim.partition(": ")[0].split(", ")[-1] in listed for claim in claims)
        assert claims[-1].endswith(", as asked") and not any("as asked" in claim for claim in claims[:-1])
        assert all(a.split(", ")[0].removeprefix("After ") in listed for a in claims if a.startswith("After "))
        assert record["reflection_by"] == "rule: search"
    alone = run("reflect", "--rationale", "search", "--ahead", 1, stdin=rolled.out).ok()
    assert len(alone.records) == 12 and "from which the executed outcomes do not lead to the end" in alone.err


def test_a_thought_claims_nothing_of_a_state_that_two_outcomes_contradict():
    expert = run("expert", "reactions", "-n", 1).ok().records[0]
    other = {**expert, "id": "other", "steps": [dict(step) for step in expert["steps"]]}
    other["steps"][1]["observation"] = "You hold something else."
    result = run("reflect", "--rationale", "search", stdin=lines([expert, other])).ok()
    assert "1 state whose observation does not say what follows" in result.err
