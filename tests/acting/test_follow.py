"""`eexp follow`: what a policy does after an alternative equals a replay of the same actions."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest
from running import ROOT, read, run, write
from small_worlds import searchqa_spec, travelplanner_spec

from eexp.envs import open_env
from eexp.envs.worlds.house import House
from eexp.records.outcomes import finishes, takes_longer


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the file of three executed trajectories of `house` and how it was made, as a path."""
    directory = tmp_path_factory.mktemp("follow")
    expert, branched, executed = (directory / name for name in ("expert", "branched", "executed"))
    run("expert", "house", "-n", 3, "-q", "-o", expert).ok()
    run("branch", "-k", 2, "--no-only-admissible", "-m", "tiny", "--threads", 1, "-q", expert, "-o", branched).ok()
    run("rollout", "-q", branched, "-o", executed).ok()
    return executed


def alternatives(file):
    return [
        (t, i, a) for t in read(file) for i, step in enumerate(t["steps"]) for a in step["alternatives"] if a["outcome"]
    ]


def replayed(env, trajectory: dict, i: int, alternative: dict) -> list[dict]:
    """Return the outcomes of the actions after an alternative, by walking all of them from the task's beginning."""
    env.reset(trajectory["task"])
    for step in trajectory["steps"][:i]:
        env.step(step["action"])
    assert env.step(alternative["action"]).outcome() == alternative["outcome"]
    return [env.step(step["action"]).outcome() for step in alternative["then"]]


@pytest.mark.parametrize("policy", ["expert", "random", "tiny"])
def test_it_equals_a_replay_of_the_same_actions(executed, tmp_path, policy):
    model = ["-m", policy, *(("--threads", 1, "--max-tokens", 12) if policy == "tiny" else ())]
    run("follow", *model, "--steps", 4, executed, "-q", "-o", tmp_path / "out").ok()
    followed = alternatives(tmp_path / "out")
    assert len(followed) == len(alternatives(executed))
    assert sum(len(a["then"]) for _, _, a in followed) > 3 * len(followed)
    with open_env("house") as env:
        for trajectory, i, alternative in followed:
            then = [
                {key: step[key] for key in step if key not in ("action", "thought")} for step in alternative["then"]
            ]
            assert then == replayed(env, trajectory, i, alternative)


@pytest.mark.slow
@pytest.mark.parametrize("env", ["textcraft", "babyai", "exec:sh examples/safe.sh", "noisy:0.2:house"])
def test_it_equals_a_replay_in_other_environments(tmp_path, env):
    check(tmp_path, env, ("--from", "admissible"), "expert")


ENGINE = ("--threads", 1, "--max-tokens", 12, "--context", 8192)
WRITTEN = ("-m", "tiny", *ENGINE, "--no-only-admissible")


def test_it_equals_a_replay_in_searchqa(tmp_path):
    check(tmp_path, searchqa_spec(tmp_path), "search[Bodmin]", "tiny")


def test_it_equals_a_replay_in_travelplanner(tmp_path):
    check(tmp_path, f"{travelplanner_spec(tmp_path)}/train.csv", "go on", "tiny")


@pytest.mark.long
def test_it_equals_a_replay_in_tau(tmp_path):
    check(tmp_path, f"tau?path={ROOT / 'tests' / 'tau_checkout'}&domain=library", WRITTEN, "tiny")


@pytest.mark.long
@pytest.mark.skipif(not find_spec("bfcl_eval"), reason="needs the package bfcl_eval")
def test_it_equals_a_replay_in_bfcl(tmp_path):
    check(tmp_path, "bfcl", WRITTEN, "tiny")


@pytest.mark.long
@pytest.mark.skipif(not find_spec("textworld"), reason="needs the package textworld")
def test_it_equals_a_replay_in_textworld(tmp_path, textworld_games):
    check(tmp_path, f"textworld?games={textworld_games}", ("--from", "admissible"), "expert")


@pytest.mark.long
@pytest.mark.skipif(not find_spec("alfworld"), reason="needs the package alfworld")
def test_it_equals_a_replay_in_alfworld(tmp_path, alfworld_games):
    check(tmp_path, f"alfworld?data={alfworld_games}", ("--from", "admissible"), "random")


@pytest.mark.long
@pytest.mark.skipif(not find_spec("scienceworld"), reason="needs the package scienceworld")
@pytest.mark.skipif(not shutil.which("java"), reason="needs Java")
def test_it_equals_a_replay_in_scienceworld(tmp_path):
    check(tmp_path, "scienceworld", ("--from", "admissible"), "random")


@pytest.mark.long
def test_it_equals_a_replay_in_appworld(tmp_path, appworld_spec):
    check(tmp_path, appworld_spec, WRITTEN, "tiny")


