"""`eexp reward`: rewards of single turns, and a policy update that uses them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from own_episodes import episode, weights
from running import read, run, write
from test_correct import expert_way

from eexp.envs import open_env


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Return the file of episodes of `house`: some played at random, some by the expert."""
    directory = tmp_path_factory.mktemp("reward")
    for policy in ("random", "expert"):
        run("eval", "house", "-m", policy, "-n", 5, "--max-steps", 12, "-q", "-o", directory / policy).ok()
    return write(directory / "episodes", read(directory / "random") + read(directory / "expert"))


def test_progress_is_by_how_many_actions_the_end_is_nearer(episodes):
    rewarded = run("reward", episodes).ok().records
    assert len(rewarded) == 10
    with open_env("house") as env:
        for e in rewarded:
            actions = [turn["action"] for turn in e["transcript"]]
            ways = [expert_way(env, e["task"], actions[:i]) for i in range(len(actions) + 1)]
            lengths = [len(way) for way in ways if way is not None]
            assert len(lengths) == len(ways)
            nearer = [before - after for before, after in pairwise(lengths)]
            assert [turn["reward"] for turn in e["transcript"]] == [max(-1, min(1, number)) for number in nearer]
    assert all(turn["reward"] == 1 for e in rewarded[5:] for turn in e["transcript"])
    assert {0, -1} <= {turn["reward"] for e in rewarded[:5] for turn in e["transcript"]}


def test_similarity_is_that_to_the_expert_s_action(episodes):
    rewarded = run("reward", "--by", "similarity", episodes).ok().records
    assert all(turn["reward"] == 1 for e in rewarded[5:] for turn in e["transcript"])
    turns = [turn for e in rewarded[:5] for turn in e["transcript"]]
    assert all(0 <= turn["reward"] <= 1 for turn in turns) and len({turn["reward"] for turn in turns}) > 5


def test_an_episode_keeps_all_else(episodes):
    for before, after in zip(read(episodes), run("reward", episodes).ok().records):
        bare = [{key: value for key, value in turn.items() if key != "reward"} for turn in after["transcript"]]
        assert {**after, "transcript": bare, "lineage": before["lineage"]} == before


def test_turn_rewards_are_added_and_their_mean_taken_off():
    one = episode("a", 0, True, (True, True))
    two = episode("a", 1, False, (True, False))
    for e, rewards in ((one, (1.0, 0.0)), (two, (0.0, -1.0))):
        for turn, reward in zip(e["transcript"], rewards):
            turn["reward"] = reward
    made = weights([one, two], turn_rewards=2.0)
    assert made == pytest.approx({"a/0/0": 2.5, "a/0/1": 0.5, "a/1/0": -0.5, "a/1/1": -2.5})
    alike = weights([{**one, "success": False}, two], turn_rewards=1.0)
    assert alike == pytest.approx({"a/0/0": 1.0, "a/1/1": -1.0})
    both = weights([one, two], turn_rewards=2.0, refused=0.4)
    assert both["a/1/1"] == pytest.approx(-2.5 - 0.4 * 3 / 4)


def test_turns_without_rewards_are_refused(tmp_path):
    file = write(tmp_path / "episodes", [episode("a", 0, True), episode("a", 1, False)])
    run("policy-data", "--turn-rewards", 1, file).one_error(3, "$.transcript[0]", "eexp reward")
