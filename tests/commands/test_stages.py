"""The output of each stage: the rules of the method, one after the other."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from itertools import cycle, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import lines, read, run, write

from eexp.acting.branch import EQUAL_IN_WORDS, begins_with, branch
from eexp.acting.expert import expert
from eexp.acting.rollout import rollout
from eexp.acting.settings import BranchSettings, RolloutSettings
from eexp.envs.listing import sample_admissible
from eexp.envs.worlds.house import House
from eexp.errors import EnvironmentFailed
from eexp.examples.imitation import imitation_data
from eexp.examples.mixture import Source, mix, parse_source
from eexp.examples.parts import sample, split
from eexp.examples.settings import MixSettings, SplitSettings, WorldModelSettings
from eexp.examples.world_model import world_model_data
from eexp.models.policy import ActionDraw, Policy, Proposal, RandomPolicy
from eexp.prompts import get_style
from eexp.records.record import canonical
from eexp.workers.jobs import InProcess

STYLE = get_style("react")


@pytest.fixture(scope="module")
def experts() -> list[dict]:
    house = House()
    return list(expert(house, (t for t, _ in zip(house.tasks("train"), range(12)))))


@pytest.fixture(scope="module")
def rolled(experts) -> list[dict]:
    return list(
        rollout(branch(iter(experts), None, BranchSettings(k=3, source="admissible")), InProcess(lambda _: House()))
    )


class Parrot(Policy):
    """A policy that proposes the same actions in the same order, and records its requests."""

    def __init__(self, *sayings: str):
        self.sayings, self.asked = sayings, []

    def answer(self, groups):
        for group in groups:
            yield [self._answer(choice) for choice in group]

    def _answer(self, choice):
        proposals = cycle(Proposal(action, logprob=-float(i)) for i, action in enumerate(self.sayings))
        most = 1 if choice.temperature == 0 else choice.most or choice.n
        self.asked.append((choice.n, most, choice.seed))
        return list(islice(filter(choice.accept, islice(proposals, most)), choice.n))


# -- expert ----------------------------------------------------------------------------------------------------------


def test_expert_numbers_of_tasks():
    def ids(*args):
        return [r["id"] for r in run("expert", "house", *args).ok().records]

    assert ids("-n", 0) == []
    assert ids("-n", 3) == [f"house/train/{i}" for i in range(3)]
    assert ids("-n", 2, "--skip", 2) == ["house/train/2", "house/train/3"]
    assert ids("-n", 2, "--split", "ood") == ["house/ood/0", "house/ood/1"]
    assert run("expert", "house", "--split", "ood", "-n", 1).records[0]["task"]["split"] == "ood"


def test_expert_keeps_a_sample_of_the_admissible_actions():
    whole = run("expert", "house", "-n", 2, "--admissible", "all").ok().records
    some = run("expert", "house", "-n", 2, "--admissible", 3).ok().records
    none = run("expert", "house", "-n", 2, "--admissible", "none").ok().records
    for a, b, c in zip(whole, some, none):
        for full, few, bare in zip(a["steps"], b["steps"], c["steps"]):
            assert full["admissible_count"] == len(full["admissible"]) == few["admissible_count"]
            assert len(few["admissible"]) == min(3, len(full["admissible"]))
            assert full["action"] in full["admissible"] and few["action"] in few["admissible"]
            order = [full["admissible"].index(x) for x in few["admissible"]]
            assert order == sorted(order)
            assert bare["admissible"] is None and "admissible_count" not in bare
    assert some == run("expert", "house", "-n", 2, "--admissible", 3).ok().records
    assert some != run("expert", "house", "-n", 2, "--admissible", 3, "--seed", 1).ok().records


def test_sample_admissible_keeps_the_experts_own():
    admissible = [f"a{i}" for i in range(100)]
    for seed in range(50):
        sample = sample_admissible(admissible, 5, "A77.", seed)
        assert "a77" in sample and len(sample) == 5 and len(set(sample)) == 5
    assert sample_admissible(admissible, 1, "a3", 0) == ["a3"]
    assert len(sample_admissible(admissible, 5, "not among them", 0)) == 5


def test_expert_leaves_out_trajectories_without_success():
    result = run("expert", "house", "-n", 10, "--max-steps", 4).ok()
    everything = run("expert", "house", "-n", 10, "--max-steps", 4, "--all").ok().records
    assert len(everything) == 10 and all(len(r["steps"]) <= 4 for r in everything)
    assert [r["id"] for r in result.records] == [r["id"] for r in everything if r["outcome"]["success"]]
    assert f"{10 - len(result.records)} trajectories left out: the expert did not succeed" in result.err


def test_trajectories_without_success_are_set_aside_when_asked(tmp_path):
    """With --rejects FILE, each is in FILE whole, and the exit code says so; --shard marks it."""
    args, rejects = ["expert", "house", "-n", 4, "--noise", 0.5], tmp_path / "rejects"
    every = {r["id"]: r for r in run(*args, "--all").ok().records}
    kept = run(*args).ok().records
    lost = [i for i in every if i not in {r["id"] for r in kept}]
    assert kept and lost
    for more in ([], ["--shard", "1/1"]):
        result = run(*args, *more, "--rejects", rejects).ok(4)
        assert [r["id"] for r in result.records if r["type"] == "trajectory"] == [r["id"] for r in kept]
        aside = [r for r in read(rejects) if r["type"] == "reject"]
        assert [r["record"] for r in aside] == [{k: v for k, v in every[i].items() if k != "lineage"} for i in lost]
        assert all(r["error"] == "$.outcome: the expert did not succeed" for r in aside)
        assert f"{len(lost)} set aside in {rejects}" in result.err
        assert result.err.count(f"expert: set aside: {lost[0]}: ") == 1
    assert "2 set aside" in run(*args, "--on-error", "skip").ok(4).err and len(lost) == 2


def test_a_trajectory_is_played_twice_where_timing_may_change_it(tmp_path):
    """What goes differently the second time is refused, with the place, and the others are those of one play."""
    rejects = tmp_path / "rejects.jsonl"
    result = run("expert", "liars:Hurried", "-n", 6, "--rejects", rejects).ok(4)
    once = run("expert", "liars:Honest", "-n", 6).ok().records
    tasks = [record["task"]["id"] for record in once]
    assert [record["task"]["id"] for record in result.records] == [id for n, id in enumerate(tasks) if n % 2]
    assert [record["steps"] for record in result.records] == [record["steps"] for record in once[1::2]]
    (first, *_) = read(rejects)
    assert "$.steps[2].observation: played again, it goes differently: the observation is" in first["error"]
    assert "All is quiet." in first["evidence"]["recorded"] and "All is quiet." not in first["evidence"]["observed"]


def test_the_house_repeats_an_experts_path(experts):
    for t in experts:
        house = House()
        observation = house.reset(t["task"])
        assert house.instruction() == t["instruction"]
        for step in t["steps"]:
            assert (observation.text, house.admissible()) == (step["observation"], step["admissible"])
            observation = house.step(step["action"])
        assert observation.outcome() == t["outcome"] and observation.success


# -- branch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["policy", "admissible", "mixed"])
@pytest.mark.parametrize("k", [1, 2, 5, 50])
def test_alternatives_are_distinct_and_never_the_experts_own(experts, source, k):
    policy = None if source == "admissible" else RandomPolicy()
    short = Counter()
    branched = list(
        branch(
            iter(experts), policy, BranchSettings(k=k, source=source), count=lambda what, n=1: short.update({what: n})
        )
    )
    missing = 0
    for before, after in zip(experts, branched):
        for old, step in zip(before["steps"], after["steps"]):
            same = [canonical(a["action"]) for a in step["alternatives"]]
            assert len(set(same)) == len(same) and canonical(step["action"]) not in same
            others = {canonical(a) for a in step["admissible"]} - {canonical(step["action"])}
            assert len(same) == min(k, len(others)) and set(same) <= others
            assert all(a["outcome"] is None for a in step["alternatives"])
            assert {k: v for k, v in step.items() if k != "alternatives"} == old
            missing += len(same) < k
    assert short["state[s] with fewer than k alternatives"] == missing
    total = sum(len(s["alternatives"]) for t in branched for s in t["steps"])
    origins = ("from the policy", "filled up from the admissible actions", "taken from the admissible actions")
    assert sum(short[f"alternative[s] {origin}"] for origin in origins) == total


def test_sameness_is_up_to_case_blanks_and_punctuation(experts):
    own = experts[0]["steps"][0]["action"]
    policy = Parrot(own.upper() + ".", f"  {own}  ", "", "  ", "fly away", "Fly  away!", "`fly away`", "swim")
    counts = Counter()
    one = [{**experts[0], "steps": experts[0]["steps"][:1]}]
    (branched,) = branch(
        iter(one),
        policy,
        BranchSettings(k=8, rounds=1, only_admissible=False),
        count=lambda what, n=1: counts.update({what: n}),
    )
    alternatives = branched["steps"][0]["alternatives"]
    draws = [(a["action"], a["logprob"]) for a in alternatives if a["source"] == "policy"]
    assert draws == [("fly away", -4.0), ("swim", -7.0)]
    assert counts["draw[s] of the expert's own action"] == 2 and counts["draw[s] without an action"] == 2
    assert counts["duplicate draw[s] dropped"] == 2 and counts["alternative[s] from the policy"] == 2
    assert counts[EQUAL_IN_WORDS] == 3, "all four but the one with other blanks around it"
    rest = [a for a in alternatives if a["source"] == "admissible"]
    assert (
        counts["alternative[s] filled up from the admissible actions"]
        == len(rest)
        == len(one[0]["steps"][0]["admissible"]) - 1
    )
    assert all(a["logprob"] is None for a in rest)


@pytest.mark.parametrize("record", [{"env": "exec:sh world.sh"}, {"action_equality": "exact"}, {"tools": [{}]}])
def test_every_character_counts_in_a_shell(experts, record):
    drawn = ("ls -S", " ls -s ", "ls -A", "ls -a", "ls", "ls .", "ls -a")
    step = {"observation": "$", "action": "ls -S", "admissible": None}
    policy, counts = Parrot(*drawn), Counter()
    (branched,) = branch(
        iter([{**experts[0], **record, "steps": [step]}]),
        policy,
        BranchSettings(k=7, rounds=1),
        count=lambda what, n=1: counts.update({what: n}),
    )
    alternatives = branched["steps"][0]["alternatives"]
    assert [a["action"].strip() for a in alternatives] == ["ls -s", "ls -A", "ls -a", "ls", "ls ."]
    assert counts["draw[s] of the expert's own action"] == counts["duplicate draw[s] dropped"] == 1
    assert not counts[EQUAL_IN_WORDS]
    executed = [{**a, "outcome": {"observation": a["action"], "done": False}} for a in alternatives]
    trajectory = {**branched, "steps": [{**step, "alternatives": executed}], "outcome": None}
    examples = list(world_model_data(iter([trajectory]), STYLE, WorldModelSettings(expert=False)))
    assert len(examples) == 5, "later stages tell them apart, too"


def test_requests_to_the_policy(experts):
    parrot = Parrot("x", "y")
    list(branch(iter(experts), parrot, BranchSettings(k=2, rounds=5)))
    assert {(n, most) for n, most, _ in parrot.asked} == {(2, 10)}
    assert len({seed for *_, seed in parrot.asked}) == sum(len(t["steps"]) for t in experts), "states share no draws"


@pytest.mark.parametrize("extra", [[], ["--replacement"]])
def test_alternatives_are_drawn_although_the_policy_is_sure_of_the_expert(experts, tmp_path, extra):
    """Draws without replacement reach other actions."""
    file = write(tmp_path / "in", experts[:2])
    args = ["branch", "-k", 3, "-m", "tiny", "--temperature", 0.5 if not extra else 1, "--rounds", 40, *extra, file]
    result = run(*args, "--min-p", 0, "--no-only-admissible").ok()
    for step in (s for t in result.records for s in t["steps"]):
        same = [canonical(a["action"]) for a in step["alternatives"]]
        assert len(set(same)) == 3 and canonical(step["action"]) not in same
        assert {a["source"] for a in step["alternatives"]} == {"policy"}
    assert "of the expert's own action" in result.err
    assert ("duplicate draw" in result.err) == bool(extra)


def test_actions_are_drawn_by_score(experts, tmp_path):
    file = write(tmp_path / "in", experts[:2])
    args = ["branch", "-k", 2, "--from", "scored", "-m", "tiny"]
    best = run(*args, "--temperature", 0, "-k", 99, file).ok().records
    for before, after in zip(experts, best):
        for old, step in zip(before["steps"], after["steps"]):
            logprobs = [a["logprob"] for a in step["alternatives"]]
            assert logprobs == sorted(logprobs, reverse=True) and all(p < 0 for p in logprobs)
            assert {a["action"] for a in step["alternatives"]} == set(old["admissible"]) - {old["action"]}
    branched = run(*args, "--seed", 5, file).ok().records
    again = run(*args, "--seed", 5, stdin=lines(experts[:2][::-1])).ok().records[::-1]
    assert [t["steps"] for t in branched] == [t["steps"] for t in again]
    assert [t["steps"] for t in branched] != [t["steps"] for t in run(*args, "--seed", 6, file).ok().records]
    refused = run("branch", "--from", "scored", "-m", "random", file)
    assert refused.code == 2 and "cannot score" in refused.err


def one_step(experts: list[dict], **more: object) -> list[dict]:
    return [{**experts[0], "steps": [{**experts[0]["steps"][0], **more}]}]


def test_only_admissible_drops_inadmissible_draws(experts):
    one = one_step(experts)
    listed = [a for a in one[0]["steps"][0]["admissible"] if a != one[0]["steps"][0]["action"]]

    counts = Counter()

    def actions(record: list[dict], **how: bool) -> list[str]:
        (branched,) = branch(
            iter(record),
            Parrot("fly away", listed[0]),
            BranchSettings(k=2, rounds=1, **how),
            count=lambda what, n=1: counts.update({what: n}),
        )
        return [a["action"] for a in branched["steps"][0]["alternatives"]]

    assert "fly away" not in actions(one) and len(actions(one)) == 2, "the paper's way, unless another is asked for"
    assert "fly away" in actions(one, only_admissible=False)
    # a sampled list says nothing about what is not in it
    assert "fly away" in actions(one_step(experts, admissible_count=99))
    assert "fly away" in actions(one_step(experts, admissible=None))
    assert "fly away" not in actions(one_step(experts, admissible_count=None))
    assert counts["state[s] whose admissible actions are not all known"] == 2 < counts["inadmissible draw[s] dropped"]


def test_the_lineage_says_whether_only_admissible_actions_were_drawn(experts, tmp_path):
    file = write(tmp_path / "in", one_step(experts, admissible=None))
    args = ["branch", "-k", 1, "-m", "tiny", "--max-tokens", 8, file]
    settings = run(*args).ok().records[0]["lineage"][-1].split()
    assert "only-admissible=True" in settings and "min-p=0.05" in settings
    more = ["--no-only-admissible", "--min-p", 0, "--top-p", 0.9, "--ban", "look", "--ban", "go to", "--pool", "sr"]
    settings = run(*args, *more).ok().records[0]["lineage"][-1]
    assert settings.endswith("top-p=0.9 only-admissible=False ban=look,go to pool=sr") and "min-p" not in settings
    for setting in ("min-p", "only-admissible", "top-p", "ban", "pool"):
        assert setting not in run("branch", "--from", "admissible", file).ok().records[0]["lineage"][-1]
    for how in (["--replacement"], ["--temperature", 0], ["--from", "scored"], ["-m", "random"]):
        assert "min-p" not in run(*args, *how, stdin=b"").out.decode(), "no floor unless it is asked for"


def test_banned_actions_are_neither_drawn_nor_filled_up_with(experts):
    (step,) = one_step(experts)[0]["steps"]
    going = [a for a in step["admissible"] if a.startswith("go to ") and a != step["action"]]
    assert going and begins_with(going[0], "GO  to") and not begins_with("goto hall", "go")
    counts = Counter()
    (branched,) = branch(
        iter(one_step(experts)),
        Parrot("Go to  the moon", "gobble", going[0]),
        BranchSettings(k=50, rounds=1, only_admissible=False, ban=["go", "open fridge"]),
        count=lambda what, n=1: counts.update({what: n}),
    )
    actions = [a["action"] for a in branched["steps"][0]["alternatives"]]
    banned = [a for a in step["admissible"] if a != step["action"] and (a.startswith("go ") or a == "open fridge")]
    assert actions[0] == "gobble" and len(actions) == len(set(step["admissible"])) - len(banned)
    assert not any(a.casefold().startswith("go ") for a in actions)
    assert counts["banned draw[s] dropped"] > 1 and counts["admissible action[s] banned"] == len(banned)


@pytest.mark.parametrize(
    ("action", "prefix", "banned"),
    [
        ("look", "look", True),
        ("Look around.", "look", True),
        ("look at x", "look at", True),
        ("look(x)", "look", True),
        ("search[red shoes]", "search", True),
        ("look", "look at", False),
        ("lookup x", "look", False),
        ("look-up x", "look", False),
        ("look_up", "look", False),
        ("go to bedroom", "go to bed", False),
    ],
)
def test_an_action_begins_with_whole_words(action, prefix, banned):
    assert begins_with(action, prefix) == banned


def test_options_of_names_and_words(data):
    args = ["branch", "--from", "admissible", data["expert"]]
    banned = run(*args, "--ban", "look", "--ban", "go to").ok()
    assert "banned" in banned.err
    run("branch", "--from", "admissible", "--ban", " . ").one_error(2, "has no words")
    run("branch", "--from", "admissible", "--pool", "a b").one_error(2, "is no name")
    run("branch", "--from", "admissible", "--top-p", 0).one_error(2, "--top-p")


def test_the_floor_is_compared_with_the_most_probable_draw_where_a_model_cannot_do_better(experts):
    """Parrot is no exact policy: its log-probabilities are 0, -1, -2 and so on."""
    counts = Counter()

    def actions(*sayings: str, **how: object) -> list[str]:
        counts.clear()
        (branched,) = branch(
            iter(one_step(experts, admissible=None)),
            Parrot(*sayings),
            BranchSettings(k=3, rounds=1, **how),
            count=lambda what, n=1: counts.update({what: n}),
        )
        return [a["action"] for a in branched["steps"][0]["alternatives"]]

    assert actions("a", "b", "c") == ["a", "b", "c"], "no floor unless it is asked for"
    assert actions("a", "b", "c", min_p=0.3) == ["a", "b"] and counts["draw[s] less probable than --min-p allows"] == 1
    assert actions("a", "b", "c", min_p=0.1) == ["a", "b", "c"]
    random = branch(
        iter(experts[:1]),
        RandomPolicy(),
        BranchSettings(k=2, min_p=0.5),
        count=lambda what, n=1: counts.update({what: n}),
    )
    assert all(len(s["alternatives"]) == 2 for t in random for s in t["steps"])
    assert counts["state[s] without log-probabilities"] == len(experts[0]["steps"])


def test_a_dropped_draw_may_be_filled_up_with(experts):
    """A draw below the floor is as admissible as other actions."""
    (step,) = one_step(experts)[0]["steps"]
    one, *others = [a for a in step["admissible"] if a != step["action"]]
    (branched,) = branch(iter(one_step(experts)), Parrot(others[0], one), BranchSettings(k=50, rounds=1, min_p=0.9))
    assert sorted(a["action"] for a in branched["steps"][0]["alternatives"]) == sorted([one, *others])
    assert [a["source"] for a in branched["steps"][0]["alternatives"][:2]] == ["policy", "admissible"]


def test_texts_far_below_the_best_are_not_drawn(experts, tmp_path):
    file = write(tmp_path / "in", [{**t, "steps": t["steps"][:3], "outcome": None} for t in experts[:3]])
    args = ["branch", "-k", 4, "-m", "tiny", "--no-only-admissible", "--max-tokens", 12, file]
    whole, some = run(*args, "--min-p", 0).ok().records, run(*args, "--min-p", 0.5).ok().records
    dropped = 0
    for free, floored in zip((s for t in whole for s in t["steps"]), (s for t in some for s in t["steps"])):
        before, after = ([a for a in s["alternatives"] if a["source"] == "policy"] for s in (free, floored))
        best = max(a["logprob"] for a in after)
        assert all(a["logprob"] >= best - 0.7 for a in after)
        assert [a["action"] for a in before if a in after] == [a["action"] for a in after if a in before]
        dropped += len(before) - len(after)
    assert dropped > 5


# -- pools -----------------------------------------------------------------------------------------------------------


def test_pools_are_added_and_replaced_one_by_one(experts):
    def add(records: list[dict], **how: object) -> list[dict]:
        return list(branch(iter(records), None, BranchSettings(source="admissible", **how)))

    def pools(records: list[dict]) -> list[dict[str | None, list[str]]]:
        actions_by_pool = []
        for step in (s for t in records for s in t["steps"]):
            actions_by_pool.append({})
            for a in step["alternatives"]:
                actions_by_pool[-1].setdefault(a.get("pool"), []).append(a["action"])
        return actions_by_pool

    first = add(experts[:2], k=2, pool="iwm")
    both = add(first, k=3, pool="sr")
    for before, after in zip(pools(first), pools(both)):
        assert list(after) == ["iwm", "sr"] and after["iwm"] == before["iwm"] and len(after["sr"]) >= len(before["iwm"])
    assert any(set(p["iwm"]) != set(p["sr"][:2]) for p in pools(both)), "they are drawn anew"
    assert add(both, k=3, pool="sr") == both, "the same again"
    again = add(both, k=1, pool="iwm")
    assert all(len(p["iwm"]) == 1 and p["sr"] == q["sr"] for p, q in zip(pools(again), pools(both)))
    assert all(list(p) == [None] for p in pools(add(both, k=1))), "without a name all are replaced"


def test_a_second_pool_costs_only_its_own_execution(experts):
    (t,) = rollout(
        branch(iter(experts[:1]), None, BranchSettings(k=2, source="admissible", pool="iwm")),
        InProcess(lambda _: House()),
    )
    for step in t["steps"]:
        for a in step["alternatives"]:
            a["outcome"]["mine"] = "kept"
    (both,) = branch(iter([t]), None, BranchSettings(k=2, source="admissible", pool="sr"))
    counts = Counter()
    (rolled,) = rollout(iter([both]), InProcess(lambda _: House()), count=lambda what, n=1: counts.update({what: n}))
    new = sum(a["pool"] == "sr" for s in both["steps"] for a in s["alternatives"])
    assert counts["alternative[s] executed by state"] == new
    assert counts["alternative[s] executed before"] == sum(len(s["alternatives"]) for s in t["steps"])
    for step in rolled["steps"]:
        assert all(a["outcome"].get("mine") == ("kept" if a["pool"] == "iwm" else None) for a in step["alternatives"])


def test_mixed_takes_half_of_each(experts):
    (branched,) = branch(
        iter(experts[:1]), Parrot("a", "b", "c", "d"), BranchSettings(k=4, source="mixed", only_admissible=False)
    )
    for step in branched["steps"]:
        sources = Counter(a["source"] for a in step["alternatives"])
        assert sources["policy"] == 2
        assert sources["admissible"] == min(2, len(step["admissible"]) - 1)


def test_branching_again_replaces_alternatives(rolled):
    (branched,) = branch(iter(rolled[:1]), None, BranchSettings(k=1, source="admissible"))
    assert all(len(s["alternatives"]) <= 1 for s in branched["steps"])


def test_branch_with_the_tiny_model(experts, tmp_path):
    file = write(tmp_path / "in", [{**t, "steps": t["steps"][:3], "outcome": None} for t in experts[:3]])
    args = ["branch", "-k", 3, "-m", "tiny", "--no-only-admissible", "--temperature", 3, "--max-tokens", 12, file]
    result = run(*args).ok()
    alternatives = [a for t in result.records for s in t["steps"] for a in s["alternatives"]]
    assert all(a["logprob"] < 0 for a in alternatives if a["source"] == "policy")
    n_drawn = sum(a["source"] == "policy" for a in alternatives)
    assert n_drawn and f"{n_drawn} alternatives from the policy" in result.err and "9 states" in result.err
    assert "model=sha256:" in result.records[0]["lineage"][-1]
    cold = run(*args, "--temperature", 0).ok()
    assert all(
        len([a for a in s["alternatives"] if a["source"] == "policy"]) <= 1 for t in cold.records for s in t["steps"]
    )


def test_the_default_model_is_the_tiny_one(experts, tmp_path, monkeypatch):
    file = write(tmp_path / "in", [{**experts[0], "steps": experts[0]["steps"][:1], "outcome": None}])
    args = ["branch", "-k", 1, "--threads", 1, "--max-tokens", 8, file]
    result = run(*args).ok()
    assert "using the built-in tiny model" in result.err
    assert result.out == run(*args, "-m", "tiny").ok().out
    monkeypatch.setenv("EEXP_MODEL", "random")
    assert "model=random" in run(*args).ok().records[0]["lineage"][-1]


# -- rollout ---------------------------------------------------------------------------------------------------------


WAYS = ["state", "replay"]  # a fork of the process is for workers, below


def test_all_ways_to_fork_give_the_same_outcomes(experts):
    branched = list(branch(iter(experts), RandomPolicy(), BranchSettings(k=4)))
    for t in branched[::2]:
        t["steps"][1]["alternatives"] += [{"action": "fly", "source": "policy"}, {"action": "", "source": "policy"}]
    outputs = {}
    for way in (*WAYS, "process"):
        result = run("rollout", "--fork", way, "-j", 2, stdin=lines(branched)).ok()
        outputs[way] = result.out
        assert "12 alternatives answered as invalid" in result.err.replace("\n", " ")
        executed = sum(len(s["alternatives"]) for t in branched for s in t["steps"])
        assert f"{executed} alternatives executed by {way}" in result.err
    assert outputs["state"] == outputs["process"] == outputs["replay"]
    in_this_process = list(rollout(iter(branched), InProcess(lambda _: House())))
    assert in_this_process == [{k: v for k, v in r.items() if k != "lineage"} for r in result.records]


def test_outcomes_are_those_of_the_house(experts):
    branched = list(branch(iter(experts[:4]), None, BranchSettings(k=3, source="admissible")))
    for t in rollout(iter(branched), InProcess(lambda _: House())):
        for i, step in enumerate(t["steps"]):
            for a in step["alternatives"]:
                house = House()
                house.reset(t["task"])
                for before in t["steps"][:i]:
                    house.step(before["action"])
                assert a["outcome"] == house.step(a["action"]).outcome() and a["outcome"]["valid"]


def test_answers_to_invalid_actions_are_outcomes(experts):
    t = {**experts[0], "steps": [dict(s) for s in experts[0]["steps"]]}
    t["steps"][0]["alternatives"] = [{"action": "open the sky", "source": "policy"}]
    (rolled,) = rollout(iter([t]), InProcess(lambda _: House()))
    (outcome,) = [a["outcome"] for a in rolled["steps"][0]["alternatives"]]
    assert outcome["valid"] is False and outcome["observation"] == "There is no sky here." and not outcome["done"]


@pytest.mark.parametrize("way", WAYS)
def test_a_tampered_observation_is_refused_with_evidence(experts, way):
    (t,) = branch(iter(experts[:1]), None, BranchSettings(k=2, source="admissible"))
    t["steps"][2]["observation"] = "You are on the moon."
    refused = []
    (rolled,) = rollout(
        iter([t]), InProcess(lambda _: House()), RolloutSettings(fork=way), on_refused=lambda r, e: refused.append(e)
    )
    for i, step in enumerate(rolled["steps"]):
        for a in step["alternatives"]:
            assert (a["outcome"] is None) == (i >= 1), "the branch before it did not lead where the record says, either"
            assert ("refused" in a) == (i >= 1)
    assert [e.where for e in refused] == [f"$.steps[{i}]" for i in range(1, len(t["steps"]))]
    for error in refused:
        assert error.evidence["observed"] == experts[0]["steps"][2]["observation"]
        assert error.evidence["recorded"] == "You are on the moon."
    assert "after its alternatives the expert's action leads elsewhere" in str(refused[0])


@pytest.mark.parametrize("way", WAYS)
def test_a_tampered_end_is_refused(experts, way):
    won = {**experts[0], "outcome": {**experts[0]["outcome"], "observation": "You win."}}
    errors = []
    rolled = rollout(
        branch(iter([won]), None, BranchSettings(k=1, source="admissible")),
        InProcess(lambda _: House()),
        RolloutSettings(fork=way),
        on_refused=lambda r, e: errors.append(e),
    )
    (last,) = [i for t in rolled for i, s in enumerate(t["steps"]) if "refused" in s["alternatives"][0]]
    assert last == len(won["steps"]) - 1 == int(errors[0].where[8:-1]) and errors[0].evidence["recorded"] == "You win."
    # where no alternative was executed that could be refused
    for t in (
        won,
        {**experts[0], "steps": [*experts[0]["steps"][:-1], {**experts[0]["steps"][-1], "observation": "?"}]},
    ):
        errors = []
        assert (
            list(
                rollout(
                    iter([t]),
                    InProcess(lambda _: House()),
                    RolloutSettings(fork=way),
                    on_error=lambda r, e: errors.append(e),
                )
            )
            == []
        )
        assert "as recorded" in str(errors[0]) and errors[0].where in ("$.outcome", f"$.steps[{last}]")


@pytest.mark.parametrize("way", WAYS)
def test_other_admissible_actions_than_recorded_are_refused(experts, way):
    (t,) = branch(iter(experts[:1]), None, BranchSettings(k=2, source="admissible"))
    assert t["steps"][1]["admissible"]
    for listed, why in ((["fly"], "'fly' was admissible"), (t["steps"][1]["admissible"][:1], "and 1 were")):
        t["steps"][1]["admissible"], t["steps"][1]["admissible_count"] = listed, None
        refused = []
        (rolled,) = rollout(
            iter([t]),
            InProcess(lambda _: House()),
            RolloutSettings(fork=way),
            on_refused=lambda r, e: refused.append(e),
        )
        assert why in str(refused[1]) and refused[0].where == "$.steps[0]"
        assert all(a["outcome"] is None for s in rolled["steps"] for a in s["alternatives"])


class Asking(House):
    """`house` in which looking is known to change nothing, and forking fails."""

    def harmless(self, action):
        return action == "look"

    def fork(self):
        raise AssertionError("asked to fork for a look")


def test_harmless_actions_are_executed_in_place(experts):
    t = {
        **experts[0],
        "steps": [{**s, "alternatives": [{"action": "look", "source": "policy"}] * 3} for s in experts[0]["steps"]],
    }
    (a,), (b,), (c,) = (
        rollout(iter([t]), InProcess(lambda _: env()), RolloutSettings(fork=way))
        for env, way in ((Asking, "auto"), (Asking, "replay"), (House, "state"))
    )
    assert a == b == c


class Stumbling(House):
    """`house` in which looking is said to change nothing, but fails elsewhere."""

    def harmless(self, action):
        return action == "look"

    def step(self, action):
        if action == "look":
            super().step(next(a for a in self.admissible() if a.startswith("go to ")))
            raise EnvironmentFailed("no light")
        return super().step(action)


@pytest.mark.parametrize("way", WAYS)
def test_the_path_goes_on_after_an_alternative_that_failed_in_place(experts, way):
    looks = [{"action": "look", "source": "policy"}]
    t = {**experts[0], "steps": [{**s, "alternatives": looks} for s in experts[0]["steps"]]}
    refused = []
    (executed,) = rollout(
        iter([t]),
        InProcess(lambda _: Stumbling()),
        RolloutSettings(fork=way, audit=0),
        on_refused=lambda r, e: refused.append(str(e)),
    )
    assert len(refused) == len(t["steps"]) and all("no light" in error for error in refused), refused
    assert all("no light" in step["alternatives"][0]["refused"] for step in executed["steps"])


def test_refusals_are_set_aside_and_kept(data, tmp_path):
    records = read(data["branched"])
    records[0]["steps"][1]["observation"] = "tampered"
    rejects = tmp_path / "rejects"
    result = run("rollout", "--rejects", rejects, stdin=lines(records)).ok(4)
    assert len(result.records) == len(records), "the trajectory itself is passed on, with what could be trusted"
    refusals = read(rejects)
    assert len(refusals) == len(records[0]["steps"])
    assert refusals[0]["field"] == "$.steps[0]" and refusals[0]["record"]["id"] == records[0]["id"]
    assert refusals[0]["evidence"] == {
        "observed": read(data["branched"])[0]["steps"][1]["observation"],
        "recorded": "tampered",
    }
    assert "branch point refused" in result.err
    assert run("rollout", stdin=lines(records)).ok(4).out == result.out, "also without --rejects"
    assert run("rollout", "-q", stdin=lines(records)).ok(4).out == result.out


def test_masked_differences_are_not_refused(experts):
    class Noisy(House):
        """Says the time, and declares that it does."""

        clock = 0

        def _observe(self, text, valid=True):
            Noisy.clock += 1
            return super()._observe(f"{text} It is {Noisy.clock} o'clock.", valid)

        def mask(self, text):
            return re.sub(r"It is \d+ o'clock", "It is * o'clock", text)

        def fork(self):
            return copy.deepcopy(self)

    noisy = Noisy()
    demonstrations = list(expert(noisy, iter([experts[0]["task"]])))
    branched = list(branch(iter(demonstrations), None, BranchSettings(k=1, source="admissible")))
    (rolled,) = rollout(iter(branched), InProcess(lambda _: Noisy()))
    assert all(a["outcome"] for s in rolled["steps"] for a in s["alternatives"])


def test_another_environment_may_be_named(data):
    result = run("rollout", "--env", "eexp.envs.worlds.house:House", data["branched"]).ok()
    assert "env=eexp.envs.worlds.house:House" in result.records[0]["lineage"][-1]
    assert [r["steps"] for r in result.records] == [r["steps"] for r in read(data["rollout"])]


@pytest.mark.parametrize("way", WAYS)
def test_earlier_outcomes_are_kept_and_the_path_is_verified(experts, way):
    (rolled,) = rollout(
        branch(iter(experts[:1]), None, BranchSettings(k=2, source="admissible")),
        InProcess(lambda _: House()),
        RolloutSettings(fork=way),
    )
    counts, n = Counter(), sum(len(s["alternatives"]) for s in rolled["steps"])

    def again(record: dict, **how: object) -> tuple[list[dict], list]:
        counts.clear()
        refused = []
        executed = rollout(
            iter([record]),
            InProcess(lambda _: House()),
            RolloutSettings(fork=way, **how),
            on_refused=lambda r, e: refused.append(e),
            on_error=lambda r, e: refused.append(e),
            count=lambda what, n=1: counts.update({what: n}),
        )
        return list(executed), refused

    assert again(rolled) == ([rolled], []) and counts == {"alternative[s] executed before": n}
    assert again(rolled, again=True) == ([rolled], []) and counts[f"alternative[s] executed by {way}"] == n
    # the path is walked all the same
    end = {**rolled, "outcome": {**rolled["outcome"], "observation": "You win."}}
    passed_on, (error,) = again(end)
    assert passed_on == [] and error.where == "$.outcome"
    # what is new at a state that cannot be trusted is refused, and what is known is kept
    lost = copy.deepcopy(rolled)
    lost["steps"][2]["observation"] = "You are on the moon."
    lost["steps"][3]["alternatives"][0]["outcome"] = None
    (partial,), (error,) = again(lost)
    first, *rest = partial["steps"][3]["alternatives"]
    assert first["outcome"] is None and "You are on the moon." in first["refused"] and error.where == "$.steps[3]"
    assert rest == rolled["steps"][3]["alternatives"][1:] and counts["alternative[s] refused"] == 1
    # and executed once it can be trusted
    pairs = zip(partial["steps"], rolled["steps"])
    mended = {**partial, "steps": [{**s, "observation": r["observation"]} for s, r in pairs]}
    assert again(mended) == ([rolled], [])


def test_the_summary_of_a_rollout_has_shares(data):
    branched = run("branch", "-q", "-k", 2, "--from", "admissible", "--pool", "iwm", data["branched"]).ok()
    result = run("rollout", stdin=branched.out).ok()
    steps = [s for t in result.records for s in t["steps"]]
    by_pool = Counter(a.get("pool") for s in steps for a in s["alternatives"])
    assert f"rollout: from admissible: {by_pool[None]} alternatives, 100 % valid, " in result.err
    assert f"rollout: from admissible, pool iwm: {by_pool['iwm']} alternatives, 100 % valid, " in result.err
    assert result.err.count(" lead to the expert's outcome, ") == 2 and result.err.count(" finish the task\n") == 2


# -- world-model-data ------------------------------------------------------------------------------------------------


def test_every_transition_becomes_an_example(rolled):
    for t in rolled:
        examples = list(world_model_data(iter([t]), STYLE, WorldModelSettings(max_repeats=None)))
        assert len(examples) == sum(1 + len(s["alternatives"]) for s in t["steps"])
        assert len({e["id"] for e in examples}) == len(examples) and {e["group"] for e in examples} == {t["id"]}
        targets = {(e["id"]): e["completion"][0]["content"] for e in examples}
        for i, step in enumerate(t["steps"]):
            following = t["steps"][i + 1] if i + 1 < len(t["steps"]) else t["outcome"]
            assert (
                targets[f"{t['id']}/{i}/world_model/expert"]
                == f"<next_state>\n{following['observation']}\n</next_state>"
            )
            for j, a in enumerate(step["alternatives"]):
                assert a["outcome"]["observation"] in targets[f"{t['id']}/{i}/world_model/{j}"]


def test_world_model_examples_do_not_look_like_acting(rolled):
    for e in world_model_data(iter(rolled[:3]), STYLE):
        assert (
            e["prompt"][0]["content"] == STYLE.acting.system and e["prompt"][-1]["content"] == STYLE.predicting.request
        )
        assert "Action:" not in e["completion"][0]["content"]
        # the history is word for word that of acting
        step = int(e["id"].split("/world_model/")[0].rsplit("/", 1)[1])
        t = next(t for t in rolled if t["id"] == e["group"])
        act = STYLE.act(t["instruction"], t["steps"][:step], t["steps"][step]["observation"])
        assert e["prompt"][1 : len(act)] == act[1:]


def test_world_model_without_the_expert_and_without_outcomes(rolled, experts):
    examples = list(world_model_data(iter(rolled), STYLE, WorldModelSettings(expert=False, max_repeats=None)))
    assert len(examples) == sum(len(s["alternatives"]) for t in rolled for s in t["steps"])
    assert list(world_model_data(iter(experts), STYLE, WorldModelSettings(expert=False))) == []
    unfinished = {**experts[0], "outcome": None}
    assert len(list(world_model_data(iter([unfinished]), STYLE))) == len(experts[0]["steps"]) - 1


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_max_invalid_fraction(experts, fraction):
    branched = list(
        branch(iter(experts[:4]), Parrot("fly", "swim", "sing", "dance"), BranchSettings(k=4, only_admissible=False))
    )
    dropped = Counter()
    for t in rollout(iter(branched), InProcess(lambda _: House())):
        dropped.clear()
        choices = WorldModelSettings(max_invalid_fraction=fraction, max_repeats=None)
        examples = list(world_model_data(iter([t]), STYLE, choices, count=lambda w, n=1: dropped.update({w: n})))
        invalid = sum("not something you can do here" in e["completion"][0]["content"] for e in examples)
        valid = len(t["steps"])
        assert len(examples) - invalid == valid, "valid ones are never dropped"
        assert invalid <= fraction * len(examples)
        best = 4 * valid if fraction == 1 else min(4 * valid, int(fraction * valid / (1 - fraction) + 1e-9))
        assert invalid == best, "no more are dropped than must be"
        assert dropped["invalid transition[s] beyond --max-invalid-fraction left out"] == 4 * valid - invalid
        assert dropped["example[s] of invalid actions"] == invalid


# -- imitation-data --------------------------------------------------------------------------------------------------


def test_imitation_is_one_example_a_step(data):
    trajectories, examples = read(data["expert"]), read(data["imitation"])
    states = [(t, i) for t in trajectories for i in range(len(t["steps"]))]
    assert len(examples) == len(states)
    for e, (t, i) in zip(examples, states):
        step = t["steps"][i]
        assert e["prompt"] == STYLE.act(t["instruction"], t["steps"][:i], step["observation"], step["admissible"])
        assert e["completion"] == [{"role": "assistant", "content": f"Action: {step['action']}"}]
        assert (e["kind"], e["weight"], e["prompt_style"]) == ("imitation", 1.0, STYLE.label)
        roles = [m["role"] for m in e["prompt"]]
        assert roles == ["system", *["user", "assistant"] * i, "user"]


def test_imitation_with_thoughts_and_with_lists(data):
    t = read(data["expert"])[0]
    t["steps"][0]["thought"] = "Hm."
    first = run("imitation-data", stdin=lines([t])).ok().records[0]
    assert first["completion"][0]["content"] == f"Thought: Hm.\nAction: {t['steps'][0]['action']}"
    assert first["prompt"][-1]["content"].endswith("Think first, as: Thought: <thought>")
    first = run("imitation-data", "--no-thoughts", stdin=lines([t])).ok().records[0]
    assert first["completion"][0]["content"] == f"Action: {t['steps'][0]['action']}"
    first = run("imitation-data", "--no-thoughts", "--prompt-style", "react-list", stdin=lines([t])).ok().records[0]
    assert first["prompt"][-1]["content"].endswith("Possible actions: " + ", ".join(t["steps"][0]["admissible"]))


# -- split -----------------------------------------------------------------------------------------------------------


def test_parts_are_disjoint_and_do_not_depend_on_the_order(experts):
    records = [{**experts[0], "id": f"t{i}"} for i in range(200)]
    parts = [list(split(iter(records), SplitSettings(parts=3, included=(n,)))) for n in (1, 2, 3)]
    assert sorted(r["id"] for part in parts for r in part) == sorted(r["id"] for r in records)
    assert all(40 < len(part) < 95 for part in parts), "about a third"
    assert list(split(iter(records[::-1]), SplitSettings(parts=3, included=(1,)))) == parts[0][::-1]
    assert list(split(iter(records[:50]), SplitSettings(parts=3, included=(1,)))) == [
        r for r in parts[0] if r in records[:50]
    ]
    assert list(split(iter(records), SplitSettings(parts=3, included=(1,), seed=1))) != parts[0]


def test_examples_are_in_the_part_of_their_trajectory(experts):
    examples = [e for t in experts for e in imitation_data(iter([t]), STYLE)]
    for n in (1, 2):
        ids = {t["id"] for t in split(iter(experts), SplitSettings(parts=2, included=(n,)))}
        assert ids and [e for e in examples if e["group"] in ids] == list(
            split(iter(examples), SplitSettings(parts=2, included=(n,)))
        )


def test_one_part_and_all_but_one(data, tmp_path):
    whole = read(data["expert"])

    def ids(*args: object) -> set[str]:
        return {r["id"] for r in run("split", *args, data["expert"]).ok().records}

    for n in (1, 2, 3):
        assert ids("--parts", 3, "--part", n) | ids("--parts", 3, "--without", n) == {r["id"] for r in whole}
        assert not ids("--parts", 3, "--part", n) & ids("--parts", 3, "--without", n)
    assert ids("--part", 1, "--part", 2) == ids("--parts", 1, "--part", 1) == {r["id"] for r in whole}
    mixed = lines([*whole, *read(data["imitation"]), *read(data["episodes"])])
    records = run("split", "--part", 1, "--part", 2, stdin=mixed).ok().records
    assert len(records) == mixed.count(b"\n") and records[0]["lineage"][-1].endswith("parts=2 part=1,2 seed=0")
    run("split", data["expert"]).one_error(2, "give --part or --without")
    run("split", "--part", 1, "--without", 2, data["expert"]).one_error(2, "give --part or --without")
    run("split", "--part", 3, data["expert"]).one_error(2, "there are 2 parts")


# -- mix -------------------------------------------------------------------------------------------------------------


def _examples(name: str, n: int, **more) -> list[dict]:
    message = [{"role": "user", "content": name}]
    return [
        {"type": "example", "id": f"{name}{i}", "kind": name, "prompt": message, "completion": message, **more}
        for i in range(n)
    ]


@pytest.mark.parametrize(("share", "expected"), [(0, 0), (0.5, 20), (1, 40), (1.25, 50), (2, 80), (0.01, 0), (0.1, 4)])
def test_mix_shares(share, expected, tmp_path):
    a = write(tmp_path / "a", _examples("a", 40))
    b = write(tmp_path / "b", _examples("b", 10))
    counts = Counter(r["id"] for r in run("mix", f"{a}@{share}", b).ok().records)
    times = [n for name, n in counts.items() if name.startswith("a")]
    assert sum(times) == expected and sum(counts.values()) == expected + 10
    if times:
        assert max(times) - min([*times, *([0] if len(times) < 40 else [])]) <= 1, "as even as can be"


def test_mix_weights(tmp_path):
    a = write(tmp_path / "a", _examples("a", 5, weight=0.5))
    b = write(tmp_path / "b", _examples("b", 5))
    weights = {r["id"]: r["weight"] for r in run("mix", f"{a}*0.5", f"{b}@1*0.3").ok().records}
    assert all(weights[f"a{i}"] == 0.25 and weights[f"b{i}"] == 0.3 for i in range(5))
    assert {r["weight"] for r in run("mix", a, b).ok().records} == {0.5, 1.0}
    assert {r["weight"] for r in run("mix", f"{b}*0").ok().records} == {0.0}


def test_mix_order_and_limit(tmp_path):
    a, b = write(tmp_path / "a", _examples("a", 30)), write(tmp_path / "b", _examples("b", 30))
    plain = [r["id"] for r in run("mix", "--no-shuffle", a, b).ok().records]
    assert plain == [f"{n}{i}" for n in "ab" for i in range(30)]
    mixed = [r["id"] for r in run("mix", a, b).ok().records]
    assert sorted(mixed) == sorted(plain) and mixed != plain
    assert [r["id"] for r in run("mix", "--limit", 7, a, b).ok().records] == mixed[:7]
    assert run("mix", "--limit", 0, a).ok().out == b""
    assert len(run("mix", "--limit", 1000, a).ok().records) == 30
    # both are drawn from: 60 is far more than enough for one of a fair 20
    assert {r["kind"] for r in run("mix", "--limit", 20, a, b).ok().records} == {"a", "b"}


@given(st.permutations(range(12)), st.sampled_from(["0.25", "0.5", "1.75", "2"]), st.sampled_from([None, 0, 5, 50]))
@settings(max_examples=20, deadline=None)
def test_mix_takes_the_same_examples_in_any_order(order, share, limit):
    examples = [*_examples("a", 8), *_examples("b", 4)]
    args = ["mix", *([] if limit is None else ["--limit", limit]), "--", f"-@{share}"]
    one, other = (run(*args, stdin=lines(some)).ok().out for some in (examples, [examples[i] for i in order]))
    assert one == other


def test_mix_takes_a_smaller_share_from_a_larger_one(tmp_path):
    a, b = write(tmp_path / "a", _examples("a", 40)), write(tmp_path / "b", _examples("b", 40))
    ids = [{r["id"] for r in run("mix", f"{a}@{share}", b).ok().records} for share in (0.1, 0.4, 0.7, 1)]
    assert ids[0] < ids[1] < ids[2] < ids[3]
    apart = [r["id"] for r in run("mix", "--no-shuffle", "--limit", 30, a, b).ok().records]
    assert apart == [i for i in [f"{n}{i}" for n in "ab" for i in range(40)] if i in apart] and apart[-1][0] == "b"
    twice = [r["id"] for r in run("mix", "--no-shuffle", f"{a}@1.1").ok().records]
    assert twice[:40] == [f"a{i}" for i in range(40)] and len(twice) == 44


def test_mix_refuses_weights_and_shares_beyond_numbers(tmp_path):
    file = write(tmp_path / "a", [*_examples("a", 1), *_examples("b", 1, weight=1e5)])
    run("mix", f"{file}*100").one_error(3, f"{file}:2: $.weight: 100000 times 100 is more than 1,000,000")
    run("mix", f"{file}@1e300").one_error(2, "a share of more than 10000")


def test_mix_leaves_out_duplicates(data, tmp_path):
    """The first file keeps its examples in any order of its lines; near duplicates differ a little in both parts."""
    examples = [{**e, "id": f"{i}"} for i, e in enumerate(read(data["world"])[:6])]
    one = write(tmp_path / "one", [*examples, {**examples[0], "id": "again", "mine": 1, "weight": 2}])
    two = write(tmp_path / "two", [{**e, "id": f"two {e['id']}"} for e in examples])
    first = run("mix", "--duplicates", "exact", one, two).ok()
    assert len(first.records) == 6 and not any(r["id"].startswith("two") for r in first.records)
    assert re.search(r"two: world_model +6 +6 +0 +0\.0%", first.err), first.err
    shuffled = write(tmp_path / "shuffled", reversed(read(one)))
    assert {r["id"] for r in run("mix", "--duplicates", "exact", shuffled).ok().records} == {
        r["id"] for r in first.records
    }
    assert len(run("mix", one, two).ok().records) == 13
    assert len(run("mix", "--duplicates", "exact", f"{one}@2").ok().records) == 12, "a share of 2 is no duplicate"


def test_mix_leaves_out_near_duplicates(tmp_path):
    pytest.importorskip("datasketch")

    def example(name: str, prompt: str, completion: str) -> dict:
        return {
            "type": "example",
            "id": name,
            "kind": "a",
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": completion}],
        }

    long = " ".join(f"word{i}" for i in range(60))
    pairs = [
        ("a", long, "open the red box"),
        ("near", f"{long} more", "open the red box"),
        ("longer history, another action", f"{long} more", "go north now"),
        ("another history", long[::-1], "open the red box"),
    ]
    file = write(tmp_path / "f", [example(*pair) for pair in pairs])
    ids = {r["id"] for r in run("mix", "--duplicates", "near", file).ok().records}
    assert len(ids) == 3 and len(ids & {"a", "near"}) == 1
    assert len(run("mix", "--duplicates", "near", "--similarity", 1, file).ok().records) == 4
    run("mix", "--similarity", 0.5, file).one_error(2, "--similarity is for --duplicates near")


def test_mix_leaves_out_the_tasks_of_a_panel(data, tmp_path):
    """By a panel, by episodes or trajectories of its tasks, and by the words of held-out examples."""
    tasks = [{"type": "task", "env": "house", "task": t["task"]} for t in read(data["expert"])[:1]]
    panel = write(tmp_path / "panel", tasks)
    held_out = write(tmp_path / "held-out", read(data["expert"])[:1])
    by_panel = run("mix", "--apart-from", panel, data["imitation"], data["world"]).ok()
    groups = {r["group"] for r in read(data["imitation"])}
    assert {r["group"] for r in by_panel.records} == groups - {"house/" + tasks[0]["task"]["id"]} and len(groups) > 1
    assert "of tasks apart" in by_panel.err
    assert len(run("mix", "--apart-from", held_out, data["imitation"], data["world"]).ok().records) == len(
        by_panel.records
    )
    renamed = write(tmp_path / "renamed", [{**e, "id": "x", "group": "y"} for e in read(data["imitation"])[:2]])
    words = run("mix", "--apart-from", renamed, data["imitation"]).ok().records
    assert len(words) == len(read(data["imitation"])) - 2
    others = run("mix", "--apart-from", data["imitation"], renamed, data["imitation"]).ok()
    assert others.records == []
    one = write(tmp_path / "one", [e for e in read(data["imitation"]) if e["group"] == min(groups)])
    assert {r["group"] for r in run("mix", "--apart-from", one, data["imitation"]).ok().records} == groups - {
        min(groups)
    }


@pytest.mark.parametrize("unit", ["examples", "tokens", "targets"])
def test_mix_gives_a_kind_its_share(unit, data, tmp_path):
    from eexp.models.tokenizers import load_tokenizer
    from eexp.training.data import tokenize

    by = [] if unit == "examples" else ["--share-by", unit, "--tokenizer", "tiny"]
    files = [data["world"], data["imitation"], data["reflected"]]
    result = run("mix", "--share", "world_model=0.25", *by, *files).ok()
    rows = list(tokenize(result.records, load_tokenizer("tiny"), 1 << 30))
    size = {
        "examples": lambda row: 1,
        "targets": lambda row: row.n_targets,
        "tokens": lambda row: row.n_prompt + row.n_completion,
    }[unit]
    shares = Counter()
    for row in rows:
        shares[row.kind] += size(row)
    share, largest = shares["world_model"] / shares.total(), max(map(size, rows))
    assert share == pytest.approx(0.25, abs=largest / shares.total())
    whole = len(read(data["imitation"])) + len(read(data["reflected"]))
    assert len(result.records) - sum(r["kind"] == "world_model" for r in result.records) >= whole - 1, "no more is cut"
    assert f"{share:.1%}" in result.err
    fewer: set[str] = set()
    for limit in (1, 2, 7, 8):
        cut = run("mix", "--share", "world_model=0.25", *by, "--limit", limit, *files).ok().records
        assert len(cut) == limit and fewer <= {r["id"] for r in cut}, "a smaller limit takes of a larger one's examples"
        fewer = {r["id"] for r in cut}
    sizes = {row.id: (row.kind, size(row)) for row in rows}
    of_kind = sum(n for kind, n in map(sizes.get, fewer) if kind == "world_model")
    assert of_kind / sum(sizes[name][1] for name in fewer) == pytest.approx(
        0.25, abs=largest / 8 / min(map(size, rows))
    )


def test_mix_dry_run_writes_no_examples(data, tmp_path):
    out = tmp_path / "out"
    result = run("mix", "--dry-run", "--limit", 3, data["imitation"], "-o", out).ok()
    assert result.out.decode().splitlines()[-1].split()[:3] == ["all", str(len(read(data["imitation"]))), "3"]
    assert not out.exists() and result.err == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--share", "none=0.5"], "no example of this kind"),
        (["--share", "imitation=0.5"], "leaves 50% for other kinds"),
        (["--share-by", "tokens"], "--share-by is for --share"),
        (["--share", "imitation=0.5", "--share-by", "tokens"], "needs --tokenizer"),
        (["--tokenizer", "tiny"], "--tokenizer is for --share-by"),
        (["--share", "imitation=0.5", "--share-by", "tokens", "--tokenizer", "a.gguf"], "has no tokenizer"),
    ],
)
def test_mix_refuses_options_that_do_not_fit(args, message, data):
    run("mix", *args, data["imitation"]).one_error(2, message)


def test_mix_reads_a_pipe(tmp_path):
    a = _examples("a", 9)
    b = write(tmp_path / "b", _examples("b", 3))
    counts = Counter(r["kind"] for r in run("mix", "--", "-@2", b, stdin=lines(a)).ok().records)
    assert counts == {"a": 18, "b": 3}


def test_mix_takes_a_file_whose_name_has_marks(tmp_path):
    for name in ("a@2", "b*3", "c@d"):
        file = write(tmp_path / name, _examples("a", 2))
        assert len(run("mix", file).ok().records) == 2
    assert len(run("mix", f"{tmp_path}/a@2@0.5").ok().records) == 1
    assert parse_source("x@0.5*2") == Source("x", 0.5, 2.0) and parse_source("x*2") == Source("x", 1.0, 2.0)


def test_mix_of_a_million_places_keeps_their_order_seeded(tmp_path):
    file = write(tmp_path / "a", _examples("a", 50))
    first, second = ([e["id"] for e in mix([Source(str(file))], MixSettings(seed=s))] for s in (3, 4))
    assert first != second and first == [e["id"] for e in mix([Source(str(file))], MixSettings(seed=3))]


# -- show ------------------------------------------------------------------------------------------------------------


def test_show_every_type_of_record(data):
    trajectory = run("show", "-n", 1, data["rollout"]).ok().out.decode()
    record = read(data["rollout"])[0]
    assert record["id"] in trajectory and record["steps"][0]["alternatives"][0]["action"] in trajectory
    assert record["steps"][0]["alternatives"][0]["outcome"]["observation"] in trajectory
    assert all(entry in trajectory for entry in record["lineage"])
    assert "not executed" in run("show", "-n", 1, data["branched"]).ok().out.decode()
    example = run("show", "-n", 1, data["world"]).ok().out.decode()
    assert "<next_state>" in example and "world_model, changed, weight 1" in example
    episode = run("show", "-n", 1, data["episodes"]).ok().out.decode()
    assert "failure" in episode or "success" in episode
    mixed = run("show", "-n", 9, data["rollout"], data["world"], data["episodes"]).ok().out.decode()
    assert mixed.count("trajectory house/") == 3


def test_show_samples_the_same_records_in_any_order():
    examples = _examples("a", 40)
    args = ["show", "--sample", "-n", 5, "--seed"]
    samples = {seed: run(*args, seed, stdin=lines(examples)).ok().out.decode().split("\n\n") for seed in (0, 1)}
    turned = run(*args, 0, stdin=lines(examples[::-1])).ok().out.decode().rstrip("\n").split("\n\n")
    assert [text.rstrip("\n") for text in samples[0]] == turned[::-1] and len(turned) == 5 and samples[0] != samples[1]


def test_show_counts(data):
    records = [
        json.loads(r)
        for name in ("rollout", "imitation", "world", "episodes")
        for r in data[name].read_bytes().splitlines()
    ]
    summary = run("show", "--summary", stdin=lines(records)).ok().out.decode().splitlines()
    trajectories = [r for r in records if r["type"] == "trajectory"]
    steps = [s for t in trajectories for s in t["steps"]]
    assert summary[0] == f"trajectories: {len(trajectories)}, of {len(steps)} steps"
    assert summary[1].startswith(f"  alternatives from admissible: {sum(len(s['alternatives']) for s in steps)} ")
    assert summary[1].partition("alternatives ")[2] in run("rollout", data["branched"]).ok().err
    kinds = Counter(r["kind"] for r in records if r["type"] == "example")
    own = f"{kinds['imitation']} imitation, {kinds['world_model']} world_model"
    assert summary[2] == f"examples: {kinds.total()}, of which {own}"
    episodes = [r for r in records if r["type"] == "episode"]
    assert summary[3].startswith(f"episodes: {len(episodes)}, of {sum(e['steps'] for e in episodes)} steps, ")
    assert run("show", "--summary", stdin=b"").ok().out == b""


def test_show_records_with_nothing_optional():
    """No reader may require a field that the schema does not require."""
    bare = [
        {
            "type": "trajectory",
            "id": "t",
            "env": "e",
            "task": {},
            "instruction": "",
            "steps": [{"observation": "o", "action": "a", "alternatives": [{"action": "b", "source": "program"}]}],
        },
        {
            "type": "example",
            "id": "x",
            "kind": "k",
            "prompt": [{"role": "user", "content": "p"}],
            "completion": [{"role": "assistant", "content": "c"}],
        },
        {
            "type": "episode",
            "id": "e",
            "env": "e",
            "task": {},
            "success": True,
            "steps": 1,
            "transcript": [{"observation": "o", "action": "a"}],
        },
    ]
    text = run("show", stdin=lines(bare)).ok().out.decode()
    assert all(f"{r['type']} {r['id']}" in text for r in bare)
    for stage in (
        ["branch", "--from", "admissible"],
        ["reflect", "--rationale", "outcome"],
        ["world-model-data"],
        ["imitation-data"],
    ):
        run(*stage, stdin=lines(bare[:1])).ok()
    run("mix", stdin=lines(bare[1:2])).ok()
    run("compare", "-", stdin=lines(bare[2:])).ok()


def test_show_draws_and_finds(data):
    ids = [r["id"] for r in read(data["imitation"])]

    def ids_shown(*args):
        out = run("show", *args, data["imitation"]).ok().out.decode()
        return re.findall(r"^example (\S+)$", out, re.MULTILINE)

    assert ids_shown() == ids[:3] and ids_shown("-n", 5) == ids[:5]
    sample = ids_shown("--sample", "-n", 5)
    assert sample != ids[:5] and sample == ids_shown("--sample", "-n", 5) and sample == sorted(sample, key=ids.index)
    assert ids_shown("--sample", "-n", 5, "--seed", 1) != sample
    assert ids_shown("--id", ids[7]) == [ids[7]]
    run("show", "--id", "nobody", data["imitation"]).one_error(3, "no record has the id 'nobody'")
    assert b"\x1b[" not in run("show", data["imitation"]).ok().out, "no colours into a pipe"


def test_samples_are_fair():
    counts = Counter(r["id"] for seed in range(3000) for r in sample(({"id": str(i)} for i in range(10)), 3, seed))
    assert all(abs(n - 900) < 130 for n in counts.values()), counts


def test_schema_is_json():
    for kind in ("trajectory", "example", "episode"):
        assert json.loads(run("schema", kind).ok().out)["title"] == kind


def test_random_policy_needs_a_list_and_is_uniform():
    from eexp.models.policy import State

    state = State("", [], "", ["a", "b", "c"])
    draws = [ActionDraw(state, n=2, seed=seed) for seed in range(300)]
    (answers,) = RandomPolicy().answer([draws])
    frequencies = Counter(proposal.action for proposals in answers for proposal in proposals)
    assert all(150 < n < 250 for n in frequencies.values()) and len(frequencies) == 3
