"""`eexp relabel`: executed actions as demonstrations of the tasks that they solve."""

from __future__ import annotations

from collections import defaultdict

import pytest
from running import read, run, write

from eexp.acting.relabel import paths_of
from eexp.envs import open_env
from eexp.envs.worlds.house import House
from eexp.envs.worlds.reactions import Reactions
from eexp.envs.worlds.textcraft import TextCraft

WORLDS = {"house": House, "reactions": Reactions, "textcraft": TextCraft}


class Lying(House):
    """A house that says of every path that it solves a task, which it does not, or that does not exist."""

    def achieved(self, task, actions):
        return [(0, {**task, "id": f"{task['id']}/put/apple/{place}"}) for place in ("bed", "moon")]


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    """Return the files of executed alternatives by environment."""
    here = tmp_path_factory.mktemp("relabel")
    files = {}
    for name in WORLDS:
        branched = run("expert", name, "-n", 12, "-q").ok()
        branched = run("branch", "-k", 6, "--from", "admissible", "-q", stdin=branched.out).ok()
        files[name] = here / name
        run("rollout", "-j", 1, "-q", "-o", files[name], stdin=branched.out).ok()
    return files


@pytest.mark.parametrize("name", WORLDS)
def test_every_demonstration_solves_its_own_task_with_its_last_action(rollouts, tmp_path, name):
    written = run("relabel", "-j", 1, "--stitch", 1, "-q", rollouts[name]).ok().records
    demonstrations = read(rollouts[name])
    assert len(written) > len(demonstrations)
    told = {(t["steps"][0]["observation"], t["instruction"]) for t in demonstrations}
    with open_env(name) as env:
        for trajectory in written:
            observation = env.reset(trajectory["task"])
            assert trajectory["instruction"] == env.instruction()
            for step in trajectory["steps"]:
                assert (observation.text, observation.success) == (step["observation"], False)
                assert step["action"] in step["admissible"] or name == "textcraft"
                observation = env.step(step["action"])
                assert observation.valid
            assert observation.outcome() == trajectory["outcome"] and observation.success
    begins = [(t["steps"][0]["observation"], t["instruction"]) for t in written]
    assert len(set(begins)) == len(begins) and not told & set(begins)
    assert {t["origin"] for t in written} <= {t["id"] for t in demonstrations}
    assert len({t["id"] for t in written}) == len(written)
    # The next stages read it like any demonstration: the path is compared with the environment's answers.
    file = write(tmp_path / "relabelled", written)
    assert len(run("rollout", "-j", 1, "-q", file).ok().records) == len(written)
    examples = run("imitation-data", "-q", file).ok().records
    assert len(examples) == sum(len(t["steps"]) for t in written)


def test_all_that_was_executed_in_reactions_is_demonstrated(rollouts):
    edges: dict[str, set[str]] = defaultdict(set)
    demonstrations = read(rollouts["reactions"])
    for trajectory in demonstrations:
        for path in paths_of(trajectory):
            before, after = (text.split("You hold ")[1] for text in path.observations[-2:])
            if after not in ("ash.", before):
                edges[before].add(after)
    reached = {(x, y) for x in edges for y in edges[x]}
    reached |= {(x, z) for x in edges for y in edges[x] for z in edges.get(y, ()) if z != x}
    told = {
        (t["steps"][0]["observation"].split()[-1], t["instruction"].split()[-1]) for t in demonstrations
    }  # with the full stop, as in `edges`
    written = run("relabel", "-j", 1, "--stitch", 1, "-q", rollouts["reactions"]).ok().records
    pairs = {(t["steps"][0]["observation"].split()[-1], t["instruction"].split()[-1]) for t in written}
    assert pairs == reached - told
    assert len(written) == len(pairs) and {len(t["steps"]) for t in written} == {1, 2}


def test_a_thing_put_elsewhere_demonstrates_that(tmp_path):
    (trajectory,) = run("expert", "house", "-n", 1, "-q").ok().records
    assert trajectory["instruction"] == "Put the hot apple on the bed."
    (last,) = trajectory["steps"][-1:]
    elsewhere = [a for a in last["admissible"] if a.startswith("put apple") and a != last["action"]]
    last["alternatives"] = [{"action": a, "source": "admissible", "logprob": None} for a in elsewhere]
    executed = run("rollout", "-j", 1, "-q", stdin=write(tmp_path / "t", [trajectory]).read_bytes()).ok().out
    written = run("relabel", "-j", 1, "-q", stdin=executed).ok().records
    put = {t["steps"][-1]["action"]: t for t in written}
    assert set(put) >= set(elsewhere)
    for action in elsewhere:
        place = action.split()[-1]
        assert put[action]["instruction"] == f"Put the hot apple {action.split()[-2]} the {place}."
        assert put[action]["outcome"]["score"] == 1.0


