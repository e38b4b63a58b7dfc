"""Mistakes in the expert's path: they are the policy's own, the path still leads on, and no example imitates them."""

from __future__ import annotations

import copy
import math
from collections import Counter
from itertools import pairwise

import pytest
from running import lines, read, run

from eexp.examples.recover import IMPROBABLE, INSERTED, recover
from eexp.examples.settings import RecoverSettings


@pytest.fixture(scope="module")
def rolled(tmp_path_factory):
    """Return trajectories in which many alternatives are refused: those of the untrained model."""
    expert = run("expert", "house", "-n", "6").ok().out
    branched = run("branch", "-m", "tiny", "-k", "3", "--no-only-admissible", "--temperature", "2", stdin=expert).ok()
    return run("rollout", stdin=branched.out).ok().records


def _own_steps(trajectory: dict) -> list[dict]:
    return [step for step in trajectory["steps"] if not step.get("mistake")]


def test_mistakes_are_refused_alternatives_with_their_answers(rolled):
    mistakes = 0
    for before, after in zip(rolled, recover(iter(rolled), RecoverSettings(share=1.0))):
        assert [s["action"] for s in _own_steps(after)] == [s["action"] for s in before["steps"]]
        assert after["id"] == f"{before['id']}/recover" and after["outcome"] == before["outcome"]
        states = iter(before["steps"])
        state = next(states)
        for step, following in pairwise(after["steps"]):
            if not step.get("mistake"):
                state = next(states)
                continue
            mistakes += 1
            (made_of,) = [a for a in state["alternatives"] if a["action"] == step["action"]]
            assert (
                made_of["outcome"]["valid"] is False and following["observation"] == made_of["outcome"]["observation"]
            )
            assert step["alternatives"] == [] and step["admissible"] == state["admissible"]
            assert following["alternatives"] in ([], state["alternatives"])
    assert mistakes > 10


def test_the_path_leads_on(rolled):
    """Executed again, every mistake is answered as recorded, and the expert's path goes on after it."""
    recovered = list(recover(iter(rolled), RecoverSettings(share=1.0, most=3)))
    result = run("rollout", "--again", stdin=lines(recovered)).ok()
    assert "refused" not in result.err.replace("answered as invalid", "")
    assert len(result.records) == len(rolled)


def test_draws_depend_on_the_record_and_the_seed(rolled):
    variants = list(recover(iter(rolled)))
    assert variants == list(recover(iter(rolled[::-1])))[::-1] != list(recover(iter(rolled), RecoverSettings(seed=1)))
    assert next(recover(iter(rolled), RecoverSettings(share=0)))["steps"] == rolled[0]["steps"]


def test_mistakes_are_seen_and_not_imitated(rolled):
    recovered = list(recover(iter(rolled), RecoverSettings(share=1.0)))
    own, mistakes = (
        sum(bool(s.get("mistake")) is flag for t in recovered for s in t["steps"]) for flag in (False, True)
    )
    imitated = run("imitation-data", stdin=lines(recovered)).ok().records
    assert len(imitated) == own
    prompts = "\n".join(m["content"] for e in imitated for m in e["prompt"])
    targets = {e["completion"][0]["content"] for e in imitated}
    for t in recovered:
        for step in t["steps"]:
            if step.get("mistake"):
                assert f"Action: {step['action']}" in prompts
    assert targets == {f"Action: {s['action']}" for t in rolled for s in t["steps"]}
    reflected = run("reflect", "--rationale", "environment", "--weigh", "0", stdin=lines(recovered)).ok()
    assert len(reflected.records) == own
    assert f"{mistakes} mistakes on the path, of which no example is made" in reflected.err
    predicted = run("world-model-data", "--max-repeats", "all", stdin=lines(recovered)).ok().records
    assert len([e for e in predicted if e["id"].endswith("/expert")]) == own


def test_where_nothing_was_refused_nothing_changes(data):
    plain = read(data["rollout"])
    assert [t["steps"] for t in recover(iter(plain))] == [t["steps"] for t in plain]
    assert [t["steps"] for t in recover(iter(plain), RecoverSettings(pool="other"))] == [t["steps"] for t in plain]


def test_alternatives_that_were_not_executed_are_counted(data):
    """A forgotten `eexp rollout` would make plain imitation of what is meant to be more."""
    rolled = read(data["rollout"])[:2]
    branched = [{**t, "steps": [{**s, "alternatives": unexecuted(s)} for s in t["steps"]]} for t in rolled]
    states = sum(len(t["steps"]) for t in branched)
    assert f"{states} states without executed alternatives" in run("recover", stdin=lines(branched)).ok().err
    alternatives = sum(len(s["alternatives"]) for t in branched for s in t["steps"])
    predicted = run("world-model-data", stdin=lines(branched)).ok()
    assert f"{alternatives} alternatives without an outcome" in predicted.err
    bare = [{**t, "steps": [{**s, "alternatives": []} for s in t["steps"]]} for t in rolled]
    assert "no state has alternatives" in run("rollout", stdin=lines(bare)).ok().err
    assert run("recover", stdin=b"").ok().err == "recover: no records in the input\n"


def unexecuted(step: dict) -> list[dict]:
    return [{**alternative, "outcome": None} for alternative in step["alternatives"]]


def test_what_was_recovered_is_not_branched(rolled):
    run(
        "branch", "--from", "admissible", stdin=lines(list(recover(iter(rolled), RecoverSettings(share=1.0))))
    ).one_error(3, "<stdin>:1: $.steps: holds mistakes put in by `eexp recover`; branch before that")


def test_a_variant_stays_with_its_origin(rolled, tmp_path):
    """Otherwise a held-out record would be trained on, with mistakes in between."""
    recovered = list(recover(recover(iter(rolled))))
    assert [t["origin"] for t in recovered] == [t["id"] for t in rolled]
    assert {e["group"] for e in run("imitation-data", stdin=lines(recovered)).ok().records} == {t["id"] for t in rolled}
    parts = [run("split", "--part", "1", stdin=lines(records)).ok().records for records in (rolled, recovered)]
    assert [t["id"] for t in parts[0]] == [t["origin"] for t in parts[1]]


def test_mistakes_that_the_policy_hardly_makes_are_left_out(rolled):
    probable = {
        (trajectory["id"], a["action"])
        for trajectory in rolled
        for step in trajectory["steps"]
        for a in step["alternatives"]
        if a["logprob"] is not None and math.exp(a["logprob"]) >= 0.01
    }
    counts: Counter[str] = Counter()
    few = list(recover(iter(rolled), RecoverSettings(min_probability=0.01), count=lambda *n: counts.update(dict([n]))))
    put_in = [(t["origin"], s["action"]) for t in few for s in t["steps"] if s.get("mistake")]
    assert put_in and set(put_in) <= probable and counts[INSERTED] == len(put_in)
    assert counts[IMPROBABLE] > 0
    unscored = copy.deepcopy(rolled)
    for trajectory in unscored:
        for step in trajectory["steps"]:
            for a in step["alternatives"]:
                a.pop("logprob")  # as in a record from elsewhere: nothing says how often the policy does this
    none = recover(iter(unscored), RecoverSettings(min_probability=0.01))
    assert not any(step.get("mistake") for trajectory in none for step in trajectory["steps"])
