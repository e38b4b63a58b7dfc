"""`expert --noise`: demonstrations in which a share of the actions is corrupted."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from running import lines, read, run

from eexp.acting.expert import expert
from eexp.acting.settings import ExpertSettings
from eexp.envs.worlds.house import House
from eexp.errors import UsageError
from eexp.records.record import canonical


def tasks(split: str, n: int) -> list[dict]:
    return list(islice(House().tasks(split), n))


def test_no_noise_changes_no_byte():
    assert run("expert", "house", "-n", 8, "--noise", 0).ok().out == run("expert", "house", "-n", 8).ok().out


def test_a_corrupted_action_is_admissible_and_not_the_experts_and_the_expert_goes_on_from_there():
    trajectories = list(expert(House(), iter(tasks("train", 60)), ExpertSettings(noise=0.3, admissible=None)))
    corrupted = 0
    for trajectory in trajectories:
        house = House()
        observation = house.reset(trajectory["task"])
        for step in trajectory["steps"]:
            assert step["observation"] == observation.text and step["admissible"] == house.admissible()
            if "noise" in step:
                corrupted += 1
                assert step["noise"] is True and step["action"] in house.admissible()
                assert canonical(step["action"]) != canonical(house.expert())
            else:
                assert step["action"] == house.expert()
            observation = house.step(step["action"])
        assert trajectory["outcome"] == observation.outcome()
    assert corrupted > 100


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_the_share_of_noise_is_met_and_every_other_action_is_drawn(noise):
    """Over about 8,000 steps the share lies within five standard errors of P."""
    steps = corrupted = 0
    places = Counter()
    for trajectory in expert(House(), iter(tasks("train", 500)), ExpertSettings(noise=noise, admissible=None)):
        for step in trajectory["steps"]:
            steps += 1
            if "noise" in step:
                corrupted += 1
                places[step["admissible"].index(step["action"]) / (len(step["admissible"]) - 1)] += 1
    assert abs(corrupted / steps - noise) < 5 * (noise * (1 - noise) / steps) ** 0.5
    assert places[0.0] > 0.1 * corrupted and places[1.0] > 0.1 * corrupted


def test_a_draw_depends_on_seed_task_and_step():
    chosen = tasks("train", 12)
    forth = list(expert(House(), iter(chosen), ExpertSettings(noise=0.3)))
    back = list(expert(House(), iter(chosen[::-1]), ExpertSettings(noise=0.3)))
    assert forth == back[::-1]
    parts = [run("expert", "house", "-n", 4, "--skip", skip, "--noise", 0.3, "--all") for skip in (0, 4, 8)]
    assert b"".join(part.ok().out for part in parts) == run("expert", "house", "-n", 12, "--noise", 0.3, "--all").out
    assert list(expert(House(), iter(chosen), ExpertSettings(noise=0.3, seed=1))) != forth


def test_more_noise_corrupts_the_steps_that_less_noise_corrupts():
    """Up to where the paths differ."""
    few, many = (list(expert(House(), iter(tasks("train", 40)), ExpertSettings(noise=noise))) for noise in (0.1, 0.4))
    shared = 0
    for one, other in zip(few, many):
        for a, b in zip(one["steps"], other["steps"]):
            if a["action"] != b["action"]:
                assert "noise" in b and "noise" not in a
                break
            shared += "noise" in a
    assert shared > 5


def test_demonstrations_that_fail_are_counted_and_kept_when_asked():
    result = run("expert", "house", "-n", 40, "--noise", 0.5).ok()
    everything = run("expert", "house", "-n", 40, "--noise", 0.5, "--all").ok()
    failed = [r["id"] for r in everything.records if not r["outcome"]["success"]]
    assert failed and len(everything.records) == 40
    assert [r["id"] for r in result.records] == [r["id"] for r in everything.records if r["id"] not in failed]
    assert f"{len(failed)} trajectories left out: the expert did not succeed" in result.err
    corrupted = sum("noise" in step for r in result.records for step in r["steps"])
    assert f"{corrupted} corrupted steps" in result.err
    assert result.records[0]["lineage"] == ["expert 0.2.0 split=train admissible=50 noise=0.5 seed=0"]


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(keep, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = ["expert", "house", "-n", 6, "--noise", 0.3]
    run(*command, "-o", whole).ok()
    text = whole.read_bytes().splitlines(keepends=True)
    cut.write_bytes(b"".join(text[:keep]) + text[keep][:50])
    run(*command, "--resume", "-o", cut).ok()
    assert cut.read_bytes() == whole.read_bytes()
    run("expert", "house", "-n", 6, "--noise", 0.2, "--resume", "-o", cut).one_error(2, "give the same options")


class Walkthrough(House):
    """A house whose expert has actions on its own path only, as those of BFCL and ScienceWorld do."""

    def reset(self, task):
        self.on_its_way = True
        return super().reset(task)

    def step(self, action):
        self.on_its_way = self.on_its_way and action == self.expert()
        return super().step(action)

    def expert(self):
        return super().expert() if self.on_its_way else None


def test_an_expert_that_is_lost_ends_its_demonstration():
    counts = Counter()
    trajectories = list(
        expert(
            Walkthrough(),
            iter(tasks("train", 30)),
            ExpertSettings(noise=0.2),
            count=lambda what, n: counts.update({what: n}),
        )
    )
    lost = [t for t in trajectories if any("noise" in step for step in t["steps"])]
    assert 0 < len(lost) < 30 and counts == {
        "trajector[y|ies] in which the expert had no action after a corrupted step": len(lost)
    }
    for trajectory in lost:
        assert ["noise" in step for step in trajectory["steps"]].index(True) == len(trajectory["steps"]) - 1
        assert not trajectory["outcome"]["success"]


def test_an_environment_without_a_list_is_refused():
    class Unlisted(House):
        def admissible(self):
            return None

    with pytest.raises(UsageError, match="--noise draws from the admissible actions, and house lists none"):
        next(expert(Unlisted(), iter(tasks("train", 1)), ExpertSettings(noise=0.01)))
    assert next(expert(Unlisted(), iter(tasks("train", 1))))["outcome"]["success"]


def test_the_only_admissible_action_stays():
    class Narrow(House):
        def admissible(self):
            return [self.expert().upper()]

    counts = Counter()
    trajectory = next(
        expert(
            Narrow(), iter(tasks("train", 1)), ExpertSettings(noise=0.9), count=lambda what, n: counts.update({what: n})
        )
    )
    assert trajectory["outcome"]["success"] and not any("noise" in step for step in trajectory["steps"])
    assert counts["step[s] not corrupted, since no other action was admissible"] > 0


@pytest.mark.parametrize("noise", ["1", "-0.1", "nan", "some"])
def test_malformed_shares_are_refused(noise):
    run("expert", "house", "-n", 1, f"--noise={noise}").one_error(2, "--noise")


def test_later_stages_treat_a_corrupted_step_like_any_other(tmp_path):
    demonstrations = tmp_path / "expert.jsonl"
    run("expert", "house", "-n", 10, "--noise", 0.3, "-o", demonstrations).ok()
    records = read(demonstrations)
    marks = [[step.get("noise") for step in t["steps"]] for t in records]
    steps, corrupted = sum(map(len, marks)), sum(mark is True for of_trajectory in marks for mark in of_trajectory)
    assert corrupted > 10
    imitated = run("imitation-data", demonstrations).ok().records
    assert [e["completion"][-1]["content"].rpartition("Action: ")[2].strip() for e in imitated] == [
        step["action"] for t in records for step in t["steps"]
    ]
    branched = run("branch", "--from", "admissible", "--pool", "x", demonstrations).ok()
    rollout = run("rollout", "-j", 1, stdin=branched.out).ok()
    assert "refused" not in rollout.err
    assert [[step.get("noise") for step in t["steps"]] for t in rollout.records] == marks
    data = run("world-model-data", "--max-repeats", 1000, "--max-invalid-fraction", 1, stdin=rollout.out).ok().records
    assert sum(e["id"].endswith("expert") for e in data) == steps
    reflected = run("reflect", "--rationale", "outcome", stdin=rollout.out).ok().records
    at_corrupted = {
        f"{t['id']}/{i}" for t, of_trajectory in zip(records, marks) for i, mark in enumerate(of_trajectory) if mark
    }
    assert any(e["id"].rpartition("/")[0] in at_corrupted for e in reflected)
    text = run("show", "-n", 10, stdin=rollout.out).ok().out.decode()
    assert text.count("[noise]") == corrupted
    assert b'"noise"' in run("schema", "trajectory").ok().out


def test_a_mistake_inserted_by_recover_is_not_marked_as_noise(tmp_path):
    demonstrations = run("expert", "house", "-n", 10, "--noise", 0.4).ok()
    branched = run("branch", "-m", "random", "--no-only-admissible", stdin=demonstrations.out).ok().records
    for t in branched:
        for step in t["steps"]:
            step["alternatives"].append({"action": "fly away", "source": "policy", "outcome": None})
    rollout = run("rollout", "-j", 1, stdin=lines(branched)).ok()
    recovered = run("recover", "--share", 1, stdin=rollout.out).ok()
    inserted = [step for t in recovered.records for step in t["steps"] if step.get("mistake")]
    assert inserted and not any("noise" in step for step in inserted)
    before, after = (
        sum("noise" in step for t in trajectories for step in t["steps"])
        for trajectories in (demonstrations.records, recovered.records)
    )
    assert before == after > 0