def check(directory, env: str, branch: tuple | str, policy: str) -> None:
    """Follow an alternative of each state of a path, and compare with a replay of its actions from the beginning.

    The alternatives are the action `branch`, or those of `eexp branch` with these arguments.
    """
    expert, branched, executed = (directory / name for name in ("expert", "branched", "executed"))
    run("expert", env, "-n", 1, "--max-steps", 6, "--all", "-q", "-o", expert).ok()
    if isinstance(branch, str):
        (trajectory,) = read(expert)
        steps = [{**step, "alternatives": [{"action": branch, "source": "policy"}]} for step in trajectory["steps"]]
        write(branched, [{**trajectory, "steps": steps}])
    else:
        run("branch", "-k", 1, *branch, expert, "-q", "-o", branched).ok()
    own = ("--env", env)
    run("rollout", *own, "-q", branched, "-o", executed).ok()
    engine = ENGINE if policy == "tiny" else ()
    run("follow", *own, "-m", policy, *engine, "--steps", 3, "-q", executed, "-o", directory / "out").ok()
    followed = alternatives(directory / "out")
    assert any(a["then"] for _, _, a in followed)
    with open_env(env) as world:
        for trajectory, i, alternative in followed:
            then = [
                {key: step[key] for key in step if key not in ("action", "thought")} for step in alternative["then"]
            ]
            assert then == replayed(world, trajectory, i, alternative)


def test_the_number_of_environments_changes_nothing(executed, tmp_path):
    for number in (1, 7):
        run("follow", "-m", "random", "--parallel", number, executed, "-q", "-o", tmp_path / str(number)).ok()
    assert (tmp_path / "1").read_bytes() == (tmp_path / "7").read_bytes()


def test_an_alternative_that_leads_elsewhere_is_refused(executed, tmp_path):
    records = read(executed)
    records[0]["steps"][1]["alternatives"][0]["outcome"]["observation"] = "A door."
    changed = write(tmp_path / "changed", records)
    rejects = tmp_path / "rejects"
    result = run("follow", "-m", "expert", "--rejects", rejects, changed)
    assert result.code == 4 and "and 'A door.' was recorded" in result.err
    (reject,) = read(rejects)
    assert reject["field"] == "$.steps[1]" and reject["evidence"]["recorded"] == "A door."
    shown = run("show", rejects).ok().out.decode()
    assert "reject of follow" in shown and "recorded: A door." in shown
    written = [a for t in result.records for step in t["steps"] for a in step["alternatives"]]
    assert sum("then" not in a for a in written if a["outcome"]) == 1 and len(result.records) == len(records)


class Forgetful(House):
    """A house whose expert knows no action after the first two of an episode."""

    spec = "test_follow:Forgetful"

    def reset(self, task):
        self.taken = 0
        return super().reset(task)

    def step(self, action):
        self.taken += 1
        return super().step(action)

    def expert(self):
        return super().expert() if self.taken < 2 else None


def test_an_expert_that_knows_no_action_ends_it(executed, tmp_path):
    result = run("follow", "--env", Forgetful.spec, executed, "-o", tmp_path / "out").ok()
    assert "to where the expert knows no action" in result.err
    followed = alternatives(tmp_path / "out")
    assert all(len(a["then"]) == max(0, 1 - i) for _, i, a in followed if not a["outcome"]["done"])


def test_followed_alternatives_are_left_as_they_are(executed, tmp_path):
    run("follow", "-m", "random", "--steps", 2, executed, "-q", "-o", tmp_path / "once").ok()
    again = run("follow", "-m", "random", "--steps", 3, tmp_path / "once").ok()
    assert "followed before" in again.err and "success" not in again.err
    assert [a["then"] for *_, a in alternatives(tmp_path / "once")] == [
        a["then"] for t in again.records for s in t["steps"] for a in s["alternatives"] if a["outcome"]
    ]
    anew = run("follow", "-m", "random", "--steps", 3, "--again", tmp_path / "once").ok().records
    assert max(len(a["then"]) for t in anew for s in t["steps"] for a in s["alternatives"] if a["outcome"]) == 3


def test_a_detour_is_worse_and_a_short_cut_is_not(executed, tmp_path):
    run("follow", "-m", "expert", executed, "-q", "-o", tmp_path / "out").ok()
    preferences = read_ids(run("preference-data", "-q", tmp_path / "out").ok().records)
    known = read_ids(run("preference-data", "-q", executed).ok().records)
    assert set(known.values()) <= {"refused", "unchanged", "score"} and len(preferences) > len(known)
    assert set(preferences.values()) - set(known.values()) == {"later"}
    later = run("preference-data", "-q", "--worse", "later", tmp_path / "out").ok().records
    assert later and {p["worse"] for p in later} == {"later"}


def read_ids(records: list[dict]) -> dict[str, str]:
    return {record["id"]: record["worse"] for record in records}


WIN, ON = ({"observation": "x", "done": done, "success": done} for done in (True, False))
LOST = {"observation": "x", "done": True, "success": False}


@pytest.mark.parametrize(
    ("outcome", "then", "expected"),
    [
        (ON, [ON, WIN], False),  # as long as the expert's path of three actions
        (ON, [ON, ON, WIN], True),
        (ON, [WIN], False),
        (WIN, [], False),
        (LOST, [], True),
        (ON, [LOST], True),
        (ON, [ON], False),  # not followed as far as the expert's path goes
        (ON, [ON, ON], True),
        (ON, None, False),
    ],
)
def test_what_takes_longer(outcome, then, expected):
    steps = [{"observation": "a", "action": "b"}, {"observation": "a", "action": "c", "mistake": True}] + [
        {"observation": "a", "action": "d"}
    ] * 2
    trajectory = {"steps": steps, "outcome": WIN}
    assert takes_longer(trajectory, 0, {"action": "e", "outcome": outcome, "then": then}) is expected
    assert not takes_longer({**trajectory, "outcome": LOST}, 0, {"action": "e", "outcome": LOST, "then": []})
    assert finishes(WIN) and not finishes(ON)