def test_what_a_task_does_not_need_is_pruned_and_what_tells_something_is_not(rollouts):
    whole = run("relabel", "-j", 1, "--no-prune", "-q", rollouts["textcraft"]).ok().records
    pruned = run("relabel", "-j", 1, "-q", rollouts["textcraft"]).ok().records
    assert [t["id"] for t in pruned] == [t["id"] for t in whole]
    assert sum(len(t["steps"]) for t in pruned) < sum(len(t["steps"]) for t in whole)
    for trajectory in pruned:
        crafted = {s["action"].split(" using ")[0] for s in trajectory["steps"] if s["action"].startswith("craft")}
        assert len(crafted) <= len(trajectory["steps"])
    # In `house`, searches are kept: without them, the agent would go to what it has not seen.
    for trajectory in run("relabel", "-j", 1, "-q", rollouts["house"]).ok().records:
        found = [s for s in trajectory["steps"] if s["action"].startswith("take ")]
        for step in found:
            thing = step["action"].split()[1]
            before = trajectory["steps"][: trajectory["steps"].index(step) + 1]
            assert any(thing in s["observation"] for s in before)


def test_tasks_of_a_panel_are_left_out_and_numbers_are_limited(rollouts, tmp_path):
    panel = tmp_path / "panel"
    run("panel", "reactions", "--split", "test", "-n", 200, "-q", "-o", panel).ok()
    with open_env("reactions") as env:
        asked = {(env.reset(t["task"]).text, env.instruction()) for t in read(panel)}
    args = ("relabel", "-j", 1, "--stitch", 1, rollouts["reactions"])
    every, apart = run(*args).ok(), run(*args, "--apart-from", panel).ok()
    begins = [(t["steps"][0]["observation"], t["instruction"]) for t in every.records]
    kept = [(t["steps"][0]["observation"], t["instruction"]) for t in apart.records]
    assert kept == [begin for begin in begins if begin not in asked] and len(kept) < len(begins)
    assert f"{len(begins) - len(kept)} left out, since the panel asks for it" in apart.err
    few = run(*args, "--per-goal", 2, "--per-trajectory", 9).ok().records
    goals = [t["instruction"] for t in few]
    origins = [t["origin"] for t in few]
    assert max(map(goals.count, goals)) == 2 and max(map(origins.count, origins)) <= 9
    assert [t["id"] for t in every.records if t["id"] in {f["id"] for f in few}] == [t["id"] for t in few]


def test_what_a_policy_does_later_is_a_path_too(tmp_path):
    drawn = run("expert", "house", "-n", 3, "-q").ok().out
    branched = run("branch", "-k", 2, "--from", "admissible", "-q", stdin=drawn).ok().out
    executed = run("rollout", "-j", 1, "-q", stdin=branched).ok().out
    followed = run("follow", "-m", "random", "--steps", 4, "-q", stdin=executed).ok()
    (trajectory, *_) = followed.records
    lengths = {len(path.actions) for path in paths_of(trajectory)}
    assert max(lengths) > len(trajectory["steps"])
    assert len(list(paths_of(trajectory, first=0))) == len(trajectory["steps"])


def test_a_path_that_does_not_hold_is_kept_with_the_evidence(tmp_path):
    rejects = tmp_path / "rejects"
    demonstrations = run("expert", "test_relabel:Lying", "-n", 2, "-q").ok().out
    result = run("relabel", "-j", 1, "--env", "test_relabel:Lying", "--rejects", rejects, stdin=demonstrations).ok()
    assert "refused" in result.err
    reasons = {reject["error"].split(":")[0] for reject in read(rejects)}
    assert "the environment has no such task" in reasons
    assert reasons <= {"the environment has no such task", "its last action does not solve the task"}
    for reject in read(rejects):
        assert reject["set_aside"] is False and reject["evidence"]["actions"] and reject["evidence"]["task"]


def test_an_environment_that_cannot_say_is_named(tmp_path):
    demonstrations = run("expert", "exec:sh examples/safe.sh", "-n", 1, "-q").ok().out
    result = run("relabel", "-j", 1, "--env", "exec:sh examples/safe.sh", stdin=demonstrations)
    assert result.code == 2 and "does not say what actions achieve" in result.err
